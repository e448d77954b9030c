"""Similarity of two embeddings: the same face (the field's CSIM), the same voice (the field's V-Sim)."""

from __future__ import annotations

import numpy as np


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the cosine of two vectors in [-1, 1]; 0 where either is a zero vector (no face, no voice)."""
    a, b = (np.asarray(vector, dtype=np.float64).ravel() for vector in (first, second))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else 0.0
