"""Is it the same face?"""

from __future__ import annotations

import numpy as np


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors in [-1, 1]; a zero vector (no face, no voice) is like nothing: 0 by definition."""
    a, b = (np.asarray(one, dtype=np.float64).ravel() for one in (first, second))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else 0.0


def identity_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Likeness of two faces, as the scorers' vectors have it (CSIM of the field, with their own embedding)."""
    return cosine(first, second)
