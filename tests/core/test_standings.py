"""Standings: how far a task is shown to be, how long it still takes, and where it stands in its line."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from gateway.core import tasks
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from gateway.core.standings import Estimate, estimate
from gateway.core.tables import ACCOUNTS
from providers.contract import Broken, Pending, Progress, Report
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation
from tests.core.world import CALLER, OTHER, World


@pytest.mark.parametrize(
    ("said", "passed", "expected", "found"),
    [
        (0, 5, None, Estimate(0, None)),
        (0, 5, 10, Estimate(45, 5)),
        (0, 11, 10, Estimate(90, None)),
        (50, 5, None, Estimate(50, 5)),
        (20, 5, 10, Estimate(20, 20)),
        (2, 5, 10, Estimate(2, 5)),
    ],
)
def test_the_providers_word_goes_before_what_was_learned(
    said: int, passed: float, expected: float | None, found: Estimate
) -> None:
    """Also for the rest, once it says enough; of what takes longer than it should, nobody knows how long."""
    assert estimate(said, passed, expected) == found


async def expecting(world: World, seconds: float) -> None:
    """Lets the world know that its tasks take so long."""
    shape = (generation().model, "generation", ...)
    world.rt.durations._medians[shape] = seconds


async def shown(world: World, task_id: str) -> Estimate:
    """What is shown of the task now."""
    return tasks.estimated(world.rt, await world.get(task_id))


async def test_progress_rises_with_the_time_that_such_tasks_take(make_world: MakeWorld) -> None:
    """Also when others take longer since; and it is never said to be done before it is."""
    world = make_world(ScriptedProvider(submit=[Pending("job", poll_after=5)], poll=[Pending("job", 600), done()]))
    await expecting(world, 20)
    task_id = await world.create()
    assert await shown(world, task_id) == Estimate(0, None)
    await world.step(task_id)
    assert await shown(world, task_id) == Estimate(0, 20)
    world.clock.forward(4)
    await expecting(world, 4000)
    assert await shown(world, task_id) == Estimate(18, 16)
    await world.step(task_id)
    world.clock.forward(500)
    assert await shown(world, task_id) == Estimate(98, None)
    await world.finish(task_id)
    assert await shown(world, task_id) == Estimate(100, None)


class Telling(ScriptedProvider):
    """A provider that says ten seconds after it is watched that it is so far."""

    def __init__(self, *fractions: float) -> None:
        super().__init__(card_of(watches=True), submit=[Pending("job", poll_after=600)], poll=[done()])
        self.fractions = fractions
        self.world: World | None = None
        self.seen: list[int] = []

    async def watch(self, job: str, report: Report) -> None:
        assert self.world is not None
        (task,), _ = await tasks.listing(self.world.rt, CALLER.key_id)
        self.seen.append((await shown(self.world, task.id)).progress)
        self.world.clock.forward(10)
        for fraction in self.fractions:
            await report(Progress(fraction))
            self.seen.append((await shown(self.world, task.id)).progress)


async def test_the_first_word_of_a_provider_takes_nothing_back(make_world: MakeWorld) -> None:
    """Who was told 45 by time is not told 5 because the provider says so; from then on the provider's word counts."""
    answers = [Pending("job", 5, progress=fraction) for fraction in (0.0, 0.05, 0.3, 0.6)]
    world = make_world(ScriptedProvider(submit=[Pending("job", poll_after=5)], poll=[*answers, done()]))
    await expecting(world, 20)
    task_id = await world.create()
    seen = []
    for _ in range(5):
        await world.step(task_id)
        seen.append((await shown(world, task_id)).progress)
    assert seen == [0, 22, 45, 45, 60]


async def test_what_is_pushed_takes_nothing_back(make_world: MakeWorld) -> None:
    """As for what a look shows."""
    provider = Telling(0.1, 0.7)
    world = make_world(provider)
    provider.world = world
    await expecting(world, 20)
    task_id = await world.create()
    await world.step(task_id)
    await asyncio.gather(*world.rt.executor._companions)
    assert provider.seen == [0, 45, 70]


@pytest.mark.parametrize("ends", [State.FAILED, State.CANCELLED])
async def test_a_task_that_ends_badly_stays_where_it_was(make_world: MakeWorld, ends: State) -> None:
    """Its progress does not fall, and nothing remains."""
    world = make_world(ScriptedProvider(submit=[Pending("job", poll_after=10)], poll=[Broken("no"), Broken("no")]))
    await expecting(world, 20)
    task_id = await world.create()
    await world.step(task_id)
    world.clock.forward(10)
    assert (await shown(world, task_id)).progress == 45
    if ends is State.CANCELLED:
        await tasks.cancel(world.rt, CALLER.key_id, task_id)
    else:
        await world.finish(task_id)
    world.clock.forward(10)
    assert (await world.get(task_id)).state == ends
    assert await shown(world, task_id) == Estimate(45, None)


async def test_a_queued_task_knows_its_place(make_world: MakeWorld) -> None:
    """Among those of its key, by rank; once it has its slot there is no place any more."""
    world = make_world(ScriptedProvider(submit=[done()] * 3))
    ids = [await world.create() for _ in range(3)]
    other = await world.create(OTHER)
    first = await tasks.create(world.rt, CALLER, Wanted(generation(), priority=10), here=False)
    places = {one.id: one.queue_position for one in (await tasks.listing(world.rt, CALLER.key_id))[0]}
    assert places == {first.id: 1, ids[0]: 2, ids[1]: 3, ids[2]: 4}
    assert (await tasks.get(world.rt, OTHER.key_id, other)).queue_position == 1
    async with world.db.write_one() as connection:
        await connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == OTHER.key_id).values(concurrent=0))
    await world.step(first.id)
    assert (await world.get(first.id)).queue_position is None
    assert (await world.get(ids[0])).queue_position == 1
