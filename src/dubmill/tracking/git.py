"""Calls git (and DVC) as commands, with a deploy key where one is mounted."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dubmill.errors import ServiceUnavailableError, UsageError

KEY_FILE = "DUBMILL_GIT_KEY"  # SSH deploy key; known_hosts lies beside it
NUM_ATTEMPTS = 10  # of a push, where others push at the same time
COMMAND_SECONDS = 4 * 3600
IDENTITY = ("-c", "user.name=dubmill", "-c", "user.email=dubmill@localhost", "-c", "commit.gpgsign=false")


def clone(repository: str, branch: str, folder: Path) -> Path:
    """Clones a repository into `folder` and returns the clone, on `branch`, which is a new one where it is missing."""
    path = folder / "clone"
    run(folder, "git", "clone", "-q", "--no-tags", address(repository), str(path))
    is_there = bool(remote_ref(repository, f"refs/heads/{branch}"))
    run(path, "git", "checkout", "-q", *(() if is_there else ("--orphan",)), branch)
    return path


def is_pushed(folder: Path, *refs: str) -> bool:
    """Pushes all refs of a clone together or none; returns False where somebody else pushed first."""
    command = ("git", "push", "-q", "--atomic", "origin", *refs)
    done = _process(folder, command)
    is_outrun = any(word in done.stderr for word in ("rejected", "cannot lock ref", "failed to update ref"))
    if done.returncode and (not is_outrun or "hook declined" in done.stderr):
        raise _refused(command, done)
    return not done.returncode


def tagged(repository: str, tag: str) -> str:
    """Returns the commit of an annotated tag of the repository, or an empty string."""
    return remote_ref(repository, f"refs/tags/{tag}^{{}}") or remote_ref(repository, f"refs/tags/{tag}")


def remote_ref(repository: str, ref: str) -> str:
    """Returns the commit of a ref of the repository, or an empty string."""
    listed = run(Path.cwd(), "git", "ls-remote", address(repository), ref.removesuffix("^{}"), ref)
    found = {name: commit for commit, name in (line.split("\t") for line in listed.splitlines())}
    return found.get(ref, "")


def address(repository: str) -> str:
    """Returns the repository's address; a folder's path becomes absolute, since commands run elsewhere."""
    return str(Path(repository).absolute()) if Path(repository).is_dir() else repository


def run(folder: Path, *command: str) -> str:
    """Returns what a git or dvc command prints.

    Raises:
        ServiceUnavailableError: it failed; with the last line of its errors.
        UsageError: the program is not installed.
    """
    done = _process(folder, command)
    if done.returncode:
        raise _refused(command, done)
    return done.stdout


def _process(folder: Path, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or (command[0] == "dvc" and importlib.util.find_spec("dvc") is None):
        raise UsageError("git or dvc is not installed", cure="install git and dubmill[version-control]")
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "DVC_NO_ANALYTICS": "1", "LC_ALL": "C"}
    key = Path(os.environ.get(KEY_FILE, "") or "/nonexistent")
    if key.is_file():
        own, hosts = private_copy(key), key.with_name("known_hosts")
        environment["GIT_SSH_COMMAND"] = f"ssh -i {own} -o IdentitiesOnly=yes -o UserKnownHostsFile={hosts}"
    # this environment's dvc, which need not be on the PATH
    program = [sys.executable, "-m", *command] if command[0] == "dvc" else command
    return subprocess.run(
        program, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
    )


@functools.cache
def private_copy(key: Path) -> Path:
    """Returns a copy of a key that only this user can read, as ssh demands; a mounted Secret is readable by its group."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / key.name).touch(mode=0o600)
    (folder / key.name).write_bytes(key.read_bytes())
    return folder / key.name


def _refused(command: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> ServiceUnavailableError:
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    return ServiceUnavailableError(
        f"`{' '.join(command[:2])}` failed ({reason.strip()[:200]})",
        cure="check the repository's address, the deploy key and the credentials of the DVC remote",
    )
