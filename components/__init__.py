"""One folder per word of the line: a thin KFP component around the step of the same name."""

import os

IMAGE = os.environ.get("DUBMILL_IMAGE", "dubmill/tools:0.1.0-cpu")  # by digest on a cluster: KFP caches by this string
GPU_IMAGE = os.environ.get("DUBMILL_GPU_IMAGE", "dubmill/gpu:0.1.0-cuda")  # what GPU pools run instead
