"""Measures the mouth's opening and box from MediaPipe's 468 face landmarks (TFLite, run by OpenCV)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dubmill.errors import InvalidArtifactError

SIDE = 192  # pixels of the network's picture
MARGIN = 1.5  # its picture of a face is so much larger than the face, as MediaPipe's graph has it
MIN_PRESENCE = 0.5  # probability that there is a face in the picture
MIN_SHARE = 0.2  # of the picture that the points must fill, and
MAX_DRIFT = 0.6  # how far their middle may be from the detector's box, in its sizes: else they are of something else

RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners
INNER_LIPS = ((82, 87), (13, 14), (312, 317))  # upper and lower, left of, in and right of the middle
OUTER_LIPS = (61, 291, 0, 17, 37, 267, 84, 314, 40, 270, 91, 321)
MAX_STEP = 0.1  # of the opening over two frames: below it the frame between is not measured
OPEN_WIDE = 0.5  # distance of the inner lips in distances of the eyes' outer corners that counts as 1
BESIDE, ABOVE, BELOW = 0.2, 0.35, 0.6  # widening of the lips' box in its widths: a jaw falls


class MouthScorer:
    """The loaded landmark network."""

    def __init__(self, model: bytes) -> None:
        """Open the network from a TFLite file's bytes.

        Raises:
            InvalidArtifactError: OpenCV does not read it.
        """
        import cv2

        self._cv2 = cv2
        try:
            self._net = cv2.dnn.readNetFromTFLite(np.frombuffer(model, np.uint8))
        except cv2.error as error:
            raise InvalidArtifactError("not a landmark network that OpenCV reads", where="scorers.mouth") from error
        self._outputs = self._net.getUnconnectedOutLayersNames()

    def read(self, frames_FHWC: np.ndarray, boxes_F4: np.ndarray) -> np.ndarray:
        """(F, 5): opening 0..1 and box x0, y0, x1, y1 in pixels; NaN where the face or its landmarks are lost.

        The network sees every other frame and the last one; a frame between two is measured too where their openings differ
        by more than `MAX_STEP`, and is their mean elsewhere.
        """
        last = len(frames_FHWC) - 1
        points_FL3 = np.full((last + 1, 468, 3), np.nan, np.float32)
        self.landmarks(frames_FHWC, boxes_F4, {*range(0, last, 2), last} - {-1}, points_FL3)
        mouth_F5, between = mouths(points_FL3), np.arange(1, last, 2)
        is_still = np.abs(mouth_F5[between + 1, 0] - mouth_F5[between - 1, 0]) <= MAX_STEP
        still, moving = between[is_still], between[~is_still]
        self.landmarks(frames_FHWC, boxes_F4, moving, points_FL3)
        mouth_F5[moving] = mouths(points_FL3[moving])
        mouth_F5[still] = (mouth_F5[still - 1] + mouth_F5[still + 1]) / 2
        return mouth_F5

    def landmarks(
        self, frames_FHWC: np.ndarray, boxes_F4: np.ndarray, places: Iterable[int], points_FL3: np.ndarray
    ) -> None:
        """Write the points of the frames `places` into (F, 468, 3), in pixels, the depth in the same unit.

        Each frame's picture is cut around the points of one of the two frames before, or the detector's box where there
        are none; NaN stays where the face is lost.
        """
        for frame in sorted(places):
            box_4 = boxes_F4[frame]
            if not np.isfinite(box_4).all():
                continue
            before = [points_FL3[at] for at in (frame - 1, frame - 2) if at >= 0 and _is_at(points_FL3[at], box_4)]
            seen_L3 = before[0] if before else self._look(frames_FHWC[frame], *_around_box(box_4))
            if seen_L3 is not None:
                seen_L3 = self._look(frames_FHWC[frame], *_around_points(seen_L3))
            if seen_L3 is not None and _is_at(seen_L3, box_4):
                points_FL3[frame] = seen_L3

    def _look(self, frame_HWC: np.ndarray, centre_2: np.ndarray, side: float, roll: float) -> np.ndarray | None:
        """(468, 3) points in a turned square of the frame, none where the network sees no face there."""
        scale = side / SIDE
        turn_22 = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        back_23 = np.column_stack([turn_22, centre_2 - turn_22 @ np.full(2, SIDE / 2)])
        flags = self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP
        cut_HWC = self._cv2.warpAffine(frame_HWC, back_23, (SIDE, SIDE), flags=flags)
        self._net.setInput(self._cv2.dnn.blobFromImage(cut_HWC, 1 / 255))
        first, second = self._net.forward(self._outputs)
        presence, raw = (first, second) if first.size == 1 else (second, first)
        points_L3 = raw.reshape(468, 3)
        if (
            1 / (1 + np.exp(-presence.item())) < MIN_PRESENCE
            or np.ptp(points_L3[:, :2], axis=0).min() < MIN_SHARE * SIDE
        ):
            return None
        flat_L2 = points_L3[:, :2] @ turn_22.T + back_23[:, 2]
        return np.column_stack([flat_L2, points_L3[:, 2] * scale]).astype(np.float32)


def mouths(points_FL3: np.ndarray) -> np.ndarray:
    """(F, 5) opening and box from landmarks in pixels.

    The opening is the mean distance of three pairs of points of the inner lips by that of the outer corners of the eyes,
    both in space: a head that turns or comes nearer changes neither.
    """
    eyes_F = np.linalg.norm(points_FL3[:, RIGHT_EYE] - points_FL3[:, LEFT_EYE], axis=1)
    gaps_F = np.mean([np.linalg.norm(points_FL3[:, a] - points_FL3[:, b], axis=1) for a, b in INNER_LIPS], axis=0)
    lips_FP2 = points_FL3[:, OUTER_LIPS, :2]
    low_F2, high_F2 = lips_FP2.min(axis=1), lips_FP2.max(axis=1)
    width_F = high_F2[:, 0] - low_F2[:, 0]
    widen_F4 = np.stack([-BESIDE * width_F, -ABOVE * width_F, BESIDE * width_F, BELOW * width_F], axis=1)
    boxes_F4 = np.concatenate([low_F2, high_F2], axis=1) + widen_F4
    return np.column_stack([np.clip(gaps_F / eyes_F / OPEN_WIDE, 0, 1), boxes_F4]).astype(np.float32)


def _is_at(points_L3: np.ndarray, box_4: np.ndarray) -> bool:
    """Whether points are of the face in a box."""
    size = float(np.sqrt(np.prod(np.maximum(box_4[2:] - box_4[:2], 1))))
    middle_2 = (points_L3[:, :2].min(axis=0) + points_L3[:, :2].max(axis=0)) / 2
    return float(np.linalg.norm(middle_2 - (box_4[:2] + box_4[2:]) / 2)) <= MAX_DRIFT * size


def _around_box(box_4: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centre, side and roll of the square to cut for a detector's box."""
    return (box_4[:2] + box_4[2:]) / 2, MARGIN * float(np.max(box_4[2:] - box_4[:2])), 0.0


def _around_points(points_L3: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centre, side and roll of the square that shows a face of these points upright."""
    across_2 = points_L3[LEFT_EYE, :2] - points_L3[RIGHT_EYE, :2]
    roll = float(np.arctan2(across_2[1], across_2[0]))
    turn_22 = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    upright_L2 = points_L3[:, :2] @ turn_22
    low_2, high_2 = upright_L2.min(axis=0), upright_L2.max(axis=0)
    return turn_22 @ ((low_2 + high_2) / 2), MARGIN * float((high_2 - low_2).max()), roll
