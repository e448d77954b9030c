"""Spectra of speech as the measuring models were trained on them; NumPy only.

Axes: N samples at 16 kHz, T frames of 10 ms, K frequencies, M bands.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SAMPLE_RATE_HZ = 16_000
HOP, WINDOW, FFT = 160, 400, 512
NUM_CEPSTRA, NUM_MFCC_BANDS, PRE_EMPHASIS, LIFTER = 13, 26, 0.97, 22


def overlapping_pieces(audio_N: np.ndarray, *, width: int = WINDOW, hop: int = HOP) -> np.ndarray:
    """(T, width) overlapping pieces that lie wholly inside the sound, padded with silence to one piece at least."""
    padded_N = np.pad(audio_N, (0, max(0, width - len(audio_N))))
    return np.lib.stride_tricks.sliding_window_view(padded_N, width)[::hop]


@lru_cache
def slaney_filters(num_bands: int) -> np.ndarray:
    """(M, K) triangles of unit area on Slaney's mel scale from 0 to 8 kHz, as in librosa.filters.mel."""
    edges_hz = _slaney_hz(np.linspace(0, _slaney_mel(SAMPLE_RATE_HZ / 2), num_bands + 2))
    triangles_MK = _triangles(edges_hz, np.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1))
    return (triangles_MK * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).astype(np.float32)


def _slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _slaney_hz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


def _triangles(edges: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(M, K): rises from edge m to m + 1, falls to m + 2."""
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def mel_power(audio_N: np.ndarray, *, num_bands: int, window: np.ndarray) -> np.ndarray:
    """(T, M) power in each band; `window` has 400 samples and stands in the middle of the 512 of the transform."""
    side = (FFT - len(window)) // 2
    pieces_TN = overlapping_pieces(audio_N, width=FFT) * np.pad(window, side)
    return (np.abs(np.fft.rfft(pieces_TN)) ** 2).astype(np.float32) @ slaney_filters(num_bands).T


def mfcc(audio_N: np.ndarray) -> np.ndarray:
    """(T, 13) cepstra of sound in the range of 16-bit integers, the first one the log energy of the frame.

    By the definition of python_speech_features 0.6, which SyncNet's published evaluation uses: pre-emphasis 0.97, square
    windows of 25 ms, power spectrum over 512, 26 bands on the mel scale 2595 log10(1 + f / 700), orthonormal DCT-II,
    lifter 22.
    """
    from scipy.fft import dct

    emphasised_N = np.append(audio_N[:1], audio_N[1:] - PRE_EMPHASIS * audio_N[:-1]).astype(np.float64)
    num_frames = 1 + max(0, -(-(len(audio_N) - WINDOW) // HOP))
    padded_N = np.pad(emphasised_N, (0, max(0, (num_frames - 1) * HOP + WINDOW - len(audio_N))))
    power_TK = np.abs(np.fft.rfft(overlapping_pieces(padded_N), FFT)) ** 2 / FFT
    tiny = np.finfo(float).eps
    bands_TM = np.maximum(power_TK @ _htk_filters().T, tiny)
    cepstra_TC = np.asarray(dct(np.log(bands_TM), type=2, axis=1, norm="ortho"))[:, :NUM_CEPSTRA]
    cepstra_TC *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_CEPSTRA) / LIFTER)
    cepstra_TC[:, 0] = np.log(np.maximum(power_TK.sum(axis=1), tiny))
    return cepstra_TC


@lru_cache
def _htk_filters() -> np.ndarray:
    """(26, K) triangles between whole bins."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700), NUM_MFCC_BANDS + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    return _triangles(np.floor((FFT + 1) * edges_hz / SAMPLE_RATE_HZ), np.arange(FFT // 2 + 1))
