"""One folder for each word of the line: a thin KFP component around the step of the same name."""

import os

from dubmill import __version__

# On a cluster name images by digest: KFP's cache key holds this string, so a tag that moved would give old results.
IMAGE = os.environ.get("DUBMILL_IMAGE", f"dubmill/tools:{__version__}-cpu")
GPU_IMAGE = os.environ.get("DUBMILL_GPU_IMAGE", f"dubmill/gpu:{__version__}-cuda")  # for tasks on GPU nodes
