"""`python -m dubmill.serving --backbone DIR --release DIR`."""

from dubmill.serving import main

raise SystemExit(main())
