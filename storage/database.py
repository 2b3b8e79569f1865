"""The database: connections to PostgreSQL or SQLite behind three words, `read`, `write` and `write_one`."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
# How the SQLSTATE of trouble begins that has nothing to do with the statement: the connection, a deadlock, a lack of
# memory or room, a lock that was not had in time, an operator's shutdown, a broken disk.
TROUBLE = ("08", "40", "53", "55P03", "57", "58")


class DatabaseUnavailable(Exception):
    """The database could not be reached, did not answer in time, or had to give the transaction up.

    Nothing of the transaction stands, unless the answer to its commit was what got lost: then nobody knows.
    """


def async_url(url: str) -> URL:
    """The URL with the driver that this package uses; raises ValueError for another kind of database."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("the database's address is no URL such as postgresql://user@host/name") from error
    backend = parsed.get_backend_name()
    if backend not in DRIVERS:
        raise ValueError(f"{backend} is not a database that is supported; use postgresql or sqlite")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:////absolute/path/of/the.db")
    # The rest of the world says sslmode, and so do the URLs that hosts of PostgreSQL hand out.
    query = {"ssl" if name == "sslmode" else name: value for name, value in parsed.query.items()}
    return parsed.set(drivername=DRIVERS[backend], query=query)


class Database:
    """Connections to one database. Give one to whoever reads or writes rows; close it at the end."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 16,
        connect_seconds: float = CONNECT_SECONDS,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self.url = async_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite:
            # SQLite has one writer: queueing for its only connection is cheaper and fairer than its busy loop.
            self._reading = _sqlite_engine(self.url, connections, statement_seconds)
            self._writing = _sqlite_engine(self.url, 1, statement_seconds)
            event.listen(self._writing.sync_engine, "begin", _begin_immediate)
            self._writing_one = self._writing.execution_options(single=True)
        else:
            self._writing = _postgres_engine(self.url, connections, connect_seconds, statement_seconds)
            self._reading = self._writing_one = self._writing.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, outside of any transaction."""
        async with _connected(self._reading) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back when the block raises."""
        async with _connected(self._writing) as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def write_one(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each single statement is its own transaction: one round trip in place of three."""
        async with _connected(self._writing_one) as connection:
            yield connection

    async def check(self) -> None:
        """Raises DatabaseUnavailable when a trivial query is not answered."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def time(self) -> dt.datetime:
        """What time it is for the database, with its zone; SQLite has no other clock than ours."""
        if self.sqlite:
            return dt.datetime.now(dt.UTC)
        async with self.read() as connection:
            found: dt.datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return found.astimezone(dt.UTC)

    async def close(self) -> None:
        """Closes all connections."""
        await self._reading.dispose()
        await self._writing.dispose()


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection; whatever keeps us from getting one, a refused login included, is DatabaseUnavailable."""
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(engine.connect())
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            raise DatabaseUnavailable(type(error).__name__) from error
        yield connection


def _translate(context: ExceptionContext) -> None:
    """Raises DatabaseUnavailable for trouble with the connection, and lets what is wrong with a statement through."""
    error = context.original_exception
    # A cancellation ends the connection as well, but that is the caller's own wish.
    if isinstance(error, Exception) and (context.is_disconnect or _is_trouble(error)):
        raise DatabaseUnavailable(type(error).__name__) from error


def _is_trouble(error: Exception) -> bool:
    if isinstance(error, OSError):
        return True
    if isinstance(error, sqlite3.OperationalError):
        # SQLITE_ERROR is what SQLite says to a bad statement, such as one on a table that is not there.
        return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    return str(getattr(error, "sqlstate", "")).startswith(TROUBLE)


def _engine(url: URL, connections: int, wait_seconds: float, connect_args: dict[str, Any]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_seconds,
        hide_parameters=True,  # prompts are among them
        json_serializer=_encode,
        json_deserializer=msgspec.json.decode,
        connect_args=connect_args,
    )
    event.listen(engine.sync_engine, "handle_error", _translate)
    return engine


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _postgres_engine(url: URL, connections: int, connect_seconds: float, statement_seconds: float) -> AsyncEngine:
    settings = {"application_name": "heliograph", "lock_timeout": "5s", "jit": "off"}
    limits = {"timeout": connect_seconds, "command_timeout": statement_seconds}
    return _engine(url, connections, connect_seconds, {**limits, "server_settings": settings})


def _sqlite_engine(url: URL, connections: int, statement_seconds: float) -> AsyncEngine:
    # Prompts are in the file: its folder is nobody else's, when it is ours to make.
    Path(url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = _engine(url, connections, statement_seconds, {"timeout": statement_seconds})
    event.listen(engine.sync_engine, "connect", _tune_sqlite)
    return engine


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    cursor = connection.cursor()
    _write_ahead(cursor)
    # FULL: a committed row survives a power cut too, which NORMAL does not promise in WAL mode.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Turns the log of a new file on. SQLite does not wait here for another program that does the same just now."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            await_only(asyncio.sleep(0.01))


def _begin_immediate(connection: Connection) -> None:
    # The write lock is taken at once: a transaction that reads first could not be upgraded beside another writer.
    if not connection.get_execution_options().get("single"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
