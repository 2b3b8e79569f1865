"""The database's words on both engines: what stands, what is undone, what waits, and what trouble is called."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import JSON, Column, ForeignKey, Integer, MetaData, Table, Text, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database, DatabaseUnavailable, async_url
from tests.processes import free_port
from tests.proxy import Proxy

TABLES = MetaData()
NOTES = Table("notes", TABLES, Column("id", Integer, primary_key=True), Column("words", Text), Column("facts", JSON))
LINES = Table("lines", TABLES, Column("id", Integer, primary_key=True), Column("note", ForeignKey("notes.id")))
SECRET = "a prompt that nobody may read in a log"


class Line(Proxy):
    """A line that can also fall silent, as one does whose far end lost its power."""

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Passes nothing on inside the block."""
        over = threading.Event()
        self._loop.call_soon_threadsafe(over.wait, 30)
        try:
            yield
        finally:
            over.set()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database, once for each engine."""
    return f"sqlite:///{tmp_path}/rows.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """A database with our tables, and one note in it."""
    db = Database(url)
    async with db.write() as connection:
        await connection.run_sync(TABLES.create_all)
        await connection.execute(insert(NOTES).values(id=1, words="old"))
    yield db
    async with db.write() as connection:
        await connection.run_sync(TABLES.drop_all)
    await db.close()


@pytest.fixture
def line(postgres_url: str) -> Iterator[Line]:
    """A line to PostgreSQL that can be cut."""
    server = urlsplit(postgres_url)
    line = Line(server.hostname or "127.0.0.1", server.port or 5432)
    yield line
    line.close()


def through(line: Line, postgres_url: str) -> str:
    """The URL of the database at the end of the line."""
    server = urlsplit(postgres_url)
    login, _, _ = server.netloc.rpartition("@")
    return server._replace(netloc=f"{login}@127.0.0.1:{line.port}").geturl()


async def words(db: Database) -> str:
    """What the first note says."""
    async with db.read() as connection:
        return await said(connection)


async def said(connection: AsyncConnection) -> str:
    """What the first note says to this connection."""
    return str((await connection.execute(select(NOTES.c.words).where(NOTES.c.id == 1))).scalar_one())


async def say(connection: AsyncConnection, text: str) -> None:
    """Changes the first note."""
    await connection.execute(update(NOTES).where(NOTES.c.id == 1).values(words=text))


async def test_a_transaction_stands_when_its_block_ends(db: Database) -> None:
    """What a transaction wrote is unseen until its block ends, and seen by everybody afterwards."""
    async with db.write() as connection:
        await say(connection, "new")
        assert await words(db) == "old"
    assert await words(db) == "new"


@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError, TimeoutError])
async def test_a_block_that_raises_is_rolled_back(db: Database, error: type[Exception]) -> None:
    """An error inside a transaction undoes it and comes out as it is, also one that a connection could raise."""

    async def fail() -> None:
        async with db.write() as connection:
            await say(connection, "new")
            raise error

    with pytest.raises(error):
        await fail()
    assert await words(db) == "old"


async def test_a_cancelled_transaction_is_rolled_back_and_lets_the_next_in(db: Database) -> None:
    """A transaction whose task is cancelled leaves nothing behind, neither rows nor the writer's seat."""
    writing = asyncio.Event()

    async def write() -> None:
        async with db.write() as connection:
            await say(connection, "never")
            writing.set()
            await asyncio.Event().wait()

    writers = [asyncio.create_task(write()) for _ in range(2)]
    await writing.wait()
    for writer in writers:
        writer.cancel()
    await asyncio.wait(writers)
    async with db.write() as connection:
        assert await said(connection) == "old"
        await say(connection, "new")
    assert await words(db) == "new"


@pytest.mark.parametrize("word", ["read", "write", "write_one"])
async def test_a_statement_that_is_cancelled_is_no_trouble_of_the_database(postgres_url: str, word: str) -> None:
    """Whoever is cancelled in the middle of a statement is cancelled, and the connection harms nobody later."""
    db = Database(postgres_url, connections=1)
    sleeping = asyncio.Event()

    async def sleep() -> None:
        async with getattr(db, word)() as connection:
            sleeping.set()
            await connection.execute(text("SELECT pg_sleep(60)"))

    sleeper = asyncio.create_task(sleep())
    await sleeping.wait()
    await asyncio.wait([sleeper], timeout=0.1)
    sleeper.cancel()
    await asyncio.wait([sleeper], timeout=5)
    assert sleeper.cancelled()
    await db.check()
    await db.close()


async def test_write_one_makes_each_statement_stand_by_itself(db: Database) -> None:
    """A single statement is seen by others at once, and stands when the block raises after it."""

    async def fail() -> None:
        async with db.write_one() as connection:
            await say(connection, "new")
            assert await words(db) == "new"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await words(db) == "new"


async def test_read_sees_what_was_committed_while_it_is_open(db: Database) -> None:
    """A reader is in no transaction: its second query sees what another wrote after its first."""
    async with db.read() as connection:
        assert await said(connection) == "old"
        async with db.write() as writer:
            await say(writer, "new")
        assert await said(connection) == "new"


