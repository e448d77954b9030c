"""The database of the queue: SQLite or PostgreSQL, opened as DBOS uses it."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

from dubmill.errors import ServiceUnavailableError


def open_queue(database: str) -> DBOSClient:
    """A client of the queue, whose tables are created where they are missing.

    Raises:
        ServiceUnavailableError: the database cannot be reached.
    """
    if database.startswith("sqlite:///"):
        path = Path(database.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:  # the mode stays with the file: readers do not wait for a writer
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    logging.getLogger("dbos").setLevel(logging.WARNING)  # it has a line for each of a hundred migrations
    try:
        DBOS.migrate(database)
        return DBOSClient(system_database_url=database, serializer=DBOSPortableJSONSerializer())
    except Exception as error:  # noqa: BLE001 (of any driver)
        what = f"the database of jobs cannot be opened ({type(error).__name__})"
        raise ServiceUnavailableError(what, cure="give a --database that can be reached") from error
