"""Work: what a step writes, whole and in turn, also when the database is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core.advance import advance
from gateway.core.lifecycle import State
from gateway.core.ports import TASK, Message
from providers.contract import (
    Done,
    Order,
    Pending,
    Progress,
    Refused,
    Unavailable,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done, png


async def test_progress_never_falls(make_world: MakeWorld) -> None:
    """Whatever a vendor says in whatever order, the number that callers see only rises, and is 100 only at the end."""
    fractions = [0.1, 0.5, 0.3, None, -1.0, 0.9, 1.0, 7.0]
    polls = [Pending("job", progress=fraction) for fraction in fractions]
    world = make_world(ScriptedProvider(submit=[Pending("job")], poll=[*polls, done()]))
    task_id = await world.create()
    seen = [(await world.step(task_id))["progress"] for _ in range(len(polls) + 1)]
    assert seen == [0, 10, 50, 50, 50, 50, 90, 99, 99]
    assert (await world.step(task_id))["progress"] == 100


async def test_reported_progress_is_written_when_it_rises(make_world: MakeWorld) -> None:
    """A provider that reports while it works moves the row's progress, never backwards, and keeps the turn."""
    seen: list[tuple[int, int]] = []

    async def draws(order: Order) -> Done:
        for fraction in (0.2, 0.1, 0.6, 1.0):
            await order.report(Progress(fraction))
            row = await world.row(task_id)
            seen.append((row["progress"], row["version"]))
        return done()

    world = make_world(ScriptedProvider(submit=[draws]))
    task_id = await world.create()
    await world.step(task_id)
    version = seen[0][1]
    assert seen == [(20, version), (20, version), (60, version), (99, version)]


async def test_a_report_that_cannot_be_written_disturbs_nothing(make_world: MakeWorld) -> None:
    """A database that is away while progress is reported costs the progress, and never the picture."""

    async def draws(order: Order) -> Done:
        world.db.away("write_one", 1)
        await order.report(Progress(0.5))
        return done()

    world = make_world(ScriptedProvider(submit=[draws]))
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.COMPLETED


@pytest.mark.parametrize("late", [False, True], ids=["at the beginning", "at the commit"])
@pytest.mark.parametrize(
    ("answer", "state"),
    [(Pending("job"), State.WAITING), (done(), State.COMPLETED), (Unavailable("away"), State.QUEUED),
     (Refused("no"), State.FAILED)],
    ids=["pending", "done", "unavailable", "refused"],
)  # fmt: skip
async def test_a_database_that_is_away_loses_no_answer(
    make_world: MakeWorld, answer: Any, state: State, late: bool
) -> None:
    """What the vendor answered is known to this process alone: it is written as soon as the database is back."""

    async def answers(_: Order) -> Any:
        world.db.late = late
        world.db.away("write", 3)
        if isinstance(answer, Exception):
            raise answer
        return answer

    provider = ScriptedProvider(submit=[answers])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], len(provider.orders)) == (state, 1)
    assert len(world.clock.slept) == 3
    assert len(await world.events(task_id)) == row["sequence"]


async def test_a_database_that_is_away_before_the_order_keeps_it_back(make_world: MakeWorld) -> None:
    """An intention that could not be recorded is not acted upon: nothing was sent, and the next turn sends it."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    task_id = await world.create()
    world.db.away("write", 1)
    with pytest.raises(Exception, match="away"):
        await world.step(task_id)
    assert ((await world.row(task_id))["state"], provider.orders) == (State.QUEUED, [])
    assert (await world.step(task_id))["state"] == State.COMPLETED


async def test_a_worker_that_was_overtaken_changes_nothing(make_world: MakeWorld) -> None:
    """A worker stalls past its lease and another takes over: what the first one brings home is void."""

    async def stalls(_: str) -> Done:
        await world.change(task_id, rings=1)
        row = await world.row(task_id)
        await advance(world.rt, Message(TASK, task_id, row["version"]))
        return done(png(32, 32))

    provider = ScriptedProvider(submit=[Pending("job")], poll=[stalls, done(png(64, 64))])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    row = await world.step(task_id)
    assert row["state"] == State.COMPLETED
    assert [(one["width"]) for one in await world.assets(task_id)] == [64]
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "completed")]


async def test_who_waits_is_told_at_once(make_world: MakeWorld) -> None:
    """Each way to end a task wakes who waits for it in this process, without asking the database again."""
    answers: list[Any] = [done(), Refused("no"), Unavailable("away")]
    world = make_world(ScriptedProvider(submit=answers), max_rounds=1)
    world.rt.waiter.interval = 1000.0
    for _ in answers:
        task_id = await world.create()
        waiting = asyncio.create_task(world.rt.waiter.final(task_id, 1000))
        await asyncio.sleep(0.01)
        await world.step(task_id)
        assert await asyncio.wait_for(waiting, 1)
