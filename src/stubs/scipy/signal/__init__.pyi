"""The functions of scipy.signal that the library uses, with types, which scipy's own lack."""

from typing import Any

import numpy as np

def resample_poly(x: np.ndarray, up: int, down: int, axis: int = ...) -> np.ndarray[Any, np.dtype[np.floating]]: ...
def medfilt(volume: np.ndarray, kernel_size: int | None = ...) -> np.ndarray: ...
