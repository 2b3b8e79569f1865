"""Work: what a step writes, whole and in turn, also when the database is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core import turns
from gateway.core.advance import advance, go_on
from gateway.core.lifecycle import State
from gateway.core.ports import TASK, Message
from gateway.core.tables import TASKS
from gateway.core.turns import Turn
from providers.contract import (
    Done,
    Order,
    Output,
    Pending,
    Progress,
    Refused,
    Unavailable,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, done, png
from tests.core.world import World


async def test_progress_never_falls(make_world: MakeWorld) -> None:
    """Whatever a vendor says in whatever order, the number that callers see only rises, and is 100 only at the end."""
    fractions = [0.1, 0.5, 0.3, None, -1.0, 0.9, 1.0, 7.0]
    polls = [Pending("job", progress=fraction) for fraction in fractions]
    world = make_world(ScriptedProvider(submit=[Pending("job")], poll=[*polls, done()]))
    task_id = await world.rung()
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
    task_id = await world.rung()
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
    task_id = await world.rung()
    assert (await world.step(task_id))["state"] == State.COMPLETED


@pytest.mark.parametrize("when", ["before", "commit"])
@pytest.mark.parametrize(
    ("answer", "state"),
    [(Pending("job"), State.WAITING), (done(), State.COMPLETED), (Unavailable("away"), State.QUEUED),
     (Refused("no"), State.FAILED)],
    ids=["pending", "done", "unavailable", "refused"],
)  # fmt: skip
async def test_a_database_that_is_away_loses_no_answer(
    make_world: MakeWorld, answer: Any, state: State, when: str
) -> None:
    """What the vendor answered is known to this process alone: it is written as soon as the database is back."""

    async def answers(_: Order) -> Any:
        world.db.when = when
        world.db.away("write", 3)
        if isinstance(answer, Exception):
            raise answer
        return answer

    provider = ScriptedProvider(submit=[answers])
    world = make_world(provider)
    task_id = await world.rung()
    row = await world.step(task_id)
    assert (row["state"], len(provider.orders)) == (state, 1)
    # One of the three may have met the note on the route's health, which nobody insists on.
    assert len(world.clock.slept) == (2 if isinstance(answer, Unavailable) else 3)
    assert len(await world.events(task_id)) == row["sequence"]


async def test_a_database_that_is_away_before_the_order_keeps_it_back(make_world: MakeWorld) -> None:
    """Nothing is sent before the intention stands, however long that takes; then it is sent once."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    task_id = await world.rung()
    world.db.away("write", 3)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert (len(provider.orders), len(world.clock.slept)) == (1, 3)


@pytest.mark.parametrize("answer", [done(), Pending("job"), Refused("no")], ids=["done", "pending", "refused"])
async def test_a_commit_whose_answer_was_lost_stands(make_world: MakeWorld, answer: Any) -> None:
    """The intention stands although nobody heard so: it is found, the order goes out once, and nothing is unknown."""
    provider = ScriptedProvider(submit=[answer])
    world = make_world(provider)
    task_id = await world.rung()
    world.db.when = "after"
    world.db.away("write", 2)
    row = await world.step(task_id)
    assert row["error_code"] != "outcome_unknown"
    assert row["state"] in (State.COMPLETED, State.WAITING, State.FAILED)
    assert len(provider.orders) == 1
    assert [number for number, _ in await world.events(task_id)] == list(range(1, row["sequence"] + 1))


async def test_our_own_trouble_is_no_poison(make_world: MakeWorld) -> None:
    """A database that flaps after each take does not use up the turns of a task that a vendor works on."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[Pending("job")] * 4 + [done()])
    world = make_world(provider)
    task_id = await world.rung()
    await world.step(task_id)
    for _ in range(4):
        turn = await _taken(world, task_id)
        world.db.away("read", 1)
        await go_on(world.rt, turn)
    assert (await world.finish(task_id))["state"] == State.COMPLETED
    assert len(provider.polled) == 5


async def _taken(world: World, task_id: str) -> Turn:
    row = await world.row(task_id)
    world.clock.time = max(world.clock.time, row["due_at"])
    (message,) = await turns.ring(world.db, TASKS, TASK, world.clock.now(), 15, 10)
    turn = await turns.take(world.db, TASKS, message, world.clock.now, 15)
    assert turn is not None
    return turn


async def test_what_a_vendor_says_is_made_fit_to_be_kept(make_world: MakeWorld) -> None:
    """NUL, half characters and accounts that are no JSON would keep PostgreSQL from recording a paid result."""
    strange = Done((Output(data=png(), revised_prompt="a\0b\ud800"),), usage={"note": "a\0b", "list": ["\0"], "n": 1})
    world = make_world(ScriptedProvider(submit=[strange, Done((Output(data=png()),), usage={"big": 2**70})]))
    task_id = await world.rung()
    assert (await world.step(task_id))["usage"] == {"note": "ab", "list": [""], "n": 1}
    assert [one["revised_prompt"] for one in await world.assets(task_id)] == ["ab?"]
    task_id = await world.rung()
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
    task_id = await world.rung()
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
        task_id = await world.rung()
        waiting = asyncio.create_task(world.rt.waiter.final(task_id, 1000))
        await asyncio.sleep(0.01)
        await world.step(task_id)
        assert await asyncio.wait_for(waiting, 20)
