"""LSE-C, LSE-D and the offset of sound against lips, by SyncNet as it was published.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); network, crops and arithmetic as in
github.com/joonson/syncnet_python, whose weights (`syncnet_v2.model`) are in no package: `python -m dubmill.scorers
convert-syncnet` makes a safetensors file of them once. Axes: B windows, C channels, T time, H, W, D dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dubmill.errors import InvalidArtifactError
from dubmill.scorers.spectra import SAMPLE_RATE_HZ, mfcc

if TYPE_CHECKING:
    import torch

FRAME_RATE = 25  # of pictures; four cepstra of 10 ms go with each
MAX_SHIFT = 15  # frames to either side
NUM_SEEN, NUM_HEARD, SIDE = 5, 20, 224  # frames, cepstra and pixels of a window
CROP_MARGIN = 0.4  # of the face's half side, to the sides and below
BATCH = 20

# (out channels, kernel, stride, padding) of a convolution with batch norm and ReLU; a pool is (None, kernel, stride, padding)
_HEARD = (
    (64, (3, 3), (1, 1), (1, 1)), (None, (1, 1), (1, 1), (0, 0)), (192, (3, 3), (1, 1), (1, 1)),
    (None, (3, 3), (1, 2), (0, 0)), (384, (3, 3), (1, 1), (1, 1)), (256, (3, 3), (1, 1), (1, 1)),
    (256, (3, 3), (1, 1), (1, 1)), (None, (3, 3), (2, 2), (0, 0)), (512, (5, 4), (1, 1), (0, 0)),
)  # fmt: skip
_SEEN = (
    (96, (5, 7, 7), (1, 2, 2), (0, 0, 0)), (None, (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    (256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), (None, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    (256, (1, 3, 3), (1, 1, 1), (0, 1, 1)), (256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    (256, (1, 3, 3), (1, 1, 1), (0, 1, 1)), (None, (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    (512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
)  # fmt: skip


def network() -> torch.nn.ModuleDict:
    """The two halves under the published names of their weights."""
    from torch import nn

    def convolutions(rows: tuple, channels: int, flat: bool) -> nn.Sequential:
        convolution, norm, pool = (
            (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d) if flat else (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)
        )
        layers: list[nn.Module] = []
        for out, kernel, stride, padding in rows:
            if out is None:
                layers.append(pool(kernel, stride, padding))
                continue
            layers += [convolution(channels, out, kernel, stride, padding), norm(out), nn.ReLU()]
            channels = out
        return nn.Sequential(*layers)

    def dense() -> nn.Sequential:
        return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))

    halves = {"netcnnaud": convolutions(_HEARD, 1, True), "netfcaud": dense(), "netfclip": dense()}
    return nn.ModuleDict({**halves, "netcnnlip": convolutions(_SEEN, 3, False)})


class SyncScorer:
    """The loaded network."""

    def __init__(self, model: bytes) -> None:
        """Open a safetensors file of the published weights.

        Raises:
            InvalidArtifactError: the file has other weights.
        """
        from safetensors.torch import load

        self._net = network()
        try:
            self._net.load_state_dict(load(model))
        except RuntimeError as error:
            raise InvalidArtifactError(
                "not SyncNet's weights", where="scorers.sync", cure="convert syncnet_v2.model once more"
            ) from error
        self._net.eval().requires_grad_(False)

    def distances(
        self, frames_FHWC: np.ndarray, boxes_F4: np.ndarray, audio_N: np.ndarray, frame_rate: float
    ) -> np.ndarray:
        """(31,) mean distance with the sound taken -15 ... 15 frames of 1/25 s later; NaN where a face is lost, or too short."""
        nothing = np.full(2 * MAX_SHIFT + 1, np.nan)
        if not np.isfinite(boxes_F4).all() or not len(boxes_F4):
            return nothing
        num_frames = round(len(frames_FHWC) * FRAME_RATE / frame_rate)
        places = np.minimum((np.arange(num_frames) + 0.5) / FRAME_RATE * frame_rate, len(frames_FHWC) - 1).astype(int)
        num_windows = min(num_frames, len(audio_N) * FRAME_RATE // SAMPLE_RATE_HZ) - NUM_SEEN
        if num_windows < 1:
            return nothing
        faces_FHWC = crops(frames_FHWC, boxes_F4)[places]
        seen_BD, heard_BD = self._embed(faces_FHWC, mfcc(np.round(audio_N * 32767)), num_windows)
        return shifted_distances(seen_BD, heard_BD, MAX_SHIFT)

    def _embed(self, faces_FHWC: np.ndarray, cepstra_TC: np.ndarray, num_windows: int) -> tuple[np.ndarray, np.ndarray]:
        import torch

        video_FCHW = torch.from_numpy(np.ascontiguousarray(faces_FHWC[..., ::-1])).permute(0, 3, 1, 2).float()  # BGR
        sound_CT = torch.from_numpy(np.ascontiguousarray(cepstra_TC.T)).float()
        seen, heard = [], []
        for start in range(0, num_windows, BATCH):
            windows = range(start, min(num_windows, start + BATCH))
            frames_BCTHW = torch.stack([video_FCHW[at : at + NUM_SEEN].transpose(0, 1) for at in windows])
            sounds_B1CT = torch.stack([sound_CT[None, :, 4 * at : 4 * at + NUM_HEARD] for at in windows])
            seen.append(self._net["netfclip"](self._net["netcnnlip"](frames_BCTHW).flatten(1)).numpy())
            heard.append(self._net["netfcaud"](self._net["netcnnaud"](sounds_B1CT).flatten(1)).numpy())
        return np.concatenate(seen), np.concatenate(heard)


def shifted_distances(seen_BD: np.ndarray, heard_BD: np.ndarray, max_shift: int) -> np.ndarray:
    """(2K+1,) mean over windows of |seen - heard K frames later|; beyond its ends the sound's embedding is 0, as published."""
    padded_BD = np.pad(heard_BD, ((max_shift, max_shift), (0, 0)))
    shifts = range(2 * max_shift + 1)
    # torch's pairwise_distance, which the published code calls, adds 1e-6 to every difference
    return np.array(
        [np.linalg.norm(seen_BD - padded_BD[at : at + len(seen_BD)] + 1e-6, axis=1).mean() for at in shifts]
    )


