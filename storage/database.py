"""The database: connections to PostgreSQL or SQLite behind two words, `read` and `write`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10


class DatabaseUnavailable(Exception):
    """The database could not be reached or did not answer in time. Nothing of the transaction stands."""


def async_url(url: str) -> URL:
    """The URL with the driver that this package uses; raises ValueError for another kind of database."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend not in DRIVERS:
        raise ValueError(f"{backend} is not a database that is supported; use postgresql or sqlite")
    return parsed.set(drivername=DRIVERS[backend])


class Database:
    """Connections to one database. Give one to whoever reads or writes rows; close it at the end."""

    def __init__(self, url: str, *, connections: int = 16) -> None:
        self.url = async_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(self.url) if self.sqlite else _postgres_engine(self.url, connections)
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        # SQLite has one writer: queueing for it here is cheaper and fairer than its busy loop.
        self._writer: AbstractAsyncContextManager[Any] = asyncio.Lock() if self.sqlite else nullcontext()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, outside of any transaction."""
        with _translated():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back when the block raises."""
        with _translated():
            async with self._writer, self.engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def write_one(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each single statement is its own transaction: one round trip in place of three."""
        with _translated():
            async with self._writer, self._reader.connect() as connection:
                yield connection

    async def check(self) -> None:
        """Raises DatabaseUnavailable when a trivial query is not answered."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()


class _translated:  # noqa: N801 - used as a word in a with statement, like contextlib's own
    """Turns a driver's trouble with the connection into DatabaseUnavailable, and lets statement errors through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        lost = isinstance(error, OperationalError | InterfaceError | PoolTimeoutError | OSError | TimeoutError)
        if lost or (isinstance(error, DBAPIError) and error.connection_invalidated):
            raise DatabaseUnavailable(type(error).__name__) from error


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _postgres_engine(url: URL, connections: int) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        json_serializer=_encode,
        json_deserializer=msgspec.json.decode,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": STATEMENT_SECONDS,
            "server_settings": {"application_name": "heliograph", "lock_timeout": "5s", "jit": "off"},
        },
    )


def _sqlite_engine(url: URL) -> AsyncEngine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url,
        json_serializer=_encode,
        json_deserializer=msgspec.json.decode,
        connect_args={"timeout": STATEMENT_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _tune_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    cursor = connection.cursor()
    # FULL: a committed row survives a power cut too, which NORMAL does not promise in WAL mode.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # The write lock is taken at once: a transaction that reads first could not be upgraded beside another writer.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
