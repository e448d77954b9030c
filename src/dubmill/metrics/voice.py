"""Is it the same voice?"""

from __future__ import annotations

import numpy as np

from dubmill.metrics.identity import cosine


def voice_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Likeness of two voices, as the scorers' vectors have it (V-Sim of the field, with their own embedding)."""
    return cosine(first, second)
