"""Backs up the model registry and the consent ledger to a folder, and restores them from it.

    python -m dubmill.tracking.backup save --database sqlite:////mlflow/mlflow.db --path artifacts=/mlflow/artifacts --out /backups
    python -m dubmill.tracking.backup restore BACKUP --database sqlite:////mlflow/mlflow.db --path artifacts=/mlflow/artifacts

A backup is a folder with the time in its name. The database is saved first: artifacts that come later are not in it, and none that it
names is missing. The list of digests is written last, so a backup that was interrupted cannot be restored. Servers may go on
while a backup is made; they must be stopped for a restore.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dubmill.artifacts.files import sha256_of, write_atomically
from dubmill.errors import ChangedArtifactError, DubmillError, ServiceUnavailableError, UsageError

SQLITE = "sqlite:///"
DATABASE, PATHS, DIGESTS = "database", "paths", "digests.json"  # in a backup
NUM_KEPT = 14

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
Database = Annotated[str, typer.Option(help="MLflow's backend store: sqlite:///FILE or postgresql://…")]
Paths = Annotated[list[str], typer.Option("--path", help="NAME=PATH of a folder or a file; may be repeated")]


def save(database: str, paths: Mapping[str, Path], out: Path, *, num_kept: int = NUM_KEPT) -> Path:
    """Saves a database, folders and files to a new folder in `out`, keeps the newest `num_kept` there, and returns the new one.

    Raises:
        UsageError: a path or the database file is missing.
        ServiceUnavailableError: pg_dump failed.
    """
    for path in paths.values():
        if not path.exists():
            raise UsageError("there is nothing to save", where=str(path), cure="check --path")
    target = out / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    (target / PATHS).mkdir(parents=True)
    _dump(database, target / DATABASE)
    for name, path in paths.items():
        _copy(path, target / PATHS / name)
    files = [path for path in sorted(target.rglob("*")) if path.is_file()]
    digests = {path.relative_to(target).as_posix(): sha256_of(path) for path in files}
    write_atomically(target / DIGESTS, json.dumps(digests, indent=1).encode())
    whole = sorted(path.parent for path in out.glob(f"*/{DIGESTS}"))
    for old in whole[:-num_kept]:
        shutil.rmtree(old)
    return target


def restore(backup: Path, database: str, paths: Mapping[str, Path]) -> None:
    """Restores a backup, every byte checked, to a database and paths that are missing or empty.

    Raises:
        ChangedArtifactError: the backup is incomplete or damaged.
        UsageError: a place is not empty, and nothing is overwritten; or the backup has no such path.
        ServiceUnavailableError: pg_restore failed.
    """
    _check(backup)
    for name, path in paths.items():
        if not (backup / PATHS / name).exists():
            raise UsageError(f"the backup has no {name!r}", where=str(backup), cure="check --path")
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise UsageError("there is something already", where=str(path), cure="move it away")
    _load(backup / DATABASE, database)
    for name, path in paths.items():
        _copy(backup / PATHS / name, path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _check(backup: Path) -> None:
    if not (backup / DIGESTS).is_file():
        raise ChangedArtifactError("the backup is not complete", where=str(backup), cure="take another one")
    for name, digest in json.loads((backup / DIGESTS).read_bytes()).items():
        if not (backup / name).is_file() or sha256_of(backup / name) != digest:
            raise ChangedArtifactError(f"{name} is damaged or gone", where=str(backup), cure="take another one")


def _dump(database: str, target: Path) -> None:
    if not database.startswith(SQLITE):
        _run("pg_dump", "--format=custom", f"--file={target}", f"--dbname={database}")
        return
    source = Path(database.removeprefix(SQLITE))
    if not source.is_file():
        raise UsageError("there is no such database", where=str(source), cure="check --database")
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)  # a consistent copy while others write


def _load(source: Path, database: str) -> None:
    if not database.startswith(SQLITE):
        _run("pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", f"--dbname={database}", str(source))
        return
    target = Path(database.removeprefix(SQLITE))
    if target.exists():
        raise UsageError("there is a database already", where=str(target), cure="move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise UsageError(f"{command[0]} is not installed", cure="install PostgreSQL's client programs")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ServiceUnavailableError(f"{command[0]} failed ({lines[-1][:200]})", cure="check the database's address")


def _named(given: list[str]) -> dict[str, Path]:
    pairs = [one.partition("=") for one in given]
    if any(not name or not path for name, _, path in pairs):
        raise UsageError("a path has no name", where="--path", cure="write NAME=PATH")
    return {name: Path(path) for name, _, path in pairs}


@app.command("save")
def save_command(
    database: Database, path: Paths, out: Annotated[Path, typer.Option(help="folder of all backups")]
) -> None:
    """Save a backup and remove all but the newest 14."""
    typer.echo(str(save(database, _named(path), out)))


@app.command("restore")
def restore_command(
    backup: Annotated[Path, typer.Argument(help="one backup")], database: Database, path: Paths
) -> None:
    """Restore a backup to a database and paths that are missing or empty; stop the servers before."""
    restore(backup, database, _named(path))


if __name__ == "__main__":
    try:
        app(prog_name="python -m dubmill.tracking.backup")
    except DubmillError as error:
        typer.echo(error.sentence, err=True)
        sys.exit(error.exit_code)
