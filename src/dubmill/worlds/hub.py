"""Downloads a model repository from the Hugging Face hub: the files of a diffusers pipeline, at one commit.

The environment variables of huggingface_hub apply: HF_TOKEN, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE (the local cache only).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from dubmill.errors import ServiceUnavailableError, UsageError

# The parts that a dub uses; a repository may also hold whole-model checkpoints, older formats and sample videos.
PIPELINE_FILES = (
    "model_index.json",
    "transformer/*",
    "connectors/*",
    "vae/*",
    "audio_vae/*",
    "vocoder/*",
    "text_encoder/*",
    "tokenizer/*",
    "scheduler/*",
    "latent_upsampler/*",
)
UPSAMPLER_FILES = ("latent_upsampler/*",)
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.onnx", "*.gguf")


def resolve_commit(repo: str, revision: str) -> str:
    """Returns the commit that a branch, tag or commit of a repository points to; offline, as last seen in the cache.

    Raises:
        UsageError: there is no such repository or revision, or no access to it.
        ServiceUnavailableError: the hub does not answer, and the cache does not know.
    """
    from huggingface_hub import HfApi

    with _readable_errors(repo, revision):
        return HfApi().resolve_revision(repo, revision=revision).resolved


def download(repo: str, commit: str, folder: Path, patterns: tuple[str, ...]) -> None:
    """Download the files of one commit that match `patterns` into `folder`; finished files of a stopped download are kept.

    Offline, the files are copied from huggingface_hub's cache.

    Raises:
        UsageError: there is no such repository or commit, or no access to it.
        ServiceUnavailableError: the hub does not answer, or a file is missing or cut short.
    """
    from huggingface_hub import constants, snapshot_download

    with _readable_errors(repo, commit):
        if constants.is_offline_mode():
            cached = snapshot_download(repo, revision=commit, allow_patterns=list(patterns), local_files_only=True)
            copy_files(Path(cached), folder, patterns)
            return
        sizes = _sizes(repo, commit, patterns)  # raises without a connection, where snapshot_download only warns
        snapshot_download(
            repo,
            revision=commit,
            local_dir=folder,
            allow_patterns=list(patterns),
            ignore_patterns=list(OTHER_FORMATS),
        )
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ServiceUnavailableError(
                f"{name} was not downloaded completely", where=f"{repo}@{commit[:12]}", cure="run the step again"
            )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # holds times, which would enter the artifact's digest


def copy_files(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files below `source` that match `patterns`, symbolic links as the files they point to."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and is_wanted(name, patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def is_wanted(name: str, patterns: tuple[str, ...]) -> bool:
    """Returns whether a file of a repository is downloaded."""
    is_other = any(fnmatch(name, pattern) for pattern in OTHER_FORMATS)
    return any(fnmatch(name, pattern) for pattern in patterns) and not is_other


def _sizes(repo: str, commit: str, patterns: tuple[str, ...]) -> dict[str, int]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(repo, revision=commit, recursive=True)
    files = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    return {name: size for name, size in files.items() if is_wanted(name, patterns)}


@contextmanager
def _readable_errors(repo: str, revision: str) -> Iterator[None]:
    """Turn the hub client's exceptions into one sentence with a cure."""
    import httpx2
    from huggingface_hub import errors

    where = f"{repo}@{revision}"
    try:
        yield
    except errors.GatedRepoError as error:
        cure = "accept its licence on the hub and give a token of that account in HF_TOKEN"
        raise UsageError("access to the repository is not granted", where=where, cure=cure) from error
    except errors.RepositoryNotFoundError as error:
        cure = "check the name; a private repository needs a token in HF_TOKEN"
        raise UsageError("there is no such repository", where=where, cure=cure) from error
    except errors.RevisionNotFoundError as error:
        cure = "give a branch, tag or commit of the repository"
        raise UsageError("the repository has no such revision", where=where, cure=cure) from error
    except errors.HFValidationError as error:
        cure = "give owner/name, or the path of an existing folder"
        raise UsageError("this is no name of a repository", where=where, cure=cure) from error
    except (OSError, errors.RevisionResolutionError, httpx2.HTTPError) as error:
        cause = error.__cause__ or error
        raise ServiceUnavailableError(
            f"the repository could not be fetched ({type(cause).__name__}: {str(cause)[:200]})",
            where=where,
            cure="check the network, HF_TOKEN and HF_ENDPOINT, or use backbone.source: nano",
        ) from error
