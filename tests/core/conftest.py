"""The schema, made once, and worlds that are closed when their test ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import hypothesis
import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import accounts
from gateway.core.tables import METADATA, VIRTUAL_KEYS
from migrations import upgrade
from storage.database import Database
from tests.core.vendors import ScriptedProvider
from tests.core.world import CALLER, OTHER, START, Shelf, World

# The same examples in every run, and no failure because a machine is busy.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")


class MakeWorld(Protocol):
    """Makes a world whose model has these providers as its routes."""

    def __call__(self, *providers: ScriptedProvider, **members: object) -> World: ...


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Databases as migrations leave them, with two virtual keys."""
    folder = tmp_path_factory.mktemp("worlds")
    asyncio.run(prepare(f"sqlite:///{folder}/schema"))
    return Shelf(folder / "schema", folder)


@pytest.fixture
async def make_world(shelf: Shelf) -> AsyncIterator[Callable[..., World]]:
    """Makes one world on a database of its own, and closes it at the end of the test."""
    made: list[World] = []

    def make(*providers: ScriptedProvider, **members: object) -> World:
        made.append(World(shelf.take(), *providers, **members))  # type: ignore[arg-type]  # as given
        return made[-1]

    yield make
    for world in made:
        await world.rt.close(1)
        shelf.free.append(world.db)


async def prepare(url: str) -> None:
    """Makes the schema of a database, and the two virtual keys."""
    await upgrade(url)
    db = Database(url)
    async with db.write() as connection:
        await _issue_keys(connection)
    await db.close()


async def empty(db: Database) -> None:
    """Leaves a PostgreSQL database as `prepare` did; the ledger, which lets nobody delete, is made to let us."""
    tables = ", ".join(table.name for table in METADATA.sorted_tables)
    async with db.write() as connection:
        await connection.execute(text("ALTER TABLE entries DISABLE TRIGGER USER"))
        await connection.execute(text(f"TRUNCATE {tables}"))
        await connection.execute(text("ALTER TABLE entries ENABLE TRIGGER USER"))
        await _issue_keys(connection)


async def _issue_keys(connection: AsyncConnection) -> None:
    keys = [
        {"id": one.key_id, "digest": one.key_id, "hint": "none", "name": one.key_id, "created_at": START}
        for one in (CALLER, OTHER)
    ]
    await connection.execute(insert(VIRTUAL_KEYS), keys)
    for one in (CALLER, OTHER):
        await accounts.make(connection, one.key_id, one.key_id, START)
