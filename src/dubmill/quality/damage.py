"""Damages a clip on purpose, so that the gate can be measured on pairs that it must reject.

Every damage takes a clip and its mouth boxes (F, 4) in pixels and returns a clip of equal size and length, unless the
length is the damage. Axes: F frames, H rows, W columns, C colours or channels, N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dubmill.media.clips import Clip, cut_or_pad

Damage = Callable[[Clip, np.ndarray], Clip]
QUIET_GAIN = 0.01  # -40 dB
CLIPPING_GAIN = 20.0
NOISE_RMS = 0.1
BLUR_RADIUS = 3  # pixels
LENGTH_CHANGE = 0.25  # share of the clip


def shifted_sound(seconds: float) -> Damage:
    """Returns a damage that delays the sound by `seconds`, or advances it where they are negative."""

    def damage(clip: Clip, _: np.ndarray) -> Clip:
        num_samples = round(abs(seconds) * clip.sample_rate_hz)
        silence_CN = np.zeros_like(clip.audio_CN[:, :num_samples])
        late_CN = np.concatenate([silence_CN, clip.audio_CN[:, : clip.audio_CN.shape[1] - num_samples]], axis=1)
        early_CN = np.concatenate([clip.audio_CN[:, num_samples:], silence_CN], axis=1)
        return replace(clip, audio_CN=late_CN if seconds > 0 else early_CN)

    return damage


def frozen_mouth(clip: Clip, mouth_boxes_F4: np.ndarray) -> Clip:
    """Returns the clip with the mouth region of its middle frame in every frame."""
    return _with_mouth_region(clip, mouth_boxes_F4, lambda mouth_FHWC: mouth_FHWC[[len(mouth_FHWC) // 2]])


def reversed_mouth(clip: Clip, mouth_boxes_F4: np.ndarray) -> Clip:
    """Returns the clip with its mouth region played backwards."""
    return _with_mouth_region(clip, mouth_boxes_F4, lambda mouth_FHWC: mouth_FHWC[::-1])


def blurred_mouth(clip: Clip, mouth_boxes_F4: np.ndarray) -> Clip:
    """Returns the clip with its mouth region blurred."""
    return _with_mouth_region(clip, mouth_boxes_F4, _blurred)


def blurred_picture(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with its whole picture blurred."""
    return replace(clip, frames_FHWC=_blurred(clip.frames_FHWC))


def grainy_picture(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with noise in its picture, with a standard deviation of a tenth of full scale."""
    noise_FHWC = np.random.default_rng(0).normal(0, 25.5, clip.frames_FHWC.shape)
    return replace(clip, frames_FHWC=np.clip(clip.frames_FHWC + noise_FHWC, 0, 255).astype(np.uint8))


def swapped_halves(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with its second half before its first."""
    frames, samples = clip.num_frames // 2, clip.audio_CN.shape[1] // 2
    return replace(
        clip, frames_FHWC=np.roll(clip.frames_FHWC, -frames, axis=0), audio_CN=np.roll(clip.audio_CN, -samples, axis=1)
    )


def backwards(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with picture and sound played backwards."""
    return replace(clip, frames_FHWC=clip.frames_FHWC[::-1], audio_CN=clip.audio_CN[:, ::-1])


def quiet(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with its sound 40 dB lower."""
    return replace(clip, audio_CN=clip.audio_CN * np.float32(QUIET_GAIN))


def silent(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with digital silence as its sound."""
    return replace(clip, audio_CN=np.zeros_like(clip.audio_CN))


def clipped(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with its sound amplified far beyond full scale."""
    return replace(clip, audio_CN=np.clip(clip.audio_CN * np.float32(CLIPPING_GAIN), -1, 1))


def noisy(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip with white noise, as loud as speech, added to its sound."""
    noise_CN = np.random.default_rng(0).normal(0, NOISE_RMS, clip.audio_CN.shape)
    return replace(clip, audio_CN=np.clip(clip.audio_CN + noise_CN, -1, 1).astype(np.float32))


def short_sound(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip without the last quarter of its sound."""
    return replace(clip, audio_CN=clip.audio_CN[:, : round((1 - LENGTH_CHANGE) * clip.audio_CN.shape[1])])


def long_clip(clip: Clip, _: np.ndarray) -> Clip:
    """Returns the clip a quarter longer: the last frame is held, with silence."""
    num_frames = round((1 + LENGTH_CHANGE) * clip.num_frames)
    held_FHWC = np.repeat(clip.frames_FHWC[-1:], num_frames - clip.num_frames, axis=0)
    longer = replace(clip, frames_FHWC=np.concatenate([clip.frames_FHWC, held_FHWC]))
    return replace(longer, audio_CN=cut_or_pad(clip.audio_CN, round(longer.seconds * clip.sample_rate_hz)))


def _blurred(frames_FHWC: np.ndarray) -> np.ndarray:
    """Returns the frames after a box blur over (2 BLUR_RADIUS + 1) pixels in both directions, edges repeated."""
    reach = range(-BLUR_RADIUS, BLUR_RADIUS + 1)
    blurred_FHWC = frames_FHWC.astype(np.float64)
    for axis in (1, 2):
        size = frames_FHWC.shape[axis]
        shifts = [np.clip(np.arange(size) + shift, 0, size - 1) for shift in reach]
        blurred_FHWC = np.mean([np.take(blurred_FHWC, indices, axis=axis) for indices in shifts], axis=0)
    return blurred_FHWC.round().astype(np.uint8)


def _with_mouth_region(clip: Clip, mouth_boxes_F4: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> Clip:
    """Returns `clip` with `change` applied to the region around all its mouth boxes."""
    height, width = clip.frames_FHWC.shape[1:3]
    x0, y0, x1, y1 = (*mouth_boxes_F4[:, :2].min(axis=0), *mouth_boxes_F4[:, 2:].max(axis=0))
    rows = slice(max(0, int(y0)), min(height, int(np.ceil(y1))))
    columns = slice(max(0, int(x0)), min(width, int(np.ceil(x1))))
    frames_FHWC = clip.frames_FHWC.copy()
    frames_FHWC[:, rows, columns] = change(clip.frames_FHWC[:, rows, columns])
    return replace(clip, frames_FHWC=frames_FHWC)


CLIP_DAMAGES: dict[str, Damage] = {
    "sound_late_80_ms": shifted_sound(0.08),
    "sound_late_120_ms": shifted_sound(0.12),
    "sound_late_200_ms": shifted_sound(0.2),
    "sound_early_80_ms": shifted_sound(-0.08),
    "sound_early_120_ms": shifted_sound(-0.12),
    "mouth_frozen": frozen_mouth,
    "mouth_backwards": reversed_mouth,
    "mouth_blurred": blurred_mouth,
    "picture_blurred": blurred_picture,
    "picture_grainy": grainy_picture,
    "halves_swapped": swapped_halves,
    "backwards": backwards,
    "sound_quiet": quiet,
    "sound_silent": silent,
    "sound_clipped": clipped,
    "sound_noisy": noisy,
    "sound_short": short_sound,
    "clip_long": long_clip,
}
"""Name -> damage that needs nothing but the clip."""
