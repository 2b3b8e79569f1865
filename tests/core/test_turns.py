"""Turns: one holder at a time, stale messages that do nothing, and bells that grow rarer."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.core import turns
from gateway.core.ports import TASK, Message
from gateway.core.tables import TASKS
from gateway.core.turns import Turn, TurnLost
from storage.database import DatabaseUnavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider
from tests.core.world import World

LEASE = 15.0


async def take(world: World, message: Message, lease: float = LEASE) -> Turn | None:
    """Takes a turn of a task."""
    return await turns.take(world.db, TASKS, message, world.clock.now, lease)


async def ring(world: World, limit: int = 100) -> list[Message]:
    """What a sweep rings for now."""
    return await turns.ring(world.db, TASKS, TASK, world.clock.now(), LEASE, limit)


async def write(world: World, turn: Turn, **values: object) -> None:
    """One write of a turn, in a transaction of its own."""
    async with world.db.write() as connection:
        await turn.write(connection, **values)


async def taken(world: World) -> tuple[str, Turn]:
    """A new task, and its first turn."""
    task_id = await world.rung()
    turn = await take(world, Message(TASK, task_id, 0))
    assert turn is not None
    return task_id, turn


async def test_only_one_of_many_takers_wins(make_world: MakeWorld) -> None:
    """Of fifty who take the turn of one message at once, one gets it."""
    world = make_world(ScriptedProvider())
    message = Message(TASK, await world.rung(), 0)
    won = [turn for turn in await asyncio.gather(*(take(world, message) for _ in range(50))) if turn]
    assert len(won) == 1
    row = await world.row(message.id)
    assert (row["version"], row["rings"], row["takes"]) == (1, 0, 1)
    assert row["due_at"] == world.clock.now() + dt.timedelta(seconds=LEASE)


@pytest.mark.parametrize("version", [-1, 1, 2])
async def test_a_message_of_another_version_is_stale(make_world: MakeWorld, version: int) -> None:
    """A message that was rung for another version than the row's takes nothing and changes nothing."""
    world = make_world(ScriptedProvider())
    task_id = await world.rung()
    before = await world.row(task_id)
    assert await take(world, Message(TASK, task_id, version)) is None
    assert await world.row(task_id) == before


async def test_a_message_for_no_row_is_stale(make_world: MakeWorld) -> None:
    """A message whose row does not exist is none to act on."""
    assert await take(make_world(ScriptedProvider()), Message(TASK, "task_gone", 0)) is None


async def test_a_doubled_message_is_stale(make_world: MakeWorld) -> None:
    """The second of two equal messages finds the turn gone, also after the turn was given back."""
    world = make_world(ScriptedProvider())
    message = Message(TASK, await world.rung(), 0)
    turn = await take(world, message)
    assert turn is not None
    assert await take(world, message) is None
    await write(world, turn, due_at=world.clock.now())
    assert await take(world, message) is None


async def test_a_turn_is_not_taken_without_a_bell(make_world: MakeWorld) -> None:
    """Whoever guesses the version of a row under way does not get it, unless it was rung since."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    assert await take(world, Message(TASK, task_id, turn.version)) is None
    world.clock.forward(LEASE)
    assert await ring(world) == [Message(TASK, task_id, turn.version)]
    assert await take(world, Message(TASK, task_id, turn.version)) is not None


async def test_a_renewed_turn_silences_earlier_bells(make_world: MakeWorld) -> None:
    """A holder who is late but alive keeps the row: the bell that was rung meanwhile is void until the next one."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    world.clock.forward(LEASE)
    (message,) = await ring(world)
    await turn.renew()
    row = await world.row(task_id)
    assert (row["version"], row["rings"]) == (turn.version, 0)
    assert row["due_at"] == world.clock.now() + dt.timedelta(seconds=LEASE)
    assert await take(world, message) is None
    world.clock.forward(LEASE)
    assert await ring(world) == [message]
    assert await take(world, message) is not None


