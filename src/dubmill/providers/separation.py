"""Separation of speech from music and effects: the interface of a separator, and sherpa-onnx on this machine.

Axes: C channels, N samples at `SEPARATION_RATE_HZ`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dubmill.errors import UsageError

SEPARATION_RATE_HZ = 44_100
_SPLEETER = ("vocals.onnx", "accompaniment.onnx")
_UVR_MARK = b"\n\nmodel_type\x12\x03UVR"  # in the metadata of an ONNX file: key and value
_SPLEETER_MARK = b"\n\nmodel_type\x12\x08spleeter"


class Separator(Protocol):
    """Finds the speech in a sound. `digest` is of all that its answer depends on."""

    digest: str

    def speech(self, sound_CN: np.ndarray) -> np.ndarray:
        """Returns the speech in a stereo sound (float32 in [-1, 1]) as (C, N); the last samples may be missing."""
        ...


class SherpaOnnx:
    """A two-stem UVR MDX-Net or Spleeter model in sherpa-onnx's format: nothing is uploaded or downloaded."""

    def __init__(self, model: str) -> None:
        """Load `model`: a UVR .onnx file, or a folder with Spleeter's two, with `@SHA256` of the (joined) bytes behind it if wanted.

        Raises:
            UsageError: sherpa-onnx is not installed, or there is no such model, or another one.
        """
        try:
            import sherpa_onnx as sherpa  # pyright: ignore[reportMissingImports] (an extra of its own)
        except ImportError as error:
            cure = "pip install 'dubmill[separate]'"
            raise UsageError("sherpa-onnx is not installed", where="sherpa-onnx", cure=cure) from error
        name, expected = _split_digest(model)
        files = _model_files(Path(name))
        self.digest = _checked_digest(files, expected, name)
        family = sherpa.OfflineSourceSeparationUvrModelConfig, sherpa.OfflineSourceSeparationSpleeterModelConfig
        kind, weights = ("uvr", "spleeter")[len(files) - 1], family[len(files) - 1](*map(str, files))
        settings = sherpa.OfflineSourceSeparationModelConfig(**{kind: weights})
        try:
            self._model = sherpa.OfflineSourceSeparation(sherpa.OfflineSourceSeparationConfig(model=settings))
        except RuntimeError as error:
            raise UsageError(f"the model cannot be opened ({error})", where=name, cure="copy it again") from error

    def speech(self, sound_CN: np.ndarray) -> np.ndarray:
        """Returns the first of the model's two stems, which is called vocals."""
        sound_CN = np.ascontiguousarray(sound_CN, np.float32)
        return self._model.process(sample_rate=SEPARATION_RATE_HZ, samples=sound_CN).stems[0].data


def _split_digest(model: str) -> tuple[str, str]:
    """The path in `model`, and the digest behind it in lower case, empty where there is none.

    Raises:
        UsageError: no model is named.
    """
    found = re.fullmatch(r"(.*)@([0-9a-fA-F]{64})", model, flags=re.DOTALL)
    name, digest = (found[1], found[2].lower()) if found else (model, "")
    if not name:
        raise UsageError("no model is named", where="sherpa-onnx", cure="give --separation-model FILE or FOLDER")
    return name, digest


def _model_files(model: Path) -> Sequence[Path]:
    """The files of a model, each known to be one: sherpa-onnx ends the whole process where it is given another.

    Raises:
        UsageError: they are not there, or are something else.
    """
    files, mark = ([model], _UVR_MARK) if not model.is_dir() else ([model / name for name in _SPLEETER], _SPLEETER_MARK)
    for file in files:
        if not file.is_file():
            cure = f"give a UVR model's .onnx file, or a folder that holds {' and '.join(_SPLEETER)}"
            raise UsageError("there is no such model", where=str(file), cure=cure)
        if mark not in file.read_bytes():
            kind = "UVR" if mark == _UVR_MARK else "Spleeter"
            cure = "give one that was exported for sherpa-onnx, which writes model_type into it"
            raise UsageError(f"this is no {kind} model of sherpa-onnx", where=str(file), cure=cure)
    return files


def _checked_digest(files: Sequence[Path], expected: str, name: str) -> str:
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if expected and digest != expected:
        raise UsageError(
            f"the model's sha256 is {digest}, not {expected}", where=name, cure="give the model that was meant"
        )
    return digest
