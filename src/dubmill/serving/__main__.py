"""`python -m dubmill.serving --backbone DIR --release DIR`."""

from dubmill.serving.server import main

raise SystemExit(main())
