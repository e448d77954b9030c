"""Sizes of clips in pixels and seconds to sizes in latents, without torch, so that a plan needs none.

A causal video VAE keeps frame 0 alone and folds every following group of `temporal` frames into one latent frame, so
clips have `temporal * k + 1` frames. Audio latents come at `sample_rate_hz / hop_length / mel_per_latent` per second.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dubmill.errors import InvalidParamsError


@dataclass(frozen=True)
class Geometry:
    """Compression ratios and widths of one backbone, computed from its configs."""

    temporal: int  # frames per latent frame, after the first
    spatial: int  # pixels per latent, along each side
    video_channels: int
    audio_channels: int  # numbers per audio latent: channels x mel bins of the latent
    sample_rate_hz: int  # of the audio VAE's input
    output_sample_rate_hz: int  # of the vocoder's output
    hop_length: int  # samples per mel frame
    mel_per_latent: int  # mel frames per audio latent
    audio_in_channels: int  # waveform channels: 1 mono, 2 stereo

    @property
    def audio_latents_per_second(self) -> float:
        """Audio latents per second of audio."""
        return self.sample_rate_hz / self.hop_length / self.mel_per_latent

    def to_dict(self) -> dict[str, int]:
        """Returns plain data for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class LatentShape:
    """Latent extents of one clip: video frames, rows, columns and audio latents."""

    frames: int
    height: int
    width: int
    audio: int

    @property
    def video_tokens(self) -> int:
        """Video tokens of the transformer (patch size 1)."""
        return self.frames * self.height * self.width


def latent_frames(num_frames: int, temporal: int) -> int:
    """Returns the latent frames of a clip of `num_frames`, which must be `temporal * k + 1`.

    Raises:
        InvalidParamsError: `num_frames` is another number.
    """
    if num_frames < 1 or (num_frames - 1) % temporal:
        below = max(1, (num_frames - 1) // temporal * temporal + 1)
        raise InvalidParamsError(
            f"{num_frames} frames do not fit a {temporal}x temporal compression",
            cure=f"use {below} or {below + temporal} frames ({temporal}k+1)",
        )
    return (num_frames - 1) // temporal + 1


def pixel_frames(num_latents: int, temporal: int) -> int:
    """Returns the number of frames that `num_latents` latent frames decode to."""
    return (num_latents - 1) * temporal + 1


def latent_of_frame(frame: int, temporal: int) -> int:
    """Returns the index of the latent that holds `frame`: 0 holds frame 0 alone, i >= 1 holds frames temporal*(i-1)+1 ... temporal*i."""
    return -(-frame // temporal)


def frames_of_latent(index: int, temporal: int) -> range:
    """Returns the frames that latent `index` holds; the inverse of `latent_of_frame`."""
    return range(0, 1) if index == 0 else range(temporal * (index - 1) + 1, temporal * index + 1)


def audio_latents(seconds: float, geometry: Geometry) -> int:
    """Returns the number of audio latents for `seconds`, rounded as in LTX-2's pipelines."""
    return round(seconds * geometry.audio_latents_per_second)


def latent_shape(*, num_frames: int, height: int, width: int, frame_rate: float, geometry: Geometry) -> LatentShape:
    """Returns the latent extents of a clip given in pixels.

    Raises:
        InvalidParamsError: a side does not divide by the spatial ratio, or the frames do not fit.
    """
    for name, side in (("height", height), ("width", width)):
        if side % geometry.spatial:
            raise InvalidParamsError(
                f"{name} {side} does not divide by {geometry.spatial}", cure="crop or pad the clip first"
            )
    return LatentShape(
        frames=latent_frames(num_frames, geometry.temporal),
        height=height // geometry.spatial,
        width=width // geometry.spatial,
        audio=audio_latents(num_frames / frame_rate, geometry),
    )


def half_frames(num_frames: int, temporal: int) -> int:
    """Returns the number of frames of each half of a clip with a language switch; the halves share the middle frame, so both are `temporal * k + 1`.

    Raises:
        InvalidParamsError: the halves would not begin and end on latent borders.
    """
    half = (num_frames - 1) // 2 + 1
    latent_frames(num_frames, temporal)
    if (num_frames - 1) % 2 or (half - 1) % temporal:
        step = 2 * temporal
        below = max(1, (num_frames - 1) // step * step + 1)
        raise InvalidParamsError(
            f"a switch clip of {num_frames} frames has no halves on latent borders",
            cure=f"use {below} or {below + step} frames ({step}k+1)",
        )
    return half
