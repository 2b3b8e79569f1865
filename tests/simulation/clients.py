"""The clients: what they ask for, what they were told, and what they make of silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.core import tasks
from gateway.core.claims import Idempotency
from gateway.core.endpoints import Webhook
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.outbox import WORDS
from gateway.core.preparing import Wanted
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from providers.contract import Generation, Kind, Operation
from storage.database import DatabaseUnavailable
from tests.core.vendors import MODEL

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

T = TypeVar("T")


@dataclass
class Told:
    """What came of one request: an answer, a refusal, or silence (both are missing)."""

    answer: Any = None
    error: Exception | None = None
    process: str = ""


@dataclass
class Request:
    """One request for a new task as it was sent, and what was told to whoever sent it.

    `label` is on its task, so that it can be found. `accepted` is the id of the task that was promised, `named` of one
    that there may be; with `refused` there is none.
    """

    label: str
    caller: Caller
    text: str | None = None
    fingerprint: str = ""
    retry_of: str | None = None
    accepted: str | None = None
    named: str | None = None
    refused: str | None = None
    replayed: bool = False


@dataclass
class Clients:
    """All clients of a seed, and the log of what they were promised."""

    world: World
    requests: list[Request] = field(default_factory=list)
    # Tasks for which a cancel was answered while they were not final.
    cancelled: set[str] = field(default_factory=set)
    # What was seen of tasks that were final: it must stay so.
    seen: dict[str, TaskRecord] = field(default_factory=dict)

    async def work(self) -> None:
        """Everything that they want, each thing at its time."""
        count = self.random.choice((1, 2, 3, 4, 6))
        await asyncio.gather(*(self._job() for _ in range(count)))

    async def _job(self) -> None:
        """One client wants a picture, and perhaps thinks better of it."""
        random = self.random
        await asyncio.sleep(random.random() * random.choice((0.01, 1.0, 5.0)))
        caller = random.choice(self.world.callers)
        wanted, here = self._wanted(), random.random() < 0.6
        text = f"i{len(self.requests)}" if random.random() < 0.5 else None
        copies = random.choice((1, 1, 2, 3)) if text else 1
        follow = asyncio.gather(*(self._create(caller, wanted, text, here) for _ in range(copies)))
        told = [one for one in await follow if one is not None]
        if told:
            await self._afterwards(caller, told[0])

    def _wanted(self) -> dict[str, Any]:
        random = self.random
        count, size = random.choice((1, 1, 2, 4)), random.choice((None, "64x64", "128x64"))
        generation = Generation(Kind.IMAGE, Operation.GENERATION, MODEL, "a mirror", n=count, size=size)
        return {
            "generation": generation,
            "priority": random.choice((1, 5, 5, 10)),
            "timeout": random.choice((None, None, 4.0, 15.0)),
            "enhance": random.choice((None, None, True)),
        }

    async def _create(self, caller: Caller, wanted: dict[str, Any], text: str | None, here: bool) -> str | None:
        """Sends the request, and again as an SDK does: after a refusal that may pass, and with a key after silence."""
        await asyncio.sleep(self.random.random() * 0.02)
        for _ in range(3):
            request = self._request(caller, text)
            if self.random.random() < 0.05:
                request.fingerprint = "another"
            if not await self._send(request, wanted, here):
                break
            await asyncio.sleep(self.random.random() * 3)
        return request.accepted

    async def _send(self, request: Request, wanted: dict[str, Any], here: bool) -> bool:
        """Sends it once; whether it is to be sent again."""
        idempotency = Idempotency(request.text, request.fingerprint) if request.text else None
        whole = Wanted(
            **wanted, labels={"label": request.label}, idempotency=idempotency, webhook=self._webhook(request.label)
        )
        told = await self._ask(request.label, lambda rt: _served(rt, request, whole, here))
        return self._again(request, told)

    def _webhook(self, label: str) -> Webhook | None:
        events = self.random.choice((None, None, (), ("started", "completed"), WORDS))
        return None if events is None else Webhook(f"https://receiver.test/{label}", events=events)

    def _request(self, caller: Caller, text: str | None, retry_of: str | None = None) -> Request:
        request = Request(f"r{len(self.requests)}", caller, text, retry_of=retry_of)
        self.requests.append(request)
        return request

    def _again(self, request: Request, told: Told) -> bool:
        """Notes what the client was told; whether it sends the request once more."""
        error = told.error
        if error is None:
            return told.answer is None and request.text is not None
        if request.accepted is not None or request.named is not None:
            return False
        request.refused = error.code if isinstance(error, GatewayError) else "database_unavailable"
        return not isinstance(error, GatewayError) or error.retryable

    async def _afterwards(self, caller: Caller, task_id: str) -> None:
        random = self.random
        wishes: list[Callable[[], Awaitable[None]]] = [
            lambda: self._look(caller, task_id), lambda: self._cancel(caller, task_id),
            lambda: self._retry(caller, task_id),
        ]  # fmt: skip
        for wish in random.sample(wishes, random.choice((0, 1, 2))):
            await asyncio.sleep(random.random() * random.choice((0.1, 2.0, 8.0)))
            await asyncio.gather(*(wish() for _ in range(random.choice((1, 1, 2)))))

    async def _look(self, caller: Caller, task_id: str) -> None:
        told = await self._ask(f"get {self.world.short(task_id)}", lambda rt: tasks.get(rt, caller.key_id, task_id))
        self._note(told)

    async def _cancel(self, caller: Caller, task_id: str) -> None:
        name = f"cancel {self.world.short(task_id)}"
        told = await self._ask(name, lambda rt: tasks.cancel(rt, caller.key_id, task_id))
        if told.answer is not None and not told.answer.final:
            self.cancelled.add(task_id)
        self._note(told)

    async def _retry(self, caller: Caller, task_id: str) -> None:
        text = f"again {task_id}" if self.random.random() < 0.5 else None
        request = self._request(caller, text, task_id)
        idempotency = Idempotency(text, request.fingerprint) if text else None
        told = await self._ask(request.label, lambda rt: _retried(rt, caller, task_id, idempotency, request))
        self._again(request, told)

    def _note(self, told: Told) -> None:
        record = told.answer
        if record is not None and record.final:
            self.seen.setdefault(record.id, record)

    async def _ask(self, name: str, call: Callable[[Runtime], Coroutine[Any, Any, T]]) -> Told:
        """Sends a request to some process and waits for its answer. A process that dies answers nothing."""
        process = await self._some_process()
        self.world.note("client", f"{name} to {process.name}")
        work = process.spawn(call(process.rt), name)
        await asyncio.wait({work})
        if work.cancelled():
            told = Told()
        elif (error := work.exception()) is not None:
            told = Told(error=error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            told = Told(work.result())
        self.world.note("client", f"{name}: {_described(told)}")
        self._judge(name, told.error)
        return told

    def _judge(self, name: str, error: Exception | None) -> None:
        if error is not None and not isinstance(error, GatewayError | DatabaseUnavailable):
            self.world.violate(f"{name} fails with {error!r}")

    async def _some_process(self) -> Process:
        while True:
            alive = [one for one in self.world.processes if one.alive and not one.stopping]
            if alive:
                return self.random.choice(alive)
            await asyncio.sleep(0.5)

    @property
    def random(self) -> Random:
        return self.world.random


async def _served(rt: Runtime, request: Request, wanted: Wanted, here: bool) -> TaskRecord:
    """What a dialect does: makes the task, and waits for its end if the client does."""
    try:
        record = await tasks.create(rt, request.caller, wanted, here=here)
    except GatewayError as error:
        request.named = error.task_id
        raise
    request.accepted, request.replayed = record.id, record.replayed
    if here:
        await rt.waiter.final(record.id, 20.0)
        record = await tasks.get(rt, request.caller.key_id, record.id)
    return record


async def _retried(
    rt: Runtime, caller: Caller, task_id: str, idempotency: Idempotency | None, request: Request
) -> TaskRecord:
    try:
        record = await tasks.retry(rt, caller, task_id, idempotency)
    except GatewayError as error:
        request.named = error.task_id
        raise
    request.accepted, request.replayed = record.id, record.replayed
    return record


def _described(told: Told) -> str:
    if told.error is not None:
        return f"{type(told.error).__name__} {getattr(told.error, 'code', '')} {told.error}"
    if told.answer is None:
        return "no answer"
    return f"{told.answer.state}{' (replayed)' if told.answer.replayed else ''}"
