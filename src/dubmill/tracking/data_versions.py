"""Data versions: gated pairs as commits of a git repository, their bytes in its DVC remote.

git and dvc are called as commands. A version is an annotated tag `pairs-<digest>` on a commit of the branch, so that the
same pairs are one version, however often and by however many runs they are added at once.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dubmill.artifacts.manifest import MANIFEST
from dubmill.artifacts.store import PairSet
from dubmill.errors import InvalidArtifactError, ServiceUnavailableError, UsageError

DATA = "pairs"  # folder of the repository; DVC tracks it as pairs.dvc
KEY_FILE = "DUBMILL_GIT_KEY"  # SSH deploy key; known_hosts lies beside it
REMOTE = "DUBMILL_DVC_REMOTE"  # DVC remote of a repository that has none yet, such as s3://bucket/folder
ENDPOINT = "DUBMILL_S3_ENDPOINT"  # of an S3 server that is not Amazon's
NUM_ATTEMPTS = 10
COMMAND_SECONDS = 4 * 3600
IDENTITY = ("-c", "user.name=dubmill", "-c", "user.email=dubmill@localhost", "-c", "commit.gpgsign=false")


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
        command = f"dvc get --rev {self.tag} {self.repository} {DATA}"
        return (
            f"# {self.tag}\n\nCommit `{self.revision}` of {self.repository}; digest `{self.digest}`.\n\n    {command}\n"
        )


def add_version(pairs: PairSet, repository: str, branch: str) -> DataVersion:
    """Adds `pairs` to `branch` of the repository as a tagged commit and returns that version; one that is there is returned.

    The order is bytes, then commit and tag in one atomic push: a revision never names bytes that are missing. Where another
    run pushed in the meantime, the commit is made again on top of its commit.

    Raises:
        ServiceUnavailableError: repository or remote do not answer, or refuse.
    """
    pairs.verify()
    tag = f"pairs-{pairs.digest[:16]}"
    with _clone(repository, branch) as clone:
        found = _tagged(repository, tag)
        if found:
            return DataVersion(repository, found, tag, pairs.digest)
        pointer = _push_bytes(clone, pairs)
        for _ in range(NUM_ATTEMPTS):
            revision = _commit(clone, pointer, pairs, tag)
            if _is_pushed(clone, branch, tag):
                return DataVersion(repository, revision, tag, pairs.digest)
            if found := _tagged(repository, tag):  # the same pairs, added by another run
                return DataVersion(repository, found, tag, pairs.digest)
            _run(clone, "git", "fetch", "-q", "--no-tags", "origin", branch)
            _run(clone, "git", "reset", "-q", "--hard", "FETCH_HEAD")
            _run(clone, "git", "tag", "-d", tag)
    raise ServiceUnavailableError("other runs push all the time", where=repository, cure="run it again")


def resolve(repository: str, revision: str) -> str:
    """Returns the commit that a branch, a tag or a full commit id names.

    Raises:
        UsageError: the repository has no such branch or tag.
    """
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    found = _tagged(repository, revision) or _remote_ref(repository, f"refs/heads/{revision}")
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
    _run(out.parent, "dvc", "get", "-q", "--rev", commit, "-o", str(part), _address(repository), DATA)
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
        clone = Path(folder) / "clone"
        _run(Path(folder), "git", "clone", "-q", "--no-tags", _address(repository), str(clone))
        is_there = bool(_remote_ref(repository, f"refs/heads/{branch}"))
        _run(clone, "git", "checkout", "-q", *(() if is_there else ("--orphan",)), branch)
        if not (clone / ".dvc" / "config").is_file():
            _set_up(clone)
        yield clone


def _set_up(clone: Path) -> None:
    """Makes an empty clone a DVC repository whose default remote is $DUBMILL_DVC_REMOTE."""
    remote = os.environ.get(REMOTE, "")
    if not remote:
        raise UsageError(
            f"the repository has no DVC remote, and {REMOTE} is not set", cure="set it, for example s3://bucket"
        )
    _run(clone, "dvc", "init", "-q", "-f")
    _run(clone, "dvc", "remote", "add", "-q", "-f", "-d", "storage", remote)
    if endpoint := os.environ.get(ENDPOINT, ""):
        _run(clone, "dvc", "remote", "modify", "storage", "endpointurl", endpoint)


def _push_bytes(clone: Path, pairs: PairSet) -> bytes:
    """Sends the pairs to DVC's remote, without a copy on this disk; returns the text of pairs.dvc."""
    _run(clone, "dvc", "add", "-q", "--to-remote", str(pairs.path.absolute()), "-o", DATA)
    return (clone / f"{DATA}.dvc").read_bytes()


