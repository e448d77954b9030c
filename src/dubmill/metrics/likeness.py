"""Similarity of two embeddings: the same face (the field's CSIM), the same voice (the field's V-Sim)."""

from __future__ import annotations

import numpy as np


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the cosine of two vectors in [-1, 1]; 0 where either is a zero vector (no face, no voice).

    NaN where either has a NaN: it was not measured.
    """
    a, b = (np.asarray(vector, dtype=np.float64).ravel() for vector in (first, second))
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else 0.0


def likeness(dub: np.ndarray, source: np.ndarray) -> float:
    """Returns the cosine of a dub's face or voice and the source's; NaN where the source has none."""
    return cosine(dub, source) if np.any(source) else float("nan")
