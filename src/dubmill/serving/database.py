"""The database of the queue: SQLite or PostgreSQL, opened as DBOS uses it, and watched."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy import Column, Engine, Float, Index, MetaData, String, Table, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dubmill.errors import ServiceUnavailableError

log = logging.getLogger("dubmill.serving")

AWAY = (OperationalError, InterfaceError, PoolTimeoutError)  # raised while a database does not answer
WATCH_SECONDS = 2.0
REPEAT_SECONDS = 60.0  # between two lines of DBOS on its connection
LOST = ("onnection", "OperationalError", "InterfaceError", "poll failed")  # parts of such a line
# of libpq: an address that does not answer, and a connection that was cut without a word
TIMEOUTS = {"connect_timeout": "10", "tcp_user_timeout": "30000"}
CREATING = 4_914_411  # number of a lock: two servers that start at once do not both create the table
DUBBED = Table(
    "dubmill_dubbed_seconds",
    MetaData(),
    Column("job", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("finished", Float, nullable=False),  # seconds since 1970
)
Index("dubmill_dubbed_seconds_of_owner", DUBBED.c.owner, DUBBED.c.finished)


class RetryLaterError(ServiceUnavailableError):
    """What prevents a request ends by itself; `retry_after_seconds` says when to come again."""

    retry_after_seconds = 1


class DatabaseUnavailableError(RetryLaterError):
    """The database of jobs does not answer."""

    retry_after_seconds = 5

    def __init__(
        self, what: str = "the database of jobs does not answer", *, where: str = "", cure: str = "try again soon"
    ) -> None:
        super().__init__(what, where=where, cure=cure)


class DatabaseWatch(logging.Filter):
    """Whether the database answers: logged once when it stops and once when it answers again, in place of DBOS's line at every try."""

    def __init__(self, client: DBOSClient) -> None:
        super().__init__()
        self.is_away = False
        self._client, self._last_line = client, -REPEAT_SECONDS

    def watch(self) -> None:
        """Look at the database every `WATCH_SECONDS`, without end."""
        logging.getLogger("dbos").addFilter(self)
        while True:
            self.look()
            time.sleep(WATCH_SECONDS)

    def look(self) -> None:
        """Try the database, and log a change."""
        try:
            self._client.check_connection()
        except AWAY as error:
            if not self.is_away:
                log.error("the database of jobs does not answer; it is tried until it does (%s)", _first_line(error))
            self.is_away = True
        else:
            if self.is_away:
                log.warning("the database of jobs answers again")
            self.is_away = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line of DBOS is written: of those on its connection none while the database is away, else one a minute."""
        if not any(part in record.getMessage() for part in LOST):
            return True
        if self.is_away or time.monotonic() - self._last_line < REPEAT_SECONDS:
            return False
        self._last_line = time.monotonic()
        return True


def open_queue(database: str) -> DBOSClient:
    """A client of the queue, whose tables are created where they are missing; its calls raise one of `AWAY` and do not wait.

    Raises:
        ServiceUnavailableError: the database cannot be reached, or its user may not create tables.
    """
    if database.startswith("sqlite:///"):
        path = Path(database.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:  # the mode stays with the file: readers do not wait for a writer
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    logging.getLogger("dbos").setLevel(logging.WARNING)  # it has a line for each of a hundred migrations
    try:
        url = make_url(database)
        if url.get_backend_name() == "postgresql":
            url = url.update_query_dict({name: seconds for name, seconds in TIMEOUTS.items() if name not in url.query})
        database = url.render_as_string(hide_password=False)
        DBOS.migrate(database)
        client = DBOSClient(
            system_database_url=database, serializer=DBOSPortableJSONSerializer(), retry_connection_errors=False
        )
        _create_tables(client)
        return client
    except Exception as error:  # noqa: BLE001 (of any driver)
        what = f"the database of jobs cannot be opened ({type(getattr(error, 'orig', error)).__name__})"
        cure = "give a --database that can be reached, with a user who may create tables"
        raise ServiceUnavailableError(what, cure=cure) from error


def engine_of(client: DBOSClient) -> Engine:
    """The engine of the queue, for tables beside its own: the same transactions, timeouts and schema."""
    engine, schema = client._sys_db.engine, client._sys_db.schema
    return engine.execution_options(schema_translate_map={None: schema}) if schema else engine  # SQLite has none


def _create_tables(client: DBOSClient) -> None:
    try:
        with engine_of(client).begin() as connection:
            if client._sys_db.schema:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({CREATING})"))
            DUBBED.metadata.create_all(connection)
    except SQLAlchemyError:
        client.destroy()  # a worker tries again, without end
        raise


def _first_line(error: Exception) -> str:
    """The first line of what a driver says, or of an error without words its type."""
    lines = str(getattr(error, "orig", error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
