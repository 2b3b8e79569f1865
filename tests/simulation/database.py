"""The database: SQLite in memory for all processes, one transaction at a time, and trouble on every way to it.

A reader waits while a transaction is open, and so sees what is committed: to read the state before it is to have read
earlier and got the answer late.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy import Connection, CursorResult, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import StaticPool

from migrations import upgrade
from storage.database import Database, DatabaseUnavailable

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

# Seconds that a transaction waits for another to end.
PATIENCE = 10.0


class Server:
    """The database itself, and the queue of those who want to write."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.world = world
        self.connection = connection
        self.raw = cast(sqlite3.Connection, connection.connection.driver_connection)
        self.holder: Session | None = None
        self._waiting: deque[tuple[Session, asyncio.Future[None]]] = deque()

    async def begin(self, session: Session) -> None:
        """Opens a transaction, as soon as no other is open."""
        await self.idle(session)
        self.holder = session
        self.raw.execute("SAVEPOINT step")

    def commit(self, session: Session) -> None:
        """Makes the transaction stand."""
        self._end()
        self.world.watch.look(session.process)

    def roll_back(self, session: Session) -> None:
        """Undoes the transaction. One that was given up already is undone already."""
        if self.holder is session:
            self.raw.execute("ROLLBACK TO step")
            self._end()

    def _end(self) -> None:
        self.raw.execute("RELEASE step")
        self.holder = None
        if self._waiting:
            self._wake()

    async def idle(self, session: Session) -> None:
        """Waits until no transaction is open; raises DatabaseUnavailable when that takes too long."""
        if self.holder is None:
            return
        future: asyncio.Future[None] = self.world.loop.create_future()
        self._waiting.append((session, future))
        try:
            async with asyncio.timeout(PATIENCE):
                await future
        except TimeoutError as error:
            raise DatabaseUnavailable("locked") from error
        finally:
            self._waiting = deque(one for one in self._waiting if one[1] is not future)
        if self.holder is not None:
            await self.idle(session)

    def _wake(self) -> None:
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)

    def abandon(self, process: Process) -> None:
        """Ends the transaction of a process from which nothing is heard any more."""
        if self.holder is not None and self.holder.process is process:
            self.holder.broken = True
            self.roll_back(self.holder)


class Session:
    """A connection of one process, as long as it is in use."""

    def __init__(self, server: Server, process: Process, *, single: bool) -> None:
        self.server = server
        self.process = process
        self.single = single
        self.broken = False

    async def execute(self, statement: Any, parameters: Any = None) -> CursorResult[Any]:
        """Executes a statement, within the transaction or by itself."""
        await self.reach("database.statement")
        if not self.single:
            return self._run(statement, parameters)
        await self.server.idle(self)
        self.process.check()
        result = self._run(statement, parameters)
        self.server.world.watch.look(self.process)
        await self.reach("database.answer", "database.after")
        return result

    async def reach(self, point: str, trouble: str | None = None) -> None:
        """The way there or back, on which there may be trouble, or a delay for longer than a lease."""
        world = self.process.world
        await self.process.wait(point)
        if world.weather.strikes("database.slow"):
            await asyncio.sleep(world.settings.lease_seconds * 2 * world.random.random())
            self.process.check()
        kind = trouble or point
        if self.broken or world.weather.strikes(kind):
            raise DatabaseUnavailable(kind)

    def _run(self, statement: Any, parameters: Any) -> CursorResult[Any]:
        return self.server.connection.execute(statement, parameters)


class SimulatedDatabase(Database):
    """One process's way to the database."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self.sqlite = True

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        await self._connect()
        yield _as_connection(Session(self.world.server, self.process, single=True))

    @asynccontextmanager
    async def write_one(self) -> AsyncIterator[AsyncConnection]:
        await self._connect()
        yield _as_connection(Session(self.world.server, self.process, single=True))

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        await self._connect()
        session = Session(self.world.server, self.process, single=False)
        await session.server.begin(session)
        try:
            yield _as_connection(session)
            await session.reach("database.commit")
        except BaseException:
            session.server.roll_back(session)
            raise
        session.server.commit(session)
        await session.reach("database.committed", "database.after")

    async def check(self) -> None:
        await self._connect()

    async def time(self) -> dt.datetime:
        return self.world.now()

    async def close(self) -> None:
        return None

    async def _connect(self) -> None:
        self.process.check()
        weather = self.world.weather
        if weather.is_away("database", self.world.loop.time()):
            await asyncio.sleep(0.05)
            raise DatabaseUnavailable("away")
        if weather.strikes("database.before"):
            raise DatabaseUnavailable("not reached")


def _as_connection(session: Session) -> AsyncConnection:
    return cast(AsyncConnection, session)


class _Eager(sqlite3.Cursor):
    """Fetches all rows at once: nothing stays open over a wait."""

    rows: list[Any]

    def execute(self, *given: Any) -> _Eager:
        super().execute(*given)
        self.rows = super().fetchall()[::-1] if self.description else []
        return self

    def executemany(self, *given: Any) -> _Eager:
        super().executemany(*given)
        self.rows = []
        return self

    def fetchone(self) -> Any:
        return self.rows.pop() if self.rows else None

    def fetchall(self) -> list[Any]:
        rows, self.rows = self.rows[::-1], []
        return rows

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self.rows.pop() for _ in range(min(size or 1, len(self.rows)))]


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_Eager)


@cache
def connection() -> Connection:
    """The one connection of this program, which all seeds use in turn: compiling statements is what costs time."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(":memory:", factory=_Connection, isolation_level=None, cached_statements=500),
        poolclass=StaticPool,
        isolation_level="AUTOCOMMIT",
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    made = engine.connect()
    raw = cast(sqlite3.Connection, made.connection.driver_connection)
    raw.isolation_level = None
    raw.deserialize(_schema())
    raw.execute("PRAGMA foreign_keys=ON")
    raw.execute("BEGIN")
    return made


def reset(raw: sqlite3.Connection) -> None:
    """Leaves the schema, and no rows: a whole seed is one transaction, in which the others are but steps."""
    raw.execute("ROLLBACK")
    raw.execute("BEGIN")


@cache
def _schema() -> bytes:
    """The schema as migrations leave it."""
    with tempfile.TemporaryDirectory(prefix="heliograph-") as folder:
        file = Path(folder) / "schema.db"
        asyncio.run(upgrade(f"sqlite:///{file}"))
        with _opened(file) as source, _opened(":memory:") as memory:
            # A copy knows nothing of the log beside the file.
            source.backup(memory)
            return memory.serialize()


@contextmanager
def _opened(where: Path | str) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(where)
    try:
        yield made
    finally:
        made.close()
