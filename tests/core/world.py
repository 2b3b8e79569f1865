"""A small world to move tasks in: a real database file, a clock that is turned by hand, a scripted vendor.

Nothing waits: `World.step` turns the clock to when the row is due, rings as the sweep does, and advances once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import secrets
import shutil
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import tasks, turns
from gateway.core.advance import advance
from gateway.core.catalog import Catalog, Model, Route, build
from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.inspection import Inspector
from gateway.core.keys import Caller
from gateway.core.lifecycle import FINAL
from gateway.core.outbound import Outbound, Policy, default_tls
from gateway.core.ports import TASK, Message, QueueError
from gateway.core.runtime import Runtime, derive_secrets
from gateway.core.settings import AliasConfig, Settings, load
from gateway.core.tables import ASSETS, ATTEMPTS, EVENTS, TASKS
from gateway.core.tasks import TaskRecord, Wanted
from gateway.core.waiting import Waiter
from providers.card import Card, ModelCard, Parameter, Price, PriceRow
from providers.contract import Done, Generation, Kind, Operation, Order, Output, Pending, Provider
from providers.http import Http
from providers.registry import Registry
from storage.database import Database, DatabaseUnavailable
from storage.memory import MemoryStore
from storage.objects import ObjectError, ObjectStore, Stored

START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
SECRET = "an-installation-secret-for-tests-only"
MODEL = "picture"
CALLER, OTHER = Caller("key_mine"), Caller("key_other")

Answer = Pending | Done | None | Exception | Callable[[Any], Awaitable[Pending | Done | None]]


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


class ScriptedProvider(Provider):
    """Answers each call with the next entry of its script: a value, an exception, or a function of the call's input."""

    def __init__(self, card: Card | None = None, **script: Iterable[Answer]) -> None:
        card = card or card_of()
        super().__init__(card, Http(card))
        self.script = {verb: deque(answers) for verb, answers in script.items()}
        self.orders: list[Order] = []
        self.found: list[Order] = []
        self.polled: list[str] = []
        self.cancelled: list[str] = []

    async def submit(self, order: Order) -> Pending | Done:
        self.orders.append(order)
        answer = await self._next("submit", order)
        assert answer is not None
        return answer

    async def poll(self, job: str) -> Pending | Done:
        self.polled.append(job)
        answer = await self._next("poll", job)
        assert answer is not None
        return answer

    async def cancel(self, job: str) -> None:
        self.cancelled.append(job)
        if "cancel" in self.script:
            await self._next("cancel", job)

    async def find(self, order: Order) -> Pending | Done | None:
        self.found.append(order)
        return await self._next("find", order)

    async def read(self, output: Output) -> AsyncIterator[bytes]:
        answer = await self._next("read", output)
        assert isinstance(answer, Done)
        for one in answer.outputs:
            yield one.data or b""

    async def _next(self, verb: str, given: Any) -> Pending | Done | None:
        answer = self.script[verb].popleft()
        if isinstance(answer, Exception):
            raise answer
        return await answer(given) if callable(answer) else answer


