"""The world of one seed: what is in it, what happens to it, and the history of that."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import cache
from random import Random, SystemRandom
from threading import get_ident
from typing import Any
from unittest.mock import patch

from sqlalchemy import insert

from gateway.core import accounts, deliveries, ids, ledger, sweep
from gateway.core.endpoints import EVENT_TYPES
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.runtime import Secrets, derive_secrets
from gateway.core.settings import Settings
from gateway.core.tables import ACCOUNTS, VIRTUAL_KEYS
from gateway.core.webhook_tables import ENDPOINTS
from storage.database import DatabaseUnavailable
from storage.memory import MemoryStore
from tests.simulation.clients import Clients
from tests.simulation.database import Server, connection, reset
from tests.simulation.invariants import broken
from tests.simulation.loop import StandStill, VirtualLoop
from tests.simulation.process import Process
from tests.simulation.queue import Broker
from tests.simulation.receiver import Receiver
from tests.simulation.vendor import vendors_of
from tests.simulation.watch import Watch
from tests.simulation.weather import OUTAGES, Weather

# A Sunday, and the last of a month: whatever period a budget has, the next one begins soon.
START = dt.datetime(2032, 2, 29, 23, 59, 50, tzinfo=dt.UTC)
CALLERS = (Caller("key_one"), Caller("key_two"), Caller("key_three", "team"), Caller("key_four", "team"))
UNKNOWN_SECONDS = 3600.0


class Violated(Exception):
    """A promise was broken; the text says which, with which seed, and what happened last."""


class World:
    """All of it. Make one with a seed and run it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)  # noqa: S311 - no secret
        self.loop = VirtualLoop()  # type: ignore[abstract]  # of what a loop can do, the core needs no more
        self.history: list[str] = []
        self.violations: list[str] = []
        self.crashes: Counter[str] = Counter()
        self.weather = Weather(self.random)
        self.settings = _settings(self.random)
        self.secrets = _secrets()
        self.callers = CALLERS
        self.objects = MemoryStore()
        self.broker = Broker(self)
        self.receiver = Receiver(self)
        self.vendors = vendors_of(self)
        self.server = Server(self, connection())
        self.watch = Watch(self)
        self.clients = Clients(self)
        self.processes: list[Process] = []
        self._names: dict[str, str] = {}

    # What everything in it uses.

    def now(self) -> dt.datetime:
        """The time of day."""
        return START + dt.timedelta(seconds=self.loop.time())

    def seconds(self, time: dt.datetime) -> float:
        """When that is, as the loop counts."""
        return (time - START).total_seconds()

    def later(self, seconds: float, what: Callable[..., object], *given: Any) -> None:
        """Something happens by itself after so many seconds, whoever is dead or frozen then."""
        self.loop.call_later(seconds, what, *given, context=Context())

    def note(self, who: str, what: str) -> None:
        """Writes a line of history."""
        self.history.append(f"{self.loop.time():10.4f} {who:<7} {what}")

    def violate(self, promise: str) -> None:
        """Notes that a promise is broken."""
        self.note("!", promise)
        self.violations.append(promise)

    def short(self, task_id: str) -> str:
        """A name for a task that can be read."""
        return self._names.setdefault(task_id, f"T{len(self._names) + 1}")

    # What happens.

    def run(self) -> None:
        """Lives through all of it; raises Violated."""
        reset(self.server.raw)
        self._fill()
        try:
            with _seeded(self.random), self._listening(), warnings.catch_warnings():
                # A process that dies leaves work behind that it had not begun.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                self.loop.run(self._story())
        except StandStill as error:
            self.violate(str(error))
        for complaint in self.loop.complaints:
            self.violate(f"unheard: {complaint}")
        if self.violations:
            raise Violated(f"seed {self.seed}: {self.violations[0]}\n" + "\n".join(self.history[-25:]))

    def _fill(self) -> None:
        """Makes the keys and their accounts, each with some limits or none."""
        write = self.server.connection.execute
        keys = [{"id": one.key_id, "digest": one.key_id, "hint": "none", "name": one.key_id, "owner": one.owner,
                 "created_at": START} for one in CALLERS]  # fmt: skip
        write(insert(VIRTUAL_KEYS), keys)
        for one in CALLERS:
            write(insert(ACCOUNTS), self._account(one.key_id, one.key_id))
        write(insert(ACCOUNTS), self._account("owner:team", None))
        for number, one in enumerate(CALLERS):
            if self.random.random() < 0.4:
                write(insert(ENDPOINTS), self._endpoint(f"we_{number}", one.key_id))

    def _endpoint(self, id: str, key_id: str) -> dict[str, Any]:
        types = [one for one in EVENT_TYPES if one.startswith("image.generation.")]
        wanted = self.random.sample(types, self.random.randint(1, len(types)))
        row = {"id": id, "key_id": key_id, "name": id, "url": f"https://receiver.test/{id}", "event_types": wanted}
        return row | {"base": "https://gateway.test", "created_at": START, "updated_at": START}

    def _account(self, id: str, key_id: str | None) -> dict[str, Any]:
        at, choice = accounts.windows(START), self.random.choice
        row: dict[str, Any] = {f"{name}_at": at[name] for name in accounts.RATES}
        row |= {f"{name}_used": 0 for name in accounts.RATES}
        row |= dict.fromkeys(("spent", "reserved", "sequence", "waiting", "running"), 0)
        return row | {
            "id": id, "key_id": key_id, "thresholds": [80, 100], "window_at": START, "served_at": START,
            "period": choice(("total", *accounts.PERIODS)), "budget": choice((None, None, 100_000, 300_000)),
            "concurrent": choice((None, None, 1, 2)), "per_minute": choice((None, None, 1, 3)),
        }  # fmt: skip

    async def _story(self) -> None:
        self.processes = [Process(self, f"p{number}") for number in range(self.random.choice((1, 2, 2, 3)))]
        nemesis = [asyncio.create_task(self._restarts()), asyncio.create_task(self._outages()),
                   asyncio.create_task(self._stops())]  # fmt: skip
        await self.clients.work()
        self._heal(nemesis)
        await self._quiet()
        await self._told()
        await self._expire()
        for process in self.processes:
            process.end("the end")
        await asyncio.sleep(1)
        if not self.violations:
            for promise in await broken(self):
                self.violate(promise)

    async def _restarts(self) -> None:
        """Whoever has died is started again after a while."""
        while True:
            await asyncio.sleep(0.5 + 3 * self.random.random())
            self._replace_dead()

    def _replace_dead(self) -> None:
        for place, process in enumerate(self.processes):
            if not process.alive:
                self.processes[place] = Process(self, process.name + "'")
                self.note(self.processes[place].name, "starts")

    async def _outages(self) -> None:
        random = self.random
        for what in random.sample(OUTAGES, random.choice((0, 0, 1, 2))):
            await asyncio.sleep(random.random() * 6)
            seconds = random.choice((0.5, 3.0, 12.0)) * random.random()
            self.note("!", f"{what} is away for {seconds:.2f}")
            self.weather.begin_outage(what, self.loop.time() + seconds)

    async def _stops(self) -> None:
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            await asyncio.sleep(self.random.random() * 8)
            process = self.random.choice(self.processes)
            if process.alive and not process.stopping:
                await process.stop()

    def _heal(self, nemesis: list[asyncio.Task[None]]) -> None:
        self.note("!", "all is well again")
        for task in nemesis:
            task.cancel()
        self.weather.clear_up()
        for process in self.processes:
            process.thaw()
            if process.stopping:
                process.end("stop")
        self._replace_dead()
        # One sweep is enough where nothing goes wrong, and costs less.
        for process in self.processes[1:]:
            process.sweep.cancel()

    async def _quiet(self) -> None:
        """Lets things go on until every task is final; past the longest way there, something is stuck."""
        until = self.loop.time() + self.settings.task_seconds + 70 * self.settings.lease_seconds + 100
        while not self.watch.all_final and not self.violations:
            await asyncio.sleep(1)
            self._replace_dead()
            if self.loop.time() > until:
                return self.violate("a task has not come to its end")

    async def _told(self) -> None:
        """Lets webhooks come to their end, however often the receiver did not take them."""
        until = self.loop.time() + sum(deliveries.SCHEDULE[:-1])
        under_way = "SELECT count(*) FROM deliveries WHERE ended_at IS NULL"
        while self.server.raw.execute(under_way).fetchone()[0] and not self.violations:
            await asyncio.sleep(1)
            self._replace_dead()
            if self.loop.time() > until:
                return self.violate("a webhook has not come to its end")

    async def _expire(self) -> None:
        """An hour later, what is still held ends, whoever sees to it first, or as the operator says."""
        for process in self.processes:
            process.sweep.cancel()
        await asyncio.sleep(UNKNOWN_SECONDS + 100)
        work = [one.spawn(ledger.expire(one.rt), "expire") for one in self.processes]
        held = [row.id for row in self.watch.rows.values() if row.held]
        work += [self.processes[0].spawn(self._conclude(one), "conclude") for one in held[:1]]
        await asyncio.wait(work)

    async def _conclude(self, task_id: str) -> None:
        """The operator has found out what an order cost, perhaps too late."""
        with suppress(GatewayError):
            await ledger.conclude(self.processes[0].rt, task_id, self.random.choice((None, 30_000, 900_000)))

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Notes what the core logs."""
        log, handler = logging.getLogger("gateway"), _Notes(self)
        level, propagate = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.WARNING)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate


class _Notes(logging.Handler):
    """Writes warnings into the history. What nobody foresaw is a violation, but for what vendors' adapters do here."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self.world = world
        self._thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        self.world.note("log", f"{text} {error!r}" if error else text)
        foreseen = isinstance(error, DatabaseUnavailable) or (isinstance(error, KeyError) and error.args == ("defect",))
        if error is not None and not foreseen:
            self.world.violate(f"unforeseen: {text}: {error!r}")


