"""Still pictures of a clip, time from left to right: frames in a row, mouth close-ups, a spectrogram.

Legend: F frames, H rows, W columns, C colours, N samples, T spectrum columns, K frequency bins.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from dubmill.media.clips import Clip

NUM_FRAMES = 13  # in a row at most; of longer clips, evenly spaced ones
FACE_PIXELS = 64  # height of a frame in the strip; the page enlarges it without smoothing
MOUTH_PIXELS = 40
WINDOW, BINS = 512, 96
FLOOR_DB = -80.0


def data_uri(data: bytes, kind: str) -> str:
    """Returns `data` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def sampled(num_frames: int) -> np.ndarray:
    """Returns the indices of the frames that a strip shows; the first and the last are among them."""
    return np.unique(np.linspace(0, num_frames - 1, min(num_frames, NUM_FRAMES)).round().astype(int))


def contact_sheet(clip: Clip, mouth_boxes_F4: np.ndarray) -> str:
    """Returns frames in a row over close-ups of the mouth, with one crop for all frames, as a WebP data URI."""
    frames_FHWC = clip.frames_FHWC[sampled(clip.num_frames)]
    faces = _row(frames_FHWC, FACE_PIXELS, FACE_PIXELS * clip.frames_FHWC.shape[2] // clip.frames_FHWC.shape[1])
    box = _mouth_crop(mouth_boxes_F4, clip.frames_FHWC.shape[1:3])
    if box is None:
        return _webp(faces)
    x0, y0, x1, y1 = box
    width = faces.shape[1] // len(frames_FHWC)
    return _webp(np.concatenate([faces, _row(frames_FHWC[:, y0:y1, x0:x1], MOUTH_PIXELS, width)]))


def poster(clip: Clip) -> str:
    """Returns the middle frame as a WebP data URI."""
    frame_1HWC = clip.frames_FHWC[clip.num_frames // 2][None]
    height, width = frame_1HWC.shape[1:3]
    scale = max(1, min(256 // height, 256 // width))
    return _webp(_row(frame_1HWC, height * scale, width * scale))


def _row(frames_FHWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns (height, F * width, C): frames side by side, enlarged by nearest pixel, reduced by area."""
    shrinks = frames_FHWC.shape[1] > height
    how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    tiles = [np.asarray(Image.fromarray(frame).resize((width, height), how)) for frame in frames_FHWC]
    return np.concatenate(tiles, axis=1)


def _mouth_crop(boxes_F4: np.ndarray, sides: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Returns x0, y0, x1, y1 around all mouths with a margin, in the strip's aspect ratio; None without any mouth."""
    known_F4 = boxes_F4[np.isfinite(boxes_F4).all(axis=1)] if boxes_F4.size else boxes_F4
    if not len(known_F4):
        return None
    (x0, y0), (x1, y1) = known_F4[:, :2].min(axis=0), known_F4[:, 2:].max(axis=0)
    height = max((y1 - y0) * 1.3, (x1 - x0) * 1.3 * MOUTH_PIXELS / FACE_PIXELS, 4)
    width = height * FACE_PIXELS / MOUTH_PIXELS
    left, top = (x0 + x1 - width) / 2, (y0 + y1 - height) / 2
    crop = (max(0, left), max(0, top), min(sides[1], left + width), min(sides[0], top + height))
    x0, y0, x1, y1 = (round(float(side)) for side in crop)
    return (x0, y0, x1, y1) if x1 - x0 >= 2 and y1 - y0 >= 2 else None


def spectrogram(audio_N: np.ndarray, sample_rate_hz: int, *, columns: int = 416) -> str:
    """Returns the level in dB by time and frequency (0 to half the rate, low at the bottom), as a WebP data URI."""
    from matplotlib import colormaps

    power_TK = _power(audio_N, columns)
    level_TK = 10 * np.log10(np.maximum(power_TK, 1e-12))
    unit_TK = np.clip((level_TK - FLOOR_DB) / -FLOOR_DB, 0, 1)
    rgb_KTC = (colormaps["magma"](unit_TK.T[::-1])[..., :3] * 255).round().astype(np.uint8)
    return _webp(rgb_KTC)


def _power(audio_N: np.ndarray, columns: int) -> np.ndarray:
    """Returns (T, K): power of evenly spaced Hann windows; a full-scale sine is near 1."""
    padded_N = np.pad(audio_N.astype(np.float64), WINDOW // 2)
    starts = np.linspace(0, len(padded_N) - WINDOW, columns).round().astype(int)
    windows_TN = padded_N[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power_TK = np.abs(np.fft.rfft(windows_TN, axis=1) / (WINDOW / 4)) ** 2
    edges = np.linspace(0, power_TK.shape[1], BINS + 1).round().astype(int)
    return np.stack([power_TK[:, a:b].max(axis=1) for a, b in zip(edges[:-1], edges[1:], strict=True)], axis=1)


def _webp(rgb_HWC: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb_HWC)).save(stream, "WEBP", quality=82, method=4)
    return data_uri(stream.getvalue(), "image/webp")