class FlakyDatabase(Database):
    """A database that first raises the `troubles` of a verb, one for each use, and counts uses and those broken off.

    With `late`, a transaction in trouble fails when it should be committed, else before it begins.
    """

    late = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.used: Counter[str] = Counter()
        self.broken_off = 0
        self.begun = {verb: asyncio.Event() for verb in ("read", "write", "write_one")}
        self.troubles: dict[str, list[Exception]] = {"read": [], "write": [], "write_one": []}

    def away(self, verb: str, times: int) -> None:
        """Fails the next uses of a verb, as a database that cannot be reached."""
        self.troubles[verb] = [DatabaseUnavailable("away")] * times

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("read", super().read()) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("write", super().write()) as connection:
            yield connection

    @asynccontextmanager
    async def write_one(self) -> AsyncIterator[AsyncConnection]:
        async with self._troubled("write_one", super().write_one()) as connection:
            yield connection

    @asynccontextmanager
    async def _troubled(
        self, verb: str, use: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncIterator[AsyncConnection]:
        self.used[verb] += 1
        self.begun[verb].set()
        trouble = self.troubles[verb].pop(0) if self.troubles[verb] else None
        if trouble is not None and not self.late:
            raise trouble
        try:
            async with use as connection:
                yield connection
                if trouble is not None:
                    raise trouble
        except asyncio.CancelledError:
            self.broken_off += 1
            raise


class FlakyStore(MemoryStore):
    """An object store whose next `failures` writes fail."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def put(self, key: str, data: bytes | Any, media_type: str) -> Stored:
        if self.failures:
            self.failures -= 1
            raise ObjectError("the store is away")
        return await super().put(key, data, media_type)


class World:
    """A runtime over a database file of its own, with `providers` as the routes of one model, in order."""

    def __init__(
        self,
        file: Path,
        *providers: ScriptedProvider,
        objects: ObjectStore | None = None,
        aliases: dict[str, AliasConfig] | None = None,
        concurrency: int = 8,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.bells = Bells()
        self.providers = {provider.card.name: provider for provider in providers}
        self.db = FlakyDatabase(f"sqlite:///{file}")
        executor = Executor(concurrency)
        made = Settings(**{"secret": SECRET, "drain_seconds": 1.0, "data_dir": str(file.parent), **settings})
        self.rt = Runtime(
            settings=made,
            secrets=derive_secrets(made),
            db=self.db,
            objects=objects or MemoryStore(),
            catalog=Catalog(models_of(providers), aliases or {}, self.providers),
            queue=self.bells,
            executor=executor,
            waiter=Waiter(self.db, interval=0.005),
            outbound=Outbound(Policy(allow=made.allow_hosts), tls=_tls()),
            inspector=Inspector(made.max_pixels),
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

    async def accept(self, caller: Caller = CALLER, **members: Any) -> TaskRecord:
        """As `create`, and returns the task as its owner sees it. The bell has rung when this returns."""
        record = await tasks.create(self.rt, caller, Wanted(generation(**members)), here=False)
        await asyncio.sleep(0)
        return record

    async def step(self, task_id: str, rt: Runtime | None = None) -> RowMapping:
        """Turns the clock to when the task is due, rings for it and takes one turn. Returns the row after that."""
        row = await self.row(task_id)
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


class FileServer:
    """A loopback server of a vendor's files: each path answers with its entries in turn, then with its last."""

    def __init__(self, port: int, files: dict[str, list[tuple[int, bytes]]]) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.files = files
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"{self.base}/{path}"


@asynccontextmanager
async def serving(**files: list[tuple[int, bytes]]) -> AsyncIterator[FileServer]:
    """Serves the files, each given as a list of (status, body)."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().lstrip("/")
        found.asked.append(path)
        answers = found.files[path]
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    found = FileServer(server.sockets[0].getsockname()[1], files)
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()


def new_file(schema: Path, folder: Path) -> Path:
    """A database file with the newest schema and two virtual keys."""
    return Path(shutil.copy(schema, folder / f"{secrets.token_hex(4)}.db"))


def card_of(name: str = "vendor", **members: Any) -> Card:
    """A card with one model; members of the model go under `model`."""
    model = {
        "max_n": 4,
        "sizes": ("64x64", "128x64"),
        "price": price("0.04"),
        "public": MODEL,
        **members.pop("model", {}),
    }
    made = ModelCard(name=f"{name}-model", kind=Kind.IMAGE, operations=(Operation.GENERATION,), **model)
    facts = {"timeout": 5.0, "output_hosts": ("127.0.0.1",), **members}
    return Card(name=name, title=name.title(), checked_on=START.date(), models=(made,), **facts)


def vendor(name: str, *, keys: dict[str, str] | None = None, public: str | None = None, **facts: Any) -> Card:
    """The card of a vendor with one model, which is called after it unless `public` says otherwise."""
    return card_of(name, credentials=keys or {}, model={"public": public or f"{name}-picture"}, **facts)


def configured(folder: Path, *cards: Card, text: str = "", **environ: str) -> Catalog:
    """The catalog of these vendors with a configuration and an environment. Their adapter is never asked."""
    file = folder / "heliograph.toml"
    file.write_text(text, encoding="utf-8")
    registry = Registry({card.name: card for card in cards}, {card.name: "tests.scripted.scripted" for card in cards})
    return build(load(environ, file), registry)


def price(usd: str, *rows: tuple[str, dict[str, str]]) -> Price:
    """A price with rows for certain members first, and one for the rest."""
    return Price(START.date(), (*(PriceRow(one, when) for one, when in rows), PriceRow(usd)))


def words(*values: str, default: str | None = None) -> Parameter:
    """A parameter that is one of these words."""
    return Parameter("string", values=values, default=default)


def models_of(providers: Iterable[Provider]) -> dict[str, Model]:
    """The public models of these providers, with one route for each card's model."""
    routes: dict[str, tuple[Route, ...]] = {}
    for provider in providers:
        for model in provider.card.models:
            route = Route(provider.card.name, model, model.price)
            routes[model.public_name] = (*routes.get(model.public_name, ()), route)
    return {name: Model(name, ways) for name, ways in routes.items()}


def generation(**members: Any) -> Generation:
    """A generation of one picture, unless `members` say otherwise."""
    wanted: dict[str, Any] = {"model": MODEL, "prompt": "a mirror in the sun", **members}
    return Generation(kind=Kind.IMAGE, operation=Operation.GENERATION, **wanted)


@cache
def png(width: int = 64, height: int = 64, shade: int = 90) -> bytes:
    """A picture of that size."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 120, 200)).save(file, "PNG")
    return file.getvalue()


def done(*pictures: bytes, **members: Any) -> Done:
    """A finished job whose outputs came with the answer; one picture when none is given."""
    return Done(tuple(Output(data=data) for data in pictures or (png(),)), **members)


def linked(*urls: str) -> Done:
    """A finished job whose outputs are fetched from these URLs."""
    return Done(tuple(Output(url=url) for url in urls))


async def _die(_: Order) -> Done:
    raise asyncio.CancelledError


@cache
def _tls() -> ssl.SSLContext:
    return default_tls()


def settings(**members: Any) -> Settings:
    """Settings with a secret, and these members."""
    return msgspec.structs.replace(Settings(secret=SECRET), **members)
