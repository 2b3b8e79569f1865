"""A process: a runtime of its own over the database and the store that all share. It may die or freeze at any wait."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.core.catalog import Catalog
from gateway.core.crashing import CrashPoints
from gateway.core.destinations import Destinations
from gateway.core.enhancing import Enhancer
from gateway.core.executor import Executor
from gateway.core.handlers import handlers
from gateway.core.health import Health
from gateway.core.hub import Hub
from gateway.core.prompt_settings import TemplateName
from gateway.core.runtime import Runtime
from gateway.core.sweep import sweep_for_ever
from gateway.core.waiting import Waiter
from providers.contract import Generation
from tests.core.vendors import models_of
from tests.simulation.database import SimulatedDatabase
from tests.simulation.line import Strangers, VendorLine
from tests.simulation.loop import OWNER
from tests.simulation.pictures import Look
from tests.simulation.queue import Bells
from tests.simulation.store import SimulatedStore

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


class Process:
    """One life of a process, from its start to its end. What it remembers dies with it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        # Clocks are set by the database, as well as that goes.
        self.skew = dt.timedelta(seconds=world.random.uniform(-0.05, 0.05))
        self.alive = True
        self.frozen = False
        self.stopping = False
        self.due: list[asyncio.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.rt = self._runtime()
        self.rt.executor.handlers = handlers(self.rt)
        self.sweep = self.spawn(sweep_for_ever(self.rt), "sweep")

    def _runtime(self) -> Runtime:
        db = SimulatedDatabase(self)
        vendors = {vendor.card.name: VendorLine(self, vendor) for vendor in self.world.vendors}
        return Runtime(
            settings=self.world.settings,
            secrets=self.world.secrets,
            db=db,
            objects=SimulatedStore(self),
            catalog=Catalog(models_of(vendors.values()), {}, vendors),
            queue=Bells(self),
            executor=Executor(self.world.settings.concurrency),
            waiter=Waiter(db, interval=1.0),
            hub=Hub(),
            outbound=Strangers(self),
            inspector=Look(),
            crash=_Points(self),
            health=Health(db, self.world.settings, self.now),
            destinations=Destinations(self.world.settings.concurrency),
            enhancer=_Poet(self),
            now=self.now,
        )

    def now(self) -> dt.datetime:
        """The time, as this process has it."""
        return self.world.now() + self.skew

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Starts a piece of this process's work."""
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        return self.world.loop.create_task(work, name=name, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Remembers what runs here, for the day on which all of it ends at once."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    async def wait(self, point: str, *, may_freeze: bool = True) -> None:
        """A moment at which this process waits for something outside: others go on, and it may die or freeze."""
        self.check()
        weather = self.world.weather
        if weather.befalls("crash", point):
            self.die(point)
        if may_freeze and not self.frozen and weather.befalls("freeze", point):
            self.freeze(point)
        pause = weather.pause()
        if pause is not None or self.frozen:
            await asyncio.sleep(pause or 0)
            self.check()

    def check(self) -> None:
        """Ends whoever calls for a process that is dead."""
        if not self.alive:
            raise asyncio.CancelledError

    def die(self, point: str) -> None:
        """Dies here and now, in the middle of its own code."""
        self.world.crashes["at " + point] += 1
        self.world.crashes.update(f"in {state}" for state in self.world.watch.held_by(self))
        self.end(point)
        raise asyncio.CancelledError

    def end(self, point: str) -> None:
        """It is no more. What it was doing is not done, and has no chance to tidy up anything outside."""
        if not self.alive:
            return
        self.world.note(self.name, f"DIES at {point}")
        self.alive = False
        self._resume()
        for task in list(self._tasks):
            task.cancel()

    def freeze(self, point: str) -> None:
        """Nothing of it runs for a while, often longer than its leases; then it goes on as if nothing had happened."""
        lease = self.world.settings.lease_seconds
        seconds = lease * self.world.random.uniform(0.3, 3.0)
        self.world.note(self.name, f"FREEZES at {point} for {seconds:.2f}")
        self.frozen = True
        self.world.server.abandon(self)
        self.world.later(seconds, self.thaw)

    def thaw(self) -> None:
        """It goes on."""
        if self.frozen:
            self.world.note(self.name, "goes on")
            self._resume()

    def _resume(self) -> None:
        self.frozen = False
        self.world.loop.thaw(self)

    async def stop(self) -> None:
        """Stops as it is told to: finishes what it has begun, as far as the time allows."""
        self.stopping = True
        self.world.note(self.name, "stops")
        await asyncio.wait({self.spawn(self._close(), "stop")})
        self.end("stop")

    async def _close(self) -> None:
        self.sweep.cancel()
        self.rt.waiter.release(self.world.settings.drain_seconds / 2)
        await self.rt.close(self.world.settings.drain_seconds)


class _Poet(Enhancer):
    """A chat model that never says the same twice, while whoever asked it may die."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    async def by_model(self, generation: Generation, template: TemplateName) -> str:
        await self._process.wait("enhance.by_model")
        return f"{generation.prompt}, {self._process.world.random.random()}"


class _Points(CrashPoints):
    """The named moments of the core, at each of which the process may die."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process

    def pass_by(self, point: str) -> None:
        self.process.check()
        if self.process.world.weather.befalls("crash", point):
            self.process.die(point)
