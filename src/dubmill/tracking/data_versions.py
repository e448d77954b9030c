"""Data versions: gated pairs as commits of a git repository, their bytes in its DVC remote.

git and dvc are called as commands. A version is an annotated tag `pairs-<digest>` on a commit of the branch, so that the
same pairs are one version, however often and by however many runs they are added at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dubmill.artifacts.manifest import MANIFEST
from dubmill.artifacts.store import PairSet
from dubmill.errors import InvalidArtifactError, ServiceUnavailableError, UsageError, without_secrets
from dubmill.tracking.git import IDENTITY, NUM_ATTEMPTS, address, clone, is_pushed, remote_ref, run, tagged

DATA = "pairs"  # folder of the repository; DVC tracks it as pairs.dvc
REMOTE = "DUBMILL_DVC_REMOTE"  # DVC remote of a repository that has none yet, such as s3://bucket/folder
ENDPOINT = "DUBMILL_S3_ENDPOINT"  # of an S3 server that is not Amazon's


@dataclass(frozen=True)
class DataVersion:
    """Gated pairs in a repository."""

    repository: str
    revision: str  # commit
    tag: str
    digest: str  # of the PairSet

    @property
    def markdown(self) -> str:
        """The version as a page that says how to fetch it."""
        place = without_secrets(self.repository)
        command = f"dvc get --rev {self.tag} {place} {DATA}"
        return f"# {self.tag}\n\nCommit `{self.revision}` of {place}; digest `{self.digest}`.\n\n    {command}\n"


def add_version(pairs: PairSet, repository: str, branch: str) -> DataVersion:
    """Adds `pairs` to `branch` of the repository as a tagged commit and returns that version; one that is there is returned.

    The order is bytes, then commit and tag in one atomic push: a revision never names bytes that are missing. Where another
    run pushed in the meantime, the commit is made again on top of its commit.

    Raises:
        ServiceUnavailableError: repository or remote do not answer, or refuse.
    """
    pairs.verify()
    tag = f"pairs-{pairs.digest[:16]}"
    with _clone(repository, branch) as folder:
        found = tagged(repository, tag)
        if found:
            return DataVersion(repository, found, tag, pairs.digest)
        pointer = _push_bytes(folder, pairs)
        for _ in range(NUM_ATTEMPTS):
            revision = _commit(folder, pointer, pairs, tag)
            if is_pushed(folder, f"HEAD:refs/heads/{branch}", f"refs/tags/{tag}"):
                return DataVersion(repository, revision, tag, pairs.digest)
            if found := tagged(repository, tag):  # the same pairs, added by another run
                return DataVersion(repository, found, tag, pairs.digest)
            run(folder, "git", "fetch", "-q", "--no-tags", "origin", branch)
            run(folder, "git", "reset", "-q", "--hard", "FETCH_HEAD")
            run(folder, "git", "tag", "-d", tag)
    raise ServiceUnavailableError("other runs push all the time", where=repository, cure="run it again")


def resolve(repository: str, revision: str) -> str:
    """Returns the commit that a branch, a tag or a full commit id names.

    Raises:
        UsageError: the repository has no such branch or tag.
    """
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    found = tagged(repository, revision) or remote_ref(repository, f"refs/heads/{revision}")
    if not found:
        raise UsageError(
            f"there is no branch or tag {revision!r}", where=repository, cure="name a branch, a tag or a full commit id"
        )
    return found


def get_version(repository: str, revision: str, out: Path) -> PairSet:
    """Downloads the pairs of a revision to `out` and returns them, every byte checked.

    Raises:
        InvalidArtifactError: that revision holds no pairs, or others than were sealed.
    """
    if (out / MANIFEST).is_file():  # an earlier attempt of the same task
        return PairSet.open(out)
    commit = resolve(repository, revision)
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    run(out.parent, "dvc", "get", "-q", "--rev", commit, "-o", str(part), address(repository), DATA)
    pairs = PairSet.open(part)
    pairs.verify()
    if not pairs.info.get("gated"):
        raise InvalidArtifactError("these pairs were not gated", where=f"{repository}@{commit}", cure="gate them first")
    if out.is_dir():
        out.rmdir()  # KFP makes the folder of an output
    part.rename(out)
    return PairSet.open(out)


@contextmanager
def _clone(repository: str, branch: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = clone(repository, branch, Path(folder))
        if not (path / ".dvc" / "config").is_file():
            _set_up(path)
        yield path


def _set_up(folder: Path) -> None:
    """Makes an empty clone a DVC repository whose default remote is $DUBMILL_DVC_REMOTE."""
    remote = os.environ.get(REMOTE, "")
    if not remote:
        raise UsageError(
            f"the repository has no DVC remote, and {REMOTE} is not set", cure="set it, for example s3://bucket"
        )
    run(folder, "dvc", "init", "-q", "-f")
    run(folder, "dvc", "remote", "add", "-q", "-f", "-d", "storage", remote)
    if endpoint := os.environ.get(ENDPOINT, ""):
        run(folder, "dvc", "remote", "modify", "storage", "endpointurl", endpoint)


def _push_bytes(folder: Path, pairs: PairSet) -> bytes:
    """Sends the pairs to DVC's remote, without a copy on this disk; returns the text of pairs.dvc."""
    run(folder, "dvc", "add", "-q", "--to-remote", str(pairs.path.absolute()), "-o", DATA)
    return (folder / f"{DATA}.dvc").read_bytes()


def _commit(folder: Path, pointer: bytes, pairs: PairSet, tag: str) -> str:
    (folder / f"{DATA}.dvc").write_bytes(pointer)
    (folder / ".gitignore").write_text(f"/{DATA}\n")
    run(folder, "git", "add", "-A", f"{DATA}.dvc", ".gitignore", ".dvc", ".dvcignore")
    message = f"{len(pairs.rows)} gated pairs\n\nPairSet: {pairs.digest}\nRun: {os.environ.get('KFP_RUN_ID', '')}"
    run(folder, "git", *IDENTITY, "commit", "-q", "--allow-empty", "-m", message)
    run(folder, "git", *IDENTITY, "tag", "-a", tag, "-m", message)
    return run(folder, "git", "rev-parse", "HEAD").strip()
