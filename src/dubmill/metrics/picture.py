"""Picture metrics: PSNR outside the mouth box, and change inside it.

Axes: F frames, H rows, W columns, C colours. A box is (x0, y0, x1, y1) in pixels, the far edges excluded.
"""

from __future__ import annotations

import numpy as np

from dubmill.errors import UsageError

MARGIN = 0.25  # widening of the union mouth box, as a share of its size: a VAE smears a change over its neighbours
CEILING_DB = 100.0  # PSNR of equal pictures, instead of infinity


def _num_common_frames(first_FHWC: np.ndarray, second_FHWC: np.ndarray) -> int:
    if first_FHWC.shape[1:] != second_FHWC.shape[1:]:
        sizes = " and ".join(f"{frames.shape[2]}x{frames.shape[1]}" for frames in (first_FHWC, second_FHWC))
        raise UsageError(f"pictures of {sizes} pixels cannot be compared", cure="scale one to the size of the other")
    return min(len(first_FHWC), len(second_FHWC))


def _slices(box: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    rows = slice(max(0, int(np.floor(y0))), min(height, max(0, int(np.ceil(y1)))))
    return rows, slice(max(0, int(np.floor(x0))), min(width, max(0, int(np.ceil(x1)))))


def _known(boxes_F4: np.ndarray) -> np.ndarray:
    boxes_F4 = np.asarray(boxes_F4, dtype=np.float64).reshape(-1, 4)
    return boxes_F4[np.isfinite(boxes_F4).all(axis=1)]


def union_box(boxes_F4: np.ndarray, margin: float) -> np.ndarray:
    """Returns the box (4,) around all boxes, widened by `margin` of its size on each side; zeros without any box."""
    known = _known(boxes_F4)
    if not len(known):
        return np.zeros(4)
    x0, y0, x1, y1 = *known[:, :2].min(axis=0), *known[:, 2:].max(axis=0)
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    return np.array([x0 - across, y0 - down, x1 + across, y1 + down])


def psnr_db(first_FHWC: np.ndarray, second_FHWC: np.ndarray, where_FHW: np.ndarray) -> float:
    """Returns the PSNR of the selected pixels in the frames that both clips have; 100 dB for equal pictures.

    `where_FHW` is boolean and broadcasts over frames. NaN where no pixel is selected.

    Raises:
        UsageError: the pictures differ in size.
    """
    num_frames, total, count = _num_common_frames(first_FHWC, second_FHWC), 0.0, 0
    for frame, where_HW in enumerate(np.broadcast_to(where_FHW, (num_frames, *first_FHWC.shape[1:3]))):
        difference = first_FHWC[frame][where_HW].astype(np.float64) - second_FHWC[frame][where_HW]
        total, count = total + float(np.square(difference).sum()), count + difference.size
    if not count:
        return float("nan")
    error = total / count / 255**2
    return min(CEILING_DB, -10 * float(np.log10(error))) if error > 0 else CEILING_DB


def outside_psnr_db(dub_FHWC: np.ndarray, source_FHWC: np.ndarray, boxes_F4: np.ndarray) -> float:
    """Returns the PSNR outside the widened union of the mouth boxes; NaN where that box covers the whole picture.

    Raises:
        UsageError: the pictures differ in size.
    """
    _, height, width, _ = dub_FHWC.shape
    outside_HW = np.ones((height, width), dtype=bool)
    outside_HW[_slices(union_box(boxes_F4, MARGIN), height, width)] = False
    return psnr_db(dub_FHWC, source_FHWC, outside_HW)


def mouth_sharpness(dub_FHWC: np.ndarray, source_FHWC: np.ndarray, boxes_F4: np.ndarray) -> float:
    """Returns the mean absolute gradient inside the mouth boxes, as a ratio of the dub's to the source's.

    About 1 for a mouth as sharp as the source's, less for a blurred one. NaN where no frame has a box of at least two
    pixels, and where the source's mouth has no gradient.

    Raises:
        UsageError: the pictures differ in size.
    """
    boxes_F4 = np.asarray(boxes_F4, dtype=np.float64).reshape(-1, 4)
    totals = [0.0, 0.0]
    for frame in range(min(_num_common_frames(dub_FHWC, source_FHWC), len(boxes_F4))):
        if not np.isfinite(boxes_F4[frame]).all():
            continue
        inside = _slices(boxes_F4[frame], *dub_FHWC.shape[1:3])
        for which, frames_FHWC in enumerate((dub_FHWC, source_FHWC)):
            mouth_HW = frames_FHWC[frame][inside].mean(axis=2)
            totals[which] += sum(float(np.abs(np.diff(mouth_HW, axis=axis)).sum()) for axis in (0, 1))
    return totals[0] / totals[1] if totals[1] > 0 else float("nan")


def mouth_change(dub_FHWC: np.ndarray, source_FHWC: np.ndarray, boxes_F4: np.ndarray) -> float:
    """Returns the mean absolute difference 0..1 inside each frame's mouth box; 0 means that the mouth was copied.

    NaN where no frame has a box inside the picture.

    Raises:
        UsageError: the pictures differ in size.
    """
    boxes_F4 = np.asarray(boxes_F4, dtype=np.float64).reshape(-1, 4)
    num_frames, total, count = min(_num_common_frames(dub_FHWC, source_FHWC), len(boxes_F4)), 0.0, 0
    for frame in range(num_frames):
        if np.isfinite(boxes_F4[frame]).all():
            inside = _slices(boxes_F4[frame], *dub_FHWC.shape[1:3])
            difference = np.abs(dub_FHWC[frame][inside].astype(np.int16) - source_FHWC[frame][inside])
            total, count = total + float(difference.sum()), count + difference.size
    return total / count / 255 if count else float("nan")