async def test_renewing_a_lost_turn_raises(make_world: MakeWorld) -> None:
    """A holder whose turn was taken over learns it when it renews, and pushes nothing back."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    world.clock.forward(LEASE)
    (message,) = await ring(world)
    assert await take(world, message) is not None
    before = await world.row(task_id)
    world.clock.forward(1)
    with pytest.raises(TurnLost):
        await turn.renew(progress=50)
    assert await world.row(task_id) == before


async def test_bells_grow_rarer_and_keep_the_version(make_world: MakeWorld) -> None:
    """Each unanswered bell doubles the time to the next, up to a bound; messages already queued stay good."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    gaps = []
    for _ in range(10):
        world.clock.time = (await world.row(task_id))["due_at"]
        assert await ring(world) == [Message(TASK, task_id, turn.version)]
        gaps.append(((await world.row(task_id))["due_at"] - world.clock.now()).total_seconds())
    assert gaps == [LEASE * 2 ** min(number, 6) for number in range(10)]
    assert (await world.row(task_id))["rings"] == 10
    assert await take(world, Message(TASK, task_id, turn.version)) is not None


async def test_what_is_not_due_is_not_rung(make_world: MakeWorld) -> None:
    """A row is rung when its time has come, not a moment sooner, and a row without a time never."""
    world = make_world(ScriptedProvider())
    task_id = await world.rung()
    due_at = (await world.row(task_id))["due_at"]
    world.clock.time = due_at - dt.timedelta(microseconds=1)
    assert await ring(world) == []
    world.clock.time = due_at
    assert len(await ring(world)) == 1
    assert await ring(world) == []
    await world.change(task_id, due_at=None)
    world.clock.forward(10**6)
    assert await ring(world) == []


async def test_the_longest_due_are_rung_first(make_world: MakeWorld) -> None:
    """With less room than rows that are due, those come first that have been due longest."""
    world = make_world(ScriptedProvider())
    born = []
    for _ in range(5):
        born.append(await world.rung())
        world.clock.forward(1)
    world.clock.forward(100)
    rung = [{message.id for message in await ring(world, limit=2)} for _ in range(3)]
    assert rung == [set(born[:2]), set(born[2:4]), {born[4]}]


async def test_many_sweeps_ring_each_row_once(make_world: MakeWorld) -> None:
    """Ten sweeps at the same moment share the due rows among them: none is rung twice, none forgotten."""
    world = make_world(ScriptedProvider())
    born = {await world.rung() for _ in range(20)}
    world.clock.forward(100)
    rung = [message.id for messages in await asyncio.gather(*(ring(world) for _ in range(10))) for message in messages]
    assert len(rung) == len(born)
    assert set(rung) == born


async def test_a_write_raises_the_version_and_keeps_the_turn(make_world: MakeWorld) -> None:
    """A write in turn changes the row, raises its version and holds it for another lease."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    world.clock.forward(10)
    await write(world, turn, progress=40)
    row = await world.row(task_id)
    assert (row["progress"], row["version"], row["rings"]) == (40, 2, 0)
    assert row["due_at"] == world.clock.now() + dt.timedelta(seconds=LEASE)
    await write(world, turn, progress=50, due_at=None)
    row = await world.row(task_id)
    assert (row["progress"], row["version"], row["due_at"]) == (50, 3, None)


async def test_a_lost_turn_writes_nothing_at_all(make_world: MakeWorld) -> None:
    """A write out of turn raises, and whatever else its transaction wrote is rolled back with it."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    world.clock.forward(LEASE)
    (message,) = await ring(world)
    later = await take(world, message)
    assert later is not None
    with pytest.raises(TurnLost):
        await _write_both(world, turn)
    row = await world.row(task_id)
    assert (row["model"], row["progress"], row["version"]) == ("picture", 0, later.version)
    await write(world, later, progress=10)
    assert (await world.row(task_id))["progress"] == 10


