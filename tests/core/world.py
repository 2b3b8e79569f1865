"""A small world to move tasks in: a real database file, a clock that is turned by hand, a scripted vendor.

Nothing waits: `World.step` turns the clock to when the row is due, rings as the sweep does, and advances once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import ssl
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping, select, update

from gateway.core import slots, tasks, turns
from gateway.core.advance import advance, go_on
from gateway.core.advisers import open_adviser
from gateway.core.catalog import Catalog
from gateway.core.config import AliasConfig
from gateway.core.crashing import CrashPoints
from gateway.core.destinations import Destinations
from gateway.core.enhancing import Enhancer
from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.health import Health
from gateway.core.hub import Hub
from gateway.core.inspection import Inspector
from gateway.core.keys import Caller
from gateway.core.lifecycle import FINAL
from gateway.core.outbound import Outbound, default_tls
from gateway.core.ports import TASK, Message, QueueError
from gateway.core.preparing import Wanted
from gateway.core.provenance import open_notary
from gateway.core.runtime import Runtime, derive_secrets, policy
from gateway.core.safety import open_safety
from gateway.core.settings import Settings
from gateway.core.tables import ASSETS, ATTEMPTS, EVENTS, TASKS
from gateway.core.tasks import TaskRecord
from gateway.core.waiting import Waiter
from providers.contract import Done, Order
from storage.memory import MemoryStore
from storage.objects import ObjectStore
from tests.core.trouble import FlakyDatabase
from tests.core.vendors import ScriptedProvider, generation, models_of

START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
SECRET = "an-installation-secret-for-tests-only"
CALLER, OTHER = Caller("key_mine"), Caller("key_other")


class Clock:
    """The time, as the test wants it. Sleeping turns it forward at once, and is remembered."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> dt.datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += dt.timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.forward(seconds)
        await asyncio.sleep(0)


class Bells:
    """A queue that keeps what it is given, or with `broken` takes nothing."""

    def __init__(self, *, broken: bool = False) -> None:
        self.messages: list[Message] = []
        self.broken = broken

    async def send(self, message: Message) -> None:
        if self.broken:
            raise QueueError("the broker is away")
        self.messages.append(message)

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        return None


