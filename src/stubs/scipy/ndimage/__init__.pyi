"""The function of scipy.ndimage that a benchmark uses, with types, which scipy's own lacks."""

from collections.abc import Sequence

import numpy as np

def gaussian_filter(input: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray: ...