async def test_renewing_keeps_the_turn_during_a_long_call(make_world: MakeWorld) -> None:
    """While the block runs, the turn is renewed again and again, and no longer once it has ended."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    turn.lease = dt.timedelta(seconds=0.003)
    asked = asyncio.Semaphore(0)
    turn.now = _counting(world.clock.now, asked)
    async with turn.renewing():
        for _ in range(3):
            await asked.acquire()
            world.clock.forward(1)
        await asked.acquire()
        renewed = (await world.row(task_id))["due_at"]
    assert renewed > world.clock.now() - dt.timedelta(seconds=2)
    assert (await world.row(task_id))["version"] == turn.version
    await write(world, turn, progress=10)


async def test_the_end_of_a_long_call_breaks_no_query_off(make_world: MakeWorld) -> None:
    """A renewal that is under way when the block ends comes to its end too."""
    world = make_world(ScriptedProvider())
    _, turn = await taken(world)
    turn.lease = dt.timedelta(seconds=0.003)
    world.db.begun["write_one"].clear()
    async with turn.renewing():
        await world.db.begun["write_one"].wait()
    assert world.db.broken_off == 0


async def test_a_renewal_that_fails_costs_nothing_but_time(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Trouble of whatever kind in renewing is logged and tried again; the long call's answer is not lost to it."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    turn.lease = dt.timedelta(seconds=0.003)
    asked = asyncio.Semaphore(0)
    turn.now = _counting(world.clock.now, asked)
    world.clock.forward(1)
    world.db.troubles["write_one"] = [DatabaseUnavailable("away"), RuntimeError("a defect")]
    async with turn.renewing():
        for _ in range(4):
            await asked.acquire()
    assert (await world.row(task_id))["due_at"] > world.clock.now()
    assert caplog.text.count("was not renewed") == 2
    await write(world, turn, progress=10)


async def test_renewing_ends_quietly_when_the_turn_is_lost(make_world: MakeWorld) -> None:
    """Somebody takes over during a long call: the call goes on, and its holder learns of it at the next write."""
    world = make_world(ScriptedProvider())
    task_id, turn = await taken(world)
    turn.lease = dt.timedelta(seconds=0.003)
    asked = asyncio.Semaphore(0)
    turn.now = _counting(world.clock.now, asked)
    async with turn.renewing():
        await world.change(task_id, version=turn.version + 1)
        await asked.acquire()
    with pytest.raises(TurnLost):
        await write(world, turn, progress=10)


async def test_what_the_block_raises_comes_out_of_renewing(make_world: MakeWorld) -> None:
    """An error of the long call is not hidden by the renewal beside it."""
    world = make_world(ScriptedProvider())
    _, turn = await taken(world)
    with pytest.raises(ValueError, match="the call failed"):
        async with turn.renewing():
            raise ValueError("the call failed")


@budget(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["take", "old", "ring", "late", "renew", "write", "forward"]), max_size=25))
async def test_whatever_happens_versions_only_rise(make_world: MakeWorld, story: list[str]) -> None:
    """In any order of bells, takers, renewals and writes, one turn at most can write, and it is the newest."""
    world = make_world(ScriptedProvider())
    task_id = await world.rung()
    messages, holders = [Message(TASK, task_id, 0)], []
    versions = [0]
    for event in story:
        if event == "forward":
            world.clock.forward(LEASE)
        elif event == "ring":
            messages += await ring(world)
        elif event in ("take", "old"):
            turn = await take(world, messages[-1 if event == "take" else 0])
            holders += [turn] if turn else []
        elif holders and event in ("renew", "late", "write"):
            await _tries(
                world, holders[0 if event == "late" else -1], event, newest=event != "late" or len(holders) == 1
            )
        versions.append((await world.row(task_id))["version"])
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(versions))


async def _write_both(world: World, turn: Turn) -> None:
    """A transaction that changes the row behind the turn's back, and then in turn."""
    async with world.db.write() as connection:
        await connection.execute(update(TASKS).where(TASKS.c.id == turn.id).values(model="spoiled"))
        await turn.write(connection, progress=99)


async def _tries(world: World, turn: Turn, event: str, *, newest: bool) -> None:
    """Only the newest turn succeeds, always."""
    try:
        await (turn.renew() if event == "renew" else write(world, turn, progress=1))
        assert newest
    except TurnLost:
        assert not newest


def _counting(now: Callable[[], dt.datetime], asked: asyncio.Semaphore) -> Callable[[], dt.datetime]:
    def counted() -> dt.datetime:
        asked.release()
        return now()

    return counted
