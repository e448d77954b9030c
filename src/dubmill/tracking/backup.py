"""Backs up the model registry and the consent ledger to a folder, and restores them from it.

    python -m dubmill.tracking.backup save --database sqlite:////mlflow/mlflow.db --path artifacts=/mlflow/artifacts --out /backups
    python -m dubmill.tracking.backup restore BACKUP --database sqlite:////mlflow/mlflow.db --path artifacts=/mlflow/artifacts

A backup is a folder with the time in its name. The database is saved first: artifacts that come later are not in it, and none that it
names is missing. A backup gets its name last, and what an interrupted one left is removed by the next. Servers may go on
while a backup is made; they must be stopped for a restore, which can be run again after it was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import typer

from dubmill.artifacts.files import sha256_of, write_atomically
from dubmill.errors import ChangedArtifactError, DubmillError, ServiceUnavailableError, UsageError

SQLITE = "sqlite:///"
# SQLAlchemy's URL may name a driver (postgresql+psycopg2), which PostgreSQL's own programs refuse
POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?://(?:([^:@/?]*)(?::([^@/?]*))?@)?(.*)")
DATABASE, PATHS, DIGESTS = "database", "paths", "digests.json"  # in a backup
TIME, PARTIAL = re.compile(r"\d{8}T\d{6}\.\d{6}"), ".partial"  # names of a backup, and of what is not finished
NUM_KEPT = 14

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
Database = Annotated[
    str,
    typer.Option(envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's backend store: sqlite:///FILE or postgresql://…"),
]
Paths = Annotated[list[str], typer.Option("--path", help="NAME=PATH of a folder or a file; may be repeated")]


def save(database: str, paths: Mapping[str, Path], out: Path, *, num_kept: int = NUM_KEPT) -> Path:
    """Saves a database, folders and files to a new folder in `out`, keeps the newest `num_kept` there, and returns the new one.

    A path that does not exist yet is saved as empty (the endpoint makes its ledger at its first start), unless a backup in `out` has it.

    Raises:
        UsageError: a path or the database file is missing.
        ServiceUnavailableError: pg_dump failed.
        DubmillError: a file cannot be read or written.
    """
    for name, path in paths.items():
        if not path.exists() and (not path.parent.is_dir() or any(map(_is_filled, out.glob(f"*/{PATHS}/{name}")))):
            raise UsageError("there is nothing to save", where=str(path), cure="check --path")
    target = out / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    with _as_sentence(), _only_process(out):
        for old in list(out.iterdir()):
            if old.suffix == PARTIAL or (TIME.fullmatch(old.name) and not (old / DIGESTS).is_file()):
                _remove(old)
        partial = out / f".{target.name}{PARTIAL}"
        try:
            _fill(partial, database, paths)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in sorted(path.parent for path in out.glob(f"*/{DIGESTS}"))[:-num_kept]:
            shutil.rmtree(old)
    return target


def _fill(folder: Path, database: str, paths: Mapping[str, Path]) -> None:
    (folder / PATHS).mkdir(parents=True)
    _dump(database, folder / DATABASE)
    for name, path in paths.items():
        _copy(path, folder / PATHS / name)
    write_atomically(folder / DIGESTS, json.dumps(_digests(folder), indent=1).encode())


def restore(backup: Path, database: str, paths: Mapping[str, Path]) -> None:
    """Restores a backup, every byte checked, to a database and paths that are missing or empty, or that this restored before.

    The database comes last: PostgreSQL's is restored in one transaction, which cannot be repeated.

    Raises:
        ChangedArtifactError: the backup is incomplete or damaged.
        UsageError: a place is not empty, and nothing is overwritten; or the backup has no such path.
        ServiceUnavailableError: pg_restore failed.
        DubmillError: a file cannot be read or written.
    """
    _check(backup)
    sources = {path: backup / PATHS / name for name, path in paths.items()}
    if database.startswith(SQLITE):
        sources[Path(database.removeprefix(SQLITE))] = backup / DATABASE
    for source in sources.values():
        if not source.exists():
            raise UsageError(f"the backup has no {source.name!r}", where=str(backup), cure="check --path")
    with _as_sentence():
        waiting = [path for path, source in sources.items() if not path.exists() or _digests(path) != _digests(source)]
        for path in waiting:
            for there in (path, *_journals(path)):
                if there.is_file() or _is_filled(there):
                    raise UsageError("there is something already", where=str(there), cure="move it away")
        for path in waiting:
            _place(sources[path], path)
    if not database.startswith(SQLITE):
        options = ("--exit-on-error", "--single-transaction", "--no-owner", str(backup / DATABASE))
        _run_on(database, "pg_restore", *options)


def _journals(database: Path) -> list[Path]:
    """Returns the files that SQLite keeps beside a database, and would play into a restored one."""
    return [database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal")]


def _place(source: Path, target: Path) -> None:
    """Copies a file or a folder, which is there as a whole or not at all."""
    partial = target.with_name(f".{target.name}{PARTIAL}")
    _remove(partial)  # of a restore that was interrupted
    _copy(source, partial)
    partial.replace(target)


@contextmanager
def _as_sentence() -> Iterator[None]:
    """Turns an error of a file into one that names file and reason."""
    cure = "check the place, its rights and its free room, then run the same command again"
    try:
        yield
    except shutil.Error as error:  # of a folder: (source, target, reason) of each file
        source, _, reason = error.args[0][0]
        raise DubmillError(
            f"{len(error.args[0])} files cannot be copied ({reason})", where=source, cure=cure
        ) from error
    except OSError as error:
        raise DubmillError(error.strerror or str(error), where=str(error.filename or ""), cure=cure) from error
    except sqlite3.Error as error:
        raise DubmillError(f"the database cannot be copied ({error})", cure=cure) from error


@contextmanager
def _only_process(out: Path) -> Iterator[None]:
    """Waits until no other backup is being made in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copyfile(source, target)
    elif source.suffix:  # a file that is not there yet
        target.touch()
    else:
        target.mkdir()