class World:
    """A runtime over a database of its own, with `providers` as the routes of one model, in order."""

    def __init__(
        self,
        db: FlakyDatabase,
        *providers: ScriptedProvider,
        objects: ObjectStore | None = None,
        aliases: dict[str, AliasConfig] | None = None,
        concurrency: int = 8,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.births = count()
        self.bells = Bells()
        self.providers = {provider.card.name: provider for provider in providers}
        self.db = db
        executor = Executor(concurrency)
        made = Settings(**{"secret": SECRET, "drain_seconds": 1.0, **settings})
        self.rt = Runtime(
            settings=made,
            secrets=derive_secrets(made),
            db=self.db,
            objects=objects or MemoryStore(),
            catalog=Catalog(models_of(providers), aliases or {}, self.providers, max_pixels=made.max_pixels),
            queue=self.bells,
            executor=executor,
            waiter=Waiter(self.db, interval=0.005),
            hub=Hub(),
            outbound=Outbound(policy(made), tls=_tls()),
            inspector=Inspector(made.max_pixels),
            crash=CrashPoints(),
            health=Health(self.db, made, self.clock.now),
            destinations=Destinations(concurrency),
            safety=open_safety(made),
            enhancer=Enhancer(open_adviser(made, "enhance")),
            notary=open_notary(made),
            now=self.clock.now,
            sleep=self.clock.sleep,
        )
        executor.handlers = handlers(self.rt)

    def without(self, *names: str) -> Runtime:
        """The runtime of a process that was started after these providers had left the configuration."""
        left = {name: one for name, one in self.providers.items() if name not in names}
        catalog = Catalog(models_of(left.values()), {}, left)
        return replace(self.rt, catalog=catalog)

    async def create(self, caller: Caller = CALLER, **members: Any) -> str:
        """A new task, waiting for its first turn; `members` are those of the generation. Returns its id."""
        return (await self.accept(caller, **members)).id

    async def rung(self, caller: Caller = CALLER, **members: Any) -> str:
        """A new task that has its slot already, and was rung for with version 0. Returns its id."""
        task_id = await self.create(caller, **members)
        await slots.leave_line(self.rt, task_id, caller.key_id)
        await self.change(task_id, due_at=self.clock.now() + dt.timedelta(seconds=self.rt.settings.lease_seconds))
        return task_id

    async def accept(self, caller: Caller = CALLER, **members: Any) -> TaskRecord:
        """As `create`, and returns the task as its owner sees it. The bell has rung when this returns."""
        record = await tasks.create(self.rt, caller, Wanted(generation(**members)), here=False)
        # The clock stands still: tasks of the same moment are started in the order of their birth.
        await self.change(record.id, rank=TASKS.c.rank + next(self.births))
        await asyncio.sleep(0)
        return record

    async def step(self, task_id: str, rt: Runtime | None = None) -> RowMapping:
        """Turns the clock to when the task is due, rings for it and takes one turn. Returns the row after that."""
        row = await self.row(task_id)
        if row["state"] == "queued" and row["due_at"] is None:
            turn = await slots.start_next(rt or self.rt)
            assert turn is not None, "no task may start"
            assert turn.id == task_id, "another task gets its slot first"
            await go_on(rt or self.rt, turn)
            return await self.row(task_id)
        assert row["due_at"] is not None, "the task is never due again"
        self.clock.time = max(self.clock.time, row["due_at"])
        rung = await turns.ring(self.rt.db, TASKS, TASK, self.clock.now(), self.rt.settings.lease_seconds, 100)
        (message,) = [one for one in rung if one.id == task_id]
        await advance(rt or self.rt, message)
        return await self.row(task_id)

    async def finish(self, task_id: str, rt: Runtime | None = None) -> RowMapping:
        """Steps until the task is final."""
        for _ in range(200):
            row = await self.step(task_id, rt)
            if row["state"] in FINAL:
                return row
        raise AssertionError("the task did not end in 200 steps")

    async def crash(self, task_id: str) -> None:
        """Puts the task where a process leaves it that dies while its order is under way."""
        provider = next(iter(self.providers.values()))
        provider.script["submit"].appendleft(_die)
        step = asyncio.create_task(self.step(task_id))
        await asyncio.gather(step, return_exceptions=True)
        assert step.cancelled()
        assert (await self.row(task_id))["state"] == "submitting"

    async def change(self, task_id: str, **values: Any) -> None:
        """Writes to the row behind everybody's back."""
        async with self.db.write_one() as connection:
            await connection.execute(update(TASKS).where(TASKS.c.id == task_id).values(**values))

    async def row(self, task_id: str) -> RowMapping:
        async with self.db.read() as connection:
            return (await connection.execute(select(TASKS).where(TASKS.c.id == task_id))).mappings().one()

    async def get(self, task_id: str) -> TaskRecord:
        """The task as its owner sees it."""
        return await tasks.get(self.rt, CALLER.key_id, task_id)

    async def attempts(self, task_id: str) -> list[RowMapping]:
        return await self._rows(select(ATTEMPTS).where(ATTEMPTS.c.task_id == task_id).order_by(ATTEMPTS.c.number))

    async def outcomes(self, task_id: str) -> list[tuple[str, str | None]]:
        """Provider and outcome of each attempt."""
        return [(one["provider"], one["outcome"]) for one in await self.attempts(task_id)]

    async def events(self, task_id: str) -> list[tuple[int, str]]:
        """Number and last word of each event."""
        rows = await self._rows(select(EVENTS).where(EVENTS.c.task_id == task_id).order_by(EVENTS.c.sequence))
        return [(row["sequence"], row["type"].rpartition(".")[2]) for row in rows]

    async def assets(self, task_id: str) -> list[RowMapping]:
        return await self._rows(select(ASSETS).where(ASSETS.c.task_id == task_id).order_by(ASSETS.c.position))

    async def bytes_of(self, asset: RowMapping) -> bytes:
        """What the object store holds of an asset."""
        return b"".join([chunk async for chunk in self.rt.objects.read(asset["object_key"])])

    async def _rows(self, statement: Any) -> list[RowMapping]:
        async with self.db.read() as connection:
            return list((await connection.execute(statement)).mappings())


class Shelf:
    """Databases that are used again, each time with a fresh file: compiling their statements is what costs time."""

    def __init__(self, schema: Path, folder: Path) -> None:
        self.schema = schema
        self.folder = folder
        self.names = count()
        self.free: list[FlakyDatabase] = []

    def take(self) -> FlakyDatabase:
        """One with the newest schema and two virtual keys. It may be given back once it is closed."""
        db = self.free.pop() if self.free else FlakyDatabase(f"sqlite:///{self.folder}/{next(self.names)}.db")
        file = Path(db.url.database or "")
        for old in file.parent.glob(f"{file.name}*"):
            old.unlink()
        shutil.copy(self.schema, file)
        db.forget()
        return db


async def _die(_: Order) -> Done:
    raise asyncio.CancelledError


@cache
def _tls() -> ssl.SSLContext:
    return default_tls()
