"""Estimates the mouth opening from sound, by a small convolutional network trained on neural speech.

What it was trained against are openings by phoneme (`benchmarks/train_opening.py`), no filmed mouths: what is measured with
it is a proxy. NumPy only. Axes: T frames of 10 ms, M bands, C channels.
"""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load

from dubmill.errors import InvalidArtifactError
from dubmill.scorers.spectra import HOP, SAMPLE_RATE_HZ, WINDOW, mel_power

NUM_BANDS = 40
FRAME_RATE_HZ = SAMPLE_RATE_HZ / HOP
DILATIONS = (1, 2, 4, 1)  # of the convolutions in turn; the last one gives the opening
LOUD_SHARE, QUIETEST = 0.95, -5.0  # the level that counts as 0: this quantile over time, but no lower than this


def bands(audio_N: np.ndarray) -> np.ndarray:
    """(T, M) log10 power of bands against the clip's own loud parts, so that loudness does not matter."""
    power_TM = mel_power(audio_N.astype(np.float32), num_bands=NUM_BANDS, window=np.hanning(WINDOW))
    level_TM = np.log10(power_TM + 1e-8).astype(np.float32)
    return level_TM - max(QUIETEST, float(np.quantile(level_TM.mean(axis=1), LOUD_SHARE)))


class OpeningScorer:
    """The loaded network."""

    def __init__(self, model: bytes) -> None:
        """Open a safetensors file of weights `0.weight` (C_out, C_in, W), `0.bias` ... `3.bias`.

        Raises:
            InvalidArtifactError: the file has other weights.
        """
        weights = load(model)
        names = [f"{layer}.{part}" for layer in range(len(DILATIONS)) for part in ("weight", "bias")]
        if sorted(weights) != sorted(names):
            raise InvalidArtifactError(
                "not the network that tells a mouth's opening from sound", where="scorers.opening"
            )
        self._layers = [(weights[f"{at}.weight"], weights[f"{at}.bias"]) for at in range(len(DILATIONS))]

    def read(self, audio_N: np.ndarray, num_frames: int, frame_rate: float) -> np.ndarray:
        """(F,) opening 0..1 in each frame of a picture of `frame_rate`; the last value holds where the sound ends."""
        if not num_frames:
            return np.zeros(0, np.float32)
        opening_T = self.trace(bands(audio_N))
        edges = np.arange(num_frames + 1) * FRAME_RATE_HZ / frame_rate
        sums = np.concatenate([[0.0], np.cumsum(opening_T)])
        ends = np.interp(edges, np.arange(len(sums)), sums)
        opening_F = np.diff(ends) * frame_rate / FRAME_RATE_HZ
        opening_F[edges[1:] > len(opening_T)] = opening_T[-1]
        return opening_F.astype(np.float32)

    def trace(self, bands_TM: np.ndarray) -> np.ndarray:
        """(T,) opening 0..1 every 10 ms."""
        hidden_TC = bands_TM
        for layer, ((weight_OCW, bias_O), dilation) in enumerate(zip(self._layers, DILATIONS, strict=True)):
            hidden_TC = _convolved(hidden_TC, weight_OCW, dilation) + bias_O
            if layer < len(DILATIONS) - 1:
                hidden_TC = np.maximum(hidden_TC, 0)
        return 1 / (1 + np.exp(-hidden_TC[:, 0]))


def _convolved(hidden_TC: np.ndarray, weight_OCW: np.ndarray, dilation: int) -> np.ndarray:
    """(T, O) a convolution over time, with silence before and after."""
    width = weight_OCW.shape[2]
    reach = dilation * (width - 1) // 2
    padded = np.pad(hidden_TC, ((reach, reach), (0, 0)))
    taps = (padded[at * dilation : at * dilation + len(hidden_TC)] @ weight_OCW[:, :, at].T for at in range(width))
    return np.sum(list(taps), axis=0)
