"""One folder per word of the line: a thin KFP component around the step of the same name."""

import os

IMAGE = os.environ.get("DUBMILL_IMAGE", "ghcr.io/dubmill/dubmill:0.1.0")  # pin by digest: KFP caches by this string
