"""The executor: bounded, tolerant of handlers that fail, and patient when it stops."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.executor import Executor
from gateway.core.ports import Message

MESSAGE = Message("task", "task_1", 0)


class Gate:
    """A handler that holds every message until it is opened."""

    def __init__(self) -> None:
        self.begun: list[Message] = []
        self.ended: list[Message] = []
        self.opened = asyncio.Event()

    async def handle(self, message: Message) -> None:
        self.begun.append(message)
        await self.opened.wait()
        self.ended.append(message)


def executor_with(gate: Gate, limit: int) -> Executor:
    """An executor with that many slots whose messages the gate handles."""
    executor = Executor(limit)
    executor.handlers = {"task": gate.handle}
    return executor


async def test_no_more_than_its_limit_at_once() -> None:
    """The third of three messages waits for a slot of two, and `free` says how many are left."""
    gate = Gate()
    executor = executor_with(gate, 2)
    for left in (1, 0):
        await executor.submit(MESSAGE)
        assert executor.free == left
    third = asyncio.create_task(executor.submit(MESSAGE))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(gate.begun), third.done()) == (2, False)
    gate.opened.set()
    await third
    await asyncio.sleep(0)
    await executor.drain(1)
    assert (len(gate.ended), executor.free) == (3, 2)


async def test_start_needs_no_slot() -> None:
    """A caller who is bounded otherwise starts beside full slots."""
    gate = Gate()
    executor = executor_with(gate, 1)
    await executor.submit(MESSAGE)
    executor.start(MESSAGE)
    await asyncio.sleep(0)
    assert (len(gate.begun), executor.free) == (2, 0)
    gate.opened.set()
    await executor.drain(1)
    assert executor.free == 1


async def test_a_failing_handler_frees_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    """What a handler raises is logged with the message's id, and neither the slot nor the next message suffers."""
    executor = Executor(1)
    handled: list[str] = []

    async def handle(message: Message) -> None:
        if message.id == "bad":
            raise RuntimeError("a defect")
        handled.append(message.id)

    executor.handlers = {"task": handle}
    for name in ("bad", "good", "last"):
        await executor.submit(Message("task", name, 0))
    assert handled == ["good"]
    await asyncio.sleep(0)
    await executor.drain(1)
    assert (handled, executor.free) == (["good", "last"], 1)
    assert "task bad failed" in caplog.text


async def test_an_unknown_kind_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A message of a kind that this version does not know is logged, and nothing breaks."""
    executor = Executor(1)
    await executor.submit(Message("delivery", "delivery_1", 0))
    await asyncio.sleep(0)
    await executor.drain(1)
    assert "no handler for messages of kind 'delivery'" in caplog.text
    assert executor.free == 1


async def test_drain_waits_for_what_runs() -> None:
    """Told to stop, it lets what runs come to its end."""
    gate = Gate()
    executor = executor_with(gate, 2)
    await executor.submit(MESSAGE)
    await asyncio.sleep(0)
    draining = asyncio.create_task(executor.drain(30))
    await asyncio.sleep(0)
    assert not draining.done()
    gate.opened.set()
    await draining
    assert gate.ended == [MESSAGE]


async def test_drain_abandons_what_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """What does not end in time is cancelled, named in the log, and left to the sweep of another process."""
    gate = Gate()
    executor = executor_with(gate, 1)
    await executor.submit(MESSAGE)
    await asyncio.sleep(0)
    await executor.drain(0)
    assert (gate.ended, executor.free) == ([], 1)
    assert "task task_1 was abandoned at shutdown" in caplog.text


async def test_nothing_starts_while_it_stops() -> None:
    """A message that comes while it drains is not handled: its row is still due, and somebody else's."""
    gate = Gate()
    executor = executor_with(gate, 2)
    await executor.drain(1)
    assert not await executor.submit(MESSAGE)
    executor.start(MESSAGE)
    await executor.drain(1)
    assert gate.begun == []


async def test_spawned_work_is_logged_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Work beside messages has no slot; its failure is logged under its name, its end awaited."""
    executor = Executor(1)
    gate = Gate()

    async def fails() -> None:
        raise OSError("away")

    executor.spawn(fails(), "ringing for task_7")
    executor.spawn(gate.handle(MESSAGE), "another")
    gate.opened.set()
    await executor.drain(1)
    assert gate.ended == [MESSAGE]
    assert "ringing for task_7 failed" in caplog.text
    assert executor.free == 1


async def test_who_waits_for_a_slot_is_sent_away_when_it_stops() -> None:
    """What waits for room when a process is told to stop is not begun any more; what runs goes on to its end."""
    gate = Gate()
    executor = executor_with(gate, 1)
    assert await executor.submit(MESSAGE)
    waiting = [asyncio.create_task(executor.submit(MESSAGE)) for _ in range(3)]
    await asyncio.sleep(0)
    executor.stop()
    assert await asyncio.gather(*waiting) == [False] * 3
    gate.opened.set()
    await executor.drain(1)
    assert (len(gate.begun), len(gate.ended)) == (1, 1)