def _is_filled(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digests(place: Path) -> dict[str, str]:
    """Returns the digest of each file in a folder, by its path in it; of a file, under the name `.`."""
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    return {path.relative_to(place).as_posix(): sha256_of(path) for path in files}


def _check(backup: Path) -> None:
    if not (backup / DIGESTS).is_file():
        raise ChangedArtifactError("the backup is not complete", where=str(backup), cure="take another one")
    for name, digest in json.loads((backup / DIGESTS).read_bytes()).items():
        if not (backup / name).is_file() or sha256_of(backup / name) != digest:
            raise ChangedArtifactError(f"{name} is damaged or gone", where=str(backup), cure="take another one")


def _dump(database: str, target: Path) -> None:
    if not database.startswith(SQLITE):
        _run_on(database, "pg_dump", "--format=custom", f"--file={target}")
        return
    source = Path(database.removeprefix(SQLITE))
    if not source.is_file():
        raise UsageError("there is no such database", where=str(source), cure="check --database")
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)  # a consistent copy while others write


def _run_on(database: str, program: str, *options: str) -> None:
    """Runs a program of PostgreSQL; the password is in its environment, since everybody on the node can read its arguments."""
    if shutil.which(program) is None:
        raise UsageError(f"{program} is not installed", cure="install PostgreSQL's client programs")
    url, password = _without_password(database)
    environment = os.environ | ({"PGPASSWORD": password} if password else {})
    command = [program, f"--dbname={url}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ServiceUnavailableError(f"{program} failed ({lines[-1][:200]})", cure="check the database's address")


def _without_password(database: str) -> tuple[str, str]:
    """Returns the URL for PostgreSQL's own programs, and the password that it held."""
    found = POSTGRESQL.fullmatch(database)
    if found is None:
        raise UsageError(
            "neither SQLite nor PostgreSQL", where="--database", cure="write sqlite:///FILE or postgresql://…"
        )
    user, password, rest = found.groups(default="")
    place, mark, query = rest.partition("?")
    options = [one.partition("=") for one in query.split("&")]
    password = next((value for name, _, value in reversed(options) if name == "password"), password)
    if any(name == "sslpassword" for name, _, _ in options):
        raise UsageError("sslpassword would be seen in arguments", where="--database", cure="use a key without one")
    query = "&".join("".join(one) for one in options if one[0] != "password")
    return f"postgresql://{user}{'@' if user else ''}{place}{mark if query else ''}{query}", unquote(password)


def _named(given: list[str]) -> dict[str, Path]:
    pairs = [one.partition("=") for one in given]
    if any(not name or not path for name, _, path in pairs):
        raise UsageError("a path has no name", where="--path", cure="write NAME=PATH")
    named = {name: Path(path) for name, _, path in pairs}
    if len(named) < len(pairs):
        raise UsageError("two paths have the same name", where="--path", cure="give each a name of its own")
    return named


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
