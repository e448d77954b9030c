"""The function of scipy.stats that a benchmark uses, with types, which scipy's own lacks."""

import numpy as np

def kendalltau(x: np.ndarray, y: np.ndarray) -> tuple[float, float]: ...
