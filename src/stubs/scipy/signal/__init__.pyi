"""The functions of scipy.signal that the library and its benchmarks use, with types, which scipy's own lack."""

from collections.abc import Sequence
from typing import Any

import numpy as np

def resample_poly(x: np.ndarray, up: int, down: int, axis: int = ...) -> np.ndarray[Any, np.dtype[np.floating]]: ...
def lfilter(b: Sequence[float], a: Sequence[float], x: np.ndarray, axis: int = ...) -> np.ndarray: ...
def medfilt(volume: np.ndarray, kernel_size: int | None = ...) -> np.ndarray: ...
