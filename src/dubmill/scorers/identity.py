"""Face identity: the mean embedding of aligned faces by SFace (OpenCV Zoo)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dubmill.errors import InvalidArtifactError
from dubmill.faces import Face

MAX_FACES = 4  # of a clip: more change the mean by less than a blink does
DIMENSIONS = 128


class IdentityScorer:
    """A loaded face encoder."""

    def __init__(self, model: bytes) -> None:
        import cv2

        self._cv2 = cv2
        try:
            self._net = cv2.FaceRecognizerSF.create("onnx", np.frombuffer(model, np.uint8), np.empty(0, np.uint8))
        except cv2.error as error:
            raise InvalidArtifactError("not a face encoder that OpenCV reads", where="scorers.identity") from error

    def embed(self, frames_FHWC: np.ndarray, faces: Mapping[int, Face]) -> np.ndarray:
        """(128,) unit vector of one person from the faces by frame; zeros where there is no face with eyes and mouth."""
        places = [frame for frame, face in sorted(faces.items()) if face.points_52 is not None]
        chosen = [places[at] for at in np.linspace(0, len(places) - 1, min(len(places), MAX_FACES)).round().astype(int)]
        if not chosen:
            return np.zeros(DIMENSIONS, np.float32)
        mean_E = np.mean([self._one(frames_FHWC[frame], faces[frame]) for frame in chosen], axis=0)
        return mean_E / np.linalg.norm(mean_E)

    def _one(self, frame_HWC: np.ndarray, face: Face) -> np.ndarray:
        assert face.points_52 is not None
        row_15 = np.concatenate([face.box_4[:2], face.box_4[2:] - face.box_4[:2], face.points_52.ravel(), [1.0]])
        picture = self._cv2.cvtColor(np.ascontiguousarray(frame_HWC), self._cv2.COLOR_RGB2BGR)
        embedding_E = self._net.feature(self._net.alignCrop(picture, row_15[None].astype(np.float32)))[0]
        return embedding_E / np.linalg.norm(embedding_E)