def crops(frames_FHWC: np.ndarray, boxes_F4: np.ndarray) -> np.ndarray:
    """(F, 224, 224, 3) faces as SyncNet's pipeline cuts them: medians over 13 frames, more room below than above."""
    import cv2
    from scipy.signal import medfilt

    width = min(13, (len(boxes_F4) - 1) // 2 * 2 + 1)  # odd
    half_F = medfilt(np.max(boxes_F4[:, 2:] - boxes_F4[:, :2], axis=1) / 2, width)
    x_F, y_F = (medfilt((boxes_F4[:, side] + boxes_F4[:, side + 2]) / 2, width) for side in (0, 1))
    pictures = []
    for frame_HWC, half, x, y in zip(frames_FHWC, half_F, x_F, y_F, strict=True):
        room = int(half * (1 + 2 * CROP_MARGIN))
        padded_HWC = np.pad(frame_HWC, ((room, room), (room, room), (0, 0)), constant_values=110)
        top, bottom = int(y + room - half), int(y + room + half * (1 + 2 * CROP_MARGIN))
        left, right = (int(x + room + sign * half * (1 + CROP_MARGIN)) for sign in (-1, 1))
        pictures.append(cv2.resize(padded_HWC[top:bottom, left:right], (SIDE, SIDE)))
    return np.stack(pictures)


def convert(source: Path, out: Path) -> str:
    """Write the published checkpoint as safetensors; returns the sha256 to put in params.

    Raises:
        InvalidArtifactError: it is not SyncNet's.
    """
    import hashlib
    import pickle

    import torch
    from safetensors.torch import save

    try:
        weights: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
        network().load_state_dict(weights)
    except (RuntimeError, pickle.UnpicklingError, OSError) as error:
        raise InvalidArtifactError(
            f"not SyncNet's published weights ({str(error).splitlines()[0]})",
            where=str(source),
            cure="give syncnet_v2.model",
        ) from error
    data = save({name: value.contiguous() for name, value in weights.items()})
    out.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