def _commit(clone: Path, pointer: bytes, pairs: PairSet, tag: str) -> str:
    (clone / f"{DATA}.dvc").write_bytes(pointer)
    (clone / ".gitignore").write_text(f"/{DATA}\n")
    _run(clone, "git", "add", "-A", f"{DATA}.dvc", ".gitignore", ".dvc", ".dvcignore")
    message = f"{len(pairs.rows)} gated pairs\n\nPairSet: {pairs.digest}\nRun: {os.environ.get('KFP_RUN_ID', '')}"
    _run(clone, "git", *IDENTITY, "commit", "-q", "--allow-empty", "-m", message)
    _run(clone, "git", *IDENTITY, "tag", "-a", tag, "-m", message)
    return _run(clone, "git", "rev-parse", "HEAD").strip()


def _is_pushed(clone: Path, branch: str, tag: str) -> bool:
    """Pushes commit and tag together; returns False where somebody else pushed first."""
    command = ["git", "push", "-q", "--atomic", "origin", f"HEAD:refs/heads/{branch}", f"refs/tags/{tag}"]
    done = _process(clone, command)
    if done.returncode and not any(
        word in done.stderr for word in ("rejected", "cannot lock ref", "failed to update ref")
    ):
        raise _refused(command, done)
    return not done.returncode


def _tagged(repository: str, tag: str) -> str:
    """Returns the commit of an annotated tag of the repository, or an empty string."""
    return _remote_ref(repository, f"refs/tags/{tag}^{{}}") or _remote_ref(repository, f"refs/tags/{tag}")


def _remote_ref(repository: str, ref: str) -> str:
    listed = _run(Path.cwd(), "git", "ls-remote", _address(repository), ref.removesuffix("^{}"), ref)
    found = {name: commit for commit, name in (line.split("\t") for line in listed.splitlines())}
    return found.get(ref, "")


def _address(repository: str) -> str:
    """Returns the repository's address; a folder's path becomes absolute, since commands run elsewhere."""
    return str(Path(repository).absolute()) if Path(repository).is_dir() else repository


def _run(folder: Path, *command: str) -> str:
    done = _process(folder, command)
    if done.returncode:
        raise _refused(command, done)
    return done.stdout


def _process(folder: Path, command: list[str] | tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or importlib.util.find_spec("dvc") is None:
        raise UsageError("git or dvc is not installed", cure="install git and dubmill[version-control]")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "DVC_NO_ANALYTICS": "1", "LC_ALL": "C"}
    key = Path(os.environ.get(KEY_FILE, "") or "/nonexistent")
    if key.is_file():
        own, hosts = _private_copy(key), key.with_name("known_hosts")
        environment["GIT_SSH_COMMAND"] = f"ssh -i {own} -o IdentitiesOnly=yes -o UserKnownHostsFile={hosts}"
    # this environment's dvc, which need not be on the PATH
    program = [sys.executable, "-m", *command] if command[0] == "dvc" else command
    return subprocess.run(
        program, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
    )


@functools.cache
def _private_copy(key: Path) -> Path:
    """Returns a copy of a key that only this user can read, as ssh demands; a mounted Secret is readable by its group."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / key.name).touch(mode=0o600)
    (folder / key.name).write_bytes(key.read_bytes())
    return folder / key.name


def _refused(command: list[str] | tuple[str, ...], done: subprocess.CompletedProcess[str]) -> ServiceUnavailableError:
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    return ServiceUnavailableError(
        f"`{' '.join(command[:2])}` failed ({reason.strip()[:200]})",
        cure="check the repository's address, the deploy key and the credentials of the DVC remote",
    )
