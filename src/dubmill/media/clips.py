"""A clip in memory: frames and sound, and its bytes without loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from safetensors.numpy import load, save

from dubmill.errors import InvalidArtifactError


@dataclass(frozen=True)
class Clip:
    """Frames (F, H, W, 3) uint8 at `frame_rate` per second; sound (C, N) float32 in [-1, 1] at `sample_rate_hz`."""

    frames_FHWC: np.ndarray
    frame_rate: Fraction
    audio_CN: np.ndarray
    sample_rate_hz: int

    @property
    def num_frames(self) -> int:
        """Frames in the clip."""
        return len(self.frames_FHWC)

    @property
    def seconds(self) -> float:
        """Length of the picture track."""
        return float(self.num_frames / self.frame_rate)

    @property
    def mono_N(self) -> np.ndarray:
        """The sound as one channel (N,), the mean of all."""
        return self.audio_CN.mean(axis=0)

    def cut(self, start: int, stop: int) -> Clip:
        """Frames `start` up to `stop`, with the sound of exactly that time."""
        first, last = (round(frame / self.frame_rate * self.sample_rate_hz) for frame in (start, stop))
        return replace(
            self, frames_FHWC=self.frames_FHWC[start:stop], audio_CN=cut_or_pad(self.audio_CN[:, first:], last - first)
        )

    def lasting(self, num_frames: int) -> Clip:
        """`num_frames` of it: the rest cut off, or the last frame held in silence."""
        short = num_frames - self.num_frames
        if short <= 0:
            return self.cut(0, num_frames)
        held = np.repeat(self.frames_FHWC[-1:], short, axis=0)
        longer = replace(self, frames_FHWC=np.concatenate([self.frames_FHWC, held]))
        return longer.with_audio(self.audio_CN)

    def with_audio(self, audio_CN: np.ndarray) -> Clip:
        """The same picture under other sound, cut or padded with silence to the picture's length."""
        return replace(self, audio_CN=cut_or_pad(audio_CN, round(self.seconds * self.sample_rate_hz)))

    def to_bytes(self) -> bytes:
        """Lossless bytes; equal clips give equal bytes."""
        arrays = {
            "frames": np.ascontiguousarray(self.frames_FHWC),
            "audio": np.ascontiguousarray(self.audio_CN, dtype=np.float32),
            "frame_rate": np.array([self.frame_rate.numerator, self.frame_rate.denominator], dtype=np.int64),
            "sample_rate_hz": np.array([self.sample_rate_hz], dtype=np.int64),
        }
        return save(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Clip:
        """The clip that `to_bytes` wrote.

        Raises:
            InvalidArtifactError: the bytes are something else.
        """
        try:
            arrays = load(data)
            rate = Fraction(*(int(part) for part in arrays["frame_rate"]))
            return cls(arrays["frames"], rate, arrays["audio"], int(arrays["sample_rate_hz"][0]))
        except (KeyError, ValueError) as error:
            raise InvalidArtifactError(f"not a stored clip ({error})", cure="make the artifact again") from error


def cut_or_pad(audio_CN: np.ndarray, num_samples: int) -> np.ndarray:
    """`audio_CN` cut, or padded with silence at its end, to `num_samples`."""
    short = num_samples - audio_CN.shape[1]
    return np.pad(audio_CN, ((0, 0), (0, short))) if short > 0 else audio_CN[:, :num_samples]
