"""Scorers that calculate from pixels and samples, and small clips made for them."""

from fractions import Fraction

import numpy as np

from dubmill.media.clips import Clip

BOXES = np.tile([4.0, 4.0, 8.0, 8.0], (5, 1))


def plain_clip(frames_FHWC=None, audio_CN=None, *, rate=Fraction(25, 2), sample_rate_hz=16_000):
    frames = np.zeros((5, 16, 16, 3), np.uint8) if frames_FHWC is None else frames_FHWC
    silence = np.zeros((1, round(len(frames) / rate * sample_rate_hz)), np.float32)
    return Clip(frames, rate, silence if audio_CN is None else audio_CN, sample_rate_hz)


class PlainScorers:
    """Scorers that read pixels and samples: the mouth is as open as its box is bright, the voice is the mean sample."""

    missing = {}

    def troubles(self, frames_FHWC, audio_N):
        return []

    def prepare(self, frames_FHWC, audio_N):
        pass

    def words(self, audio_N):
        return [("es", "uno"), ("en", "three")] if np.any(audio_N) else []

    def voice(self, audio_N):
        return np.array([np.mean(audio_N), 1.0])

    def identity(self, frames_FHWC):
        return frames_FHWC[:, 0].mean(axis=(0, 1)) + 1.0

    def mouth(self, frames_FHWC):
        opening = frames_FHWC[:, 4:8, 4:8].mean(axis=(1, 2, 3)) / 255
        return np.column_stack([opening, np.tile(BOXES[0], (len(opening), 1))])

    def speech_opening(self, audio_N, num_frames, frame_rate):
        return np.array([np.abs(part).mean() for part in np.array_split(audio_N, num_frames)])

    def sync_distances(self, frames_FHWC, audio_N, frame_rate):
        return np.array([3.0, 1.0, 4.0])


def talking(openings, gain=0.5):
    frames = np.zeros((len(openings), 16, 16, 3), np.uint8)
    frames[:, 4:8, 4:8] = (np.asarray(openings) * 255).astype(np.uint8)[:, None, None, None]
    frames[:, 5, 4:8, 2] = 0  # lips have edges
    loudness = np.repeat(openings, 1280)
    return plain_clip(frames, (gain * loudness * np.sign(np.sin(np.arange(len(loudness))))).astype(np.float32)[None])
