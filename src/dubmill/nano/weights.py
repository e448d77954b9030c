"""The shipped weights: a diffusers folder in bfloat16 with digests, and the folder in float32 made from it.

`weights/` has the layout that `LTX2Pipeline.from_pretrained` reads, plus `scorers/`, the lexicon, a record of
the training, and `digests.json`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from dubmill.artifacts.files import sha256_of
from dubmill.errors import ChangedArtifactError
from dubmill.nano.lexicon import LEXICON_PATH

WEIGHTS = Path(__file__).parent / "weights"
TRAINING = "training.json"
DIGESTS = "digests.json"
_NOT_IN_FOLDER = {LEXICON_PATH.name, TRAINING, DIGESTS}


def unpack_weights(out: Path, *, weights: Path = WEIGHTS) -> None:
    """Write the weights as a float32 diffusers folder to `out`, atomically.

    Raises:
        ChangedArtifactError: a shipped file is missing, or its SHA-256 is not the one in `digests.json`.
    """
    check_digests(weights)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path in files_in(weights):
        target = partial / path.relative_to(weights)
        if target.name in _NOT_IN_FOLDER:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            tensors = {
                name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()
            }
            save_file(tensors, target, metadata={"format": "pt"})
        else:
            shutil.copyfile(path, target)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def check_digests(weights: Path) -> None:
    """Compare every shipped file with `digests.json`.

    Raises:
        ChangedArtifactError: a file is missing or changed.
    """
    cure = "reinstall dubmill: the embedded weights are not the ones that were released"
    if not (weights / DIGESTS).exists():
        raise ChangedArtifactError("the digests of the embedded weights are missing", where=str(weights), cure=cure)
    for name, digest in json.loads((weights / DIGESTS).read_text()).items():
        path = weights / name
        if not path.exists() or sha256_of(path) != digest:
            raise ChangedArtifactError("its bytes are not the ones that were shipped", where=str(path), cure=cure)


def files_in(folder: Path) -> list[Path]:
    """Returns every file under `folder`, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