async def test_many_writers_take_turns(db: Database) -> None:
    """Fifty transactions at once that read and then write all succeed, and none of their changes is lost."""

    async def add(number: int) -> None:
        async with db.write() as connection:
            await said(connection)
            await connection.execute(insert(NOTES).values(id=10 + number, words="one of fifty"))
            await connection.execute(update(NOTES).where(NOTES.c.id == 1).values(words=NOTES.c.words + "."))

    await asyncio.gather(*(add(number) for number in range(50)))
    assert await words(db) == "old" + "." * 50


async def test_many_single_statements_take_turns(db: Database) -> None:
    """Fifty single statements at once, beside as many reads, all succeed, and none of their changes is lost."""

    async def add() -> None:
        async with db.write_one() as connection:
            await connection.execute(update(NOTES).where(NOTES.c.id == 1).values(words=NOTES.c.words + "."))

    await asyncio.gather(*(work for _ in range(50) for work in (add(), words(db))))
    assert await words(db) == "old" + "." * 50


async def test_two_programs_write_one_file(tmp_path: Path) -> None:
    """Two programs that open a new SQLite file at the same moment, and write it, do not fail for each other."""
    first, second = (Database(f"sqlite:///{tmp_path}/new/rows.db") for _ in range(2))

    async def add(db: Database, number: int) -> None:
        async with db.write() as connection:
            await connection.execute(select(NOTES.c.id))
            await connection.execute(insert(NOTES).values(id=number))

    await asyncio.gather(*(db.check() for _ in range(10) for db in (first, second)))
    async with first.write() as connection:
        await connection.run_sync(TABLES.create_all)
    await asyncio.gather(*(add((first, second)[number % 2], number) for number in range(40)))
    async with second.read() as connection:
        assert len((await connection.execute(select(NOTES.c.id))).all()) == 40
    await first.close()
    await second.close()


async def test_readers_do_not_wait_for_a_writer(db: Database) -> None:
    """More readers than a small pool has connections get the old row while a transaction is changing it."""
    async with db.write() as connection:
        await say(connection, "new")
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*(words(db) for _ in range(30)))) == {"old"}


async def test_json_is_kept_as_it_was_given(db: Database) -> None:
    """A JSON column gives back what was put in, on both engines."""
    facts = {"sizes": [1024, 0.5], "name": "Überblick 図", "none": None}
    async with db.write_one() as connection:
        await connection.execute(update(NOTES).values(facts=facts))
    async with db.read() as connection:
        assert (await connection.execute(select(NOTES.c.facts))).scalar_one() == facts


async def test_constraint_errors_pass_through(db: Database) -> None:
    """A row that breaks a constraint is the statement's own error, by whichever word it is written."""
    for word in (db.write, db.write_one):
        with pytest.raises(IntegrityError):
            async with word() as connection:
                await connection.execute(insert(NOTES).values(id=1))
        with pytest.raises(IntegrityError):
            async with word() as connection:
                await connection.execute(insert(LINES).values(id=1, note=999))


async def test_parameters_are_in_no_message(db: Database) -> None:
    """An error does not repeat the values that it was about: they may be a prompt or a key."""
    with pytest.raises(IntegrityError) as caught:
        async with db.write() as connection:
            await connection.execute(insert(NOTES).values(id=1, words=SECRET))
    assert SECRET not in str(caught.value)


async def test_a_bad_statement_is_no_trouble_of_the_database(db: Database) -> None:
    """A missing table or broken SQL is the programmer's error, and is not taken for a database that is away."""
    for statement in ("SELECT * FROM nowhere", "SELECT SELECT"):
        with pytest.raises(DBAPIError):
            async with db.read() as connection:
                await connection.execute(text(statement))
    await db.check()


async def test_sqlite_is_tuned_for_safety(tmp_path: Path) -> None:
    """Every SQLite connection has the write-ahead log, full syncs, and foreign keys that count."""
    db = Database(f"sqlite:///{tmp_path}/rows.db")
    for word in (db.read, db.write, db.write_one):
        async with word() as connection:
            pragmas = ("journal_mode", "synchronous", "foreign_keys")
            values = [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in pragmas]
        assert values == ["wal", 2, 1]
    await db.close()