class _Seeded:
    """Stands in for the modules `secrets` and `random` where the core uses them.

    A gateway that another test has left in another thread uses them too: it must not take a world's chances.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._thread = get_ident()

    def randbits(self, count: int) -> int:
        return self._here().getrandbits(count)

    def uniform(self, least: float, most: float) -> float:
        return self._here().uniform(least, most)

    def _here(self) -> Random:
        return self._random if get_ident() == self._thread else SystemRandom()


@contextmanager
def _seeded(random: Random) -> Iterator[None]:
    seeded = _Seeded(random)
    with (
        patch.object(ids, "secrets", seeded),
        patch.object(sweep, "random", seeded),
        patch.object(deliveries, "random", seeded),
    ):
        yield


def _settings(random: Random) -> Settings:
    return Settings(
        secret="an-installation-secret-for-tests-only",
        lease_seconds=random.choice((2.0, 5.0)),
        sweep_seconds=random.choice((2.0, 5.0)),
        task_seconds=30.0,
        key_concurrency=random.choice((1, 2, 500)),
        concurrency=random.choice((1, 3, 20)),
        concurrency_overflow=random.choice(("queue", "queue", "refuse")),
        unknown_seconds=UNKNOWN_SECONDS,
        drain_seconds=random.choice((1.0, 5.0)),
        max_rounds=random.choice((1, 3)),
    )


@cache
def _secrets() -> Secrets:
    return derive_secrets(Settings(secret="an-installation-secret-for-tests-only"))
