"""Data versions: gated pairs as commits of a git repository, over a local remote; git and DVC are the real ones."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from doubles.gated_pairs import make_pairs

from dubmill.artifacts.store import PairSet
from dubmill.errors import ChangedArtifactError, ServiceUnavailableError, UsageError
from dubmill.tracking import data_versions, git
from dubmill.tracking.data_versions import add_version, get_version, resolve


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty git repository on a server, and a folder as DVC's remote; DVC's site cache is the test's own."""
    monkeypatch.setenv("DUBMILL_DVC_REMOTE", str(tmp_path / "remote"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    call(tmp_path, "git", "init", "-q", "--bare", "-b", "main", "data.git")
    return str(tmp_path / "data.git")


def call(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_pairs_of_a_revision_are_the_same_bytes_elsewhere(repository, tmp_path):
    pairs = make_pairs(tmp_path / "pairs")
    version = add_version(pairs, repository, "main")
    assert add_version(pairs, repository, "main") == version  # once, however often
    assert resolve(repository, "main") == resolve(repository, version.tag) == version.revision
    (tmp_path / "out").mkdir()  # as KFP does
    found = get_version(repository, version.tag, tmp_path / "out" / "pairs")
    assert found.digest == version.digest == pairs.digest
    call(tmp_path, "git", "clone", "-q", repository, "laptop")
    call(tmp_path / "laptop", sys.executable, "-m", "dvc", "pull", "-q")
    assert files(tmp_path / "laptop" / "pairs") == files(found.path) == files(pairs.path)


def test_two_runs_that_add_pairs_at_once_make_two_versions(repository, tmp_path, monkeypatch):
    """Both have cloned before either pushes: one of them is refused and commits again on top of the other."""
    sets = [make_pairs(tmp_path / f"pairs-{seed}", seed=seed) for seed in (1, 2)]
    made, together, commit = [], threading.Barrier(2), data_versions._commit
    waited = threading.local()

    def commit_together(*arguments):
        if not getattr(waited, "is_done", False):
            waited.is_done = True
            together.wait(timeout=300)
        return commit(*arguments)

    monkeypatch.setattr(data_versions, "_commit", commit_together)
    threads = [
        threading.Thread(target=lambda one=one: made.append(add_version(one, repository, "main"))) for one in sets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.digest for one in made} == {one.digest for one in sets}
    commits = call(Path(repository), "git", "log", "--format=%H", "main").split()
    assert sorted(commits) == sorted(one.revision for one in made)
    for index, version in enumerate(made):
        assert get_version(repository, version.revision, tmp_path / f"got-{index}").digest == version.digest


def test_pairs_that_were_damaged_are_not_made_a_version(repository, tmp_path):
    pairs = make_pairs(tmp_path / "pairs")
    (shard,) = pairs.path.glob("*.tar")
    shard.write_bytes(b"broken")
    with pytest.raises(ChangedArtifactError):
        add_version(PairSet.open(pairs.path), repository, "main")
    assert not call(Path(repository), "git", "tag")


def test_what_is_missing_is_named(repository, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no branch or tag 'v9'"):
        resolve(repository, "v9")
    with pytest.raises(ServiceUnavailableError, match="git ls-remote"):
        resolve(str(tmp_path / "nowhere.git"), "main")
    monkeypatch.delenv("DUBMILL_DVC_REMOTE")
    with pytest.raises(UsageError, match="DUBMILL_DVC_REMOTE"):
        add_version(make_pairs(tmp_path / "pairs"), repository, "main")


def test_a_mounted_deploy_key_is_copied_so_that_only_its_user_reads_it(tmp_path):
    key = tmp_path / "ssh-key"
    key.write_text("secret")
    key.chmod(0o644)
    own = git.private_copy(key)
    assert own.stat().st_mode & 0o777 == 0o600
    assert own.read_text() == "secret"