async def test_sqlite_locked_by_another_program_is_unavailable_within_the_limit(tmp_path: Path) -> None:
    """While another program keeps the write lock, writes are given up in time, and reads go on; later all is well."""
    db = Database(f"sqlite:///{tmp_path}/rows.db", statement_seconds=0.2)
    async with db.write() as connection:
        await connection.run_sync(TABLES.create_all)
        await connection.execute(insert(NOTES).values(id=1, words="old"))
    other = sqlite3.connect(tmp_path / "rows.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for word in (db.write, db.write_one):
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(5), word() as connection:
                await say(connection, "new")
    assert await words(db) == "old"
    other.execute("ROLLBACK")
    other.close()
    async with db.write() as connection:
        await say(connection, "new")
    assert await words(db) == "new"
    await db.close()


async def test_waiting_for_a_connection_has_a_limit(url: str) -> None:
    """Who finds every connection taken is told so in time."""
    db = Database(url, connections=1, connect_seconds=0.2, statement_seconds=0.2)
    async with db.write():
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(5), db.write():
                pass
    await db.check()
    await db.close()


async def test_a_closed_port_is_unavailable() -> None:
    """A server that is not there is DatabaseUnavailable, at once and by every word."""
    db = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    for word in (db.read, db.write, db.write_one):
        with pytest.raises(DatabaseUnavailable) as caught:
            async with asyncio.timeout(5), word() as connection:
                await connection.execute(text("SELECT 1"))
        assert isinstance(caught.value.__cause__, OSError)
    await db.close()


async def test_a_server_that_says_nothing_is_unavailable_within_the_limit() -> None:
    """A server that takes the connection and never answers costs the time limit of connecting, not more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = Database(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing", connect_seconds=0.3)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await db.check()
        assert time.monotonic() - began < 5
        await db.close()


@pytest.mark.parametrize("word", ["read", "write", "write_one"])
async def test_a_slow_statement_is_given_up_within_the_limit(postgres_url: str, word: str) -> None:
    """A statement that is not answered in time is DatabaseUnavailable, and the next one works."""
    db = Database(postgres_url, statement_seconds=0.3)
    with pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(5), getattr(db, word)() as connection:
            await connection.execute(text("SELECT pg_sleep(60)"))
    await db.check()
    await db.close()


async def test_a_deadlock_is_trouble_of_one(postgres_url: str) -> None:
    """Of two transactions that wait for each other, one is given up as unavailable, and the other one stands."""
    db = Database(postgres_url)
    locked = asyncio.Barrier(2)
    lock = text("SELECT pg_advisory_xact_lock(:number)")

    async def write(first: int, second: int) -> None:
        async with db.write() as connection:
            await connection.execute(lock, {"number": first})
            await locked.wait()
            await connection.execute(lock, {"number": second})

    outcomes = await asyncio.gather(write(1, 2), write(2, 1), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {type(None), DatabaseUnavailable}
    await db.close()


async def test_a_lost_line_is_unavailable_once(line: Line, postgres_url: str) -> None:
    """When the line to the server breaks, calls fail as unavailable; once it is back, idle connections do no harm."""
    db = Database(through(line, postgres_url))
    await asyncio.gather(*(db.check() for _ in range(8)))

    async def write() -> None:
        async with db.write() as connection:
            await connection.execute(text("SELECT 1"))
            line.cut()
            await connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        await write()
    with pytest.raises(DatabaseUnavailable):
        await db.check()
    line.mend()
    await asyncio.gather(*(db.check() for _ in range(8)))
    await db.close()


async def test_a_line_that_stalls_is_unavailable_within_the_limit(line: Line, postgres_url: str) -> None:
    """When a server falls silent in the middle of a transaction, the call ends in time, and the next works again."""
    db = Database(through(line, postgres_url), connections=1, statement_seconds=0.5)
    await db.check()
    began = time.monotonic()
    with line.silent(), pytest.raises(DatabaseUnavailable):
        async with db.write() as connection:
            await connection.execute(text("SELECT 1"))
    assert time.monotonic() - began < 10
    await db.check()
    await db.close()


async def test_a_restarted_server_is_unavailable_once(postgres_url: str) -> None:
    """Connections that the server ended while they were idle cost one failed call, and are then made anew."""
    db = Database(postgres_url)
    await asyncio.gather(*(db.check() for _ in range(8)))
    async with db.read() as connection:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        with pytest.raises(DatabaseUnavailable):
            await connection.execute(text(f"{end} ORDER BY pid = pg_backend_pid()"))
    await asyncio.gather(*(db.check() for _ in range(8)))
    await db.close()


async def test_a_refused_login_is_unavailable(postgres_url: str) -> None:
    """A database that the server does not know is DatabaseUnavailable, with the server's reason as its cause."""
    db = Database(urlsplit(postgres_url)._replace(path="/there_is_none_of_this_name").geturl())
    with pytest.raises(DatabaseUnavailable) as caught:
        await db.check()
    assert "there_is_none_of_this_name" in str(caught.value.__cause__)
    await db.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "postgres://host/name", "nonsense", "", "sqlite://",
                                 "sqlite:///:memory:"])  # fmt: skip
def test_another_kind_of_database_is_refused(url: str) -> None:
    """Only PostgreSQL and SQLite in a file are taken; anything else is a ValueError at once."""
    with pytest.raises(ValueError, match=r"supported|no URL|needs a file"):
        Database(url)


def test_urls_of_the_world_get_our_driver() -> None:
    """A plain URL gets the async driver, and the usual word for TLS its name there; a password stays hidden."""
    url = async_url("postgresql://me:secret@host:5433/rows?sslmode=require")
    assert (url.drivername, dict(url.query)) == ("postgresql+asyncpg", {"ssl": "require"})
    assert "secret" not in repr(url)
    assert async_url("sqlite:////data/rows.db").drivername == "sqlite+aiosqlite"
