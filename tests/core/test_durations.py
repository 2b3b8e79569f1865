"""Durations: what time teaches of tasks, and how far one is by that."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.core.durations import MOST, WHEN_DUE, Durations, learned
from gateway.core.tables import TASKS
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, words
from tests.core.world import START, World

SECONDS = st.floats(0, 1e7, allow_nan=False)


@given(SECONDS, SECONDS, st.floats(0.001, 1e6))
def test_time_takes_nothing_back(one: float, other: float, expected: float) -> None:
    """The later, the further; never at the end, however late."""
    earlier, later = sorted((one, other))
    assert 0 <= learned(earlier, expected) <= learned(later, expected) <= MOST


def test_when_its_time_is_over_it_is_nearly_there() -> None:
    """Half of its time is half of the way; without an expectation there is no way."""
    assert [learned(seconds, 10) for seconds in (0, 5, 10)] == [0, WHEN_DUE // 2, WHEN_DUE]
    assert learned(1e9, 10) == MOST
    assert learned(5, None) == learned(5, 0) == 0


async def took(world: World, *seconds: float, **members: Any) -> None:
    """Tasks that were completed and took so long."""
    for number in seconds:
        world.providers["vendor"].script["submit"].append(done())
        task_id = await world.create(**members)
        await world.finish(task_id)
        await world.change(task_id, started_at=START, ended_at=START + dt.timedelta(seconds=number))


async def test_the_median_of_model_and_size_is_learned(make_world: MakeWorld) -> None:
    """One slow task does not count; for a size that was never seen, the model's other tasks do."""
    world = make_world(ScriptedProvider(submit=[]))
    durations = Durations()
    assert durations.expected(generation(size="64x64")) is None
    await took(world, 2, 4, 100, size="64x64")
    await took(world, 20, 22, size="128x64")
    await durations.learn(world.db)
    assert durations.expected(generation(size="64x64")) == 4
    assert durations.expected(generation(size="128x64")) == 21
    assert durations.expected(generation()) == 20
    assert durations.expected(generation(model="other")) is None


async def test_films_of_another_length_take_another_time(make_world: MakeWorld) -> None:
    """The seconds that were asked for belong to the size, as a number or in digits."""
    parameters = {"seconds": words("4", "8")}
    world = make_world(ScriptedProvider(card_of(model={"parameters": parameters}), submit=[]))
    durations = Durations()
    await took(world, 10, parameters={"seconds": "4"})
    await took(world, 30, parameters={"seconds": "8"})
    await durations.learn(world.db)
    assert durations.expected(generation(parameters={"seconds": 4})) == 10
    assert durations.expected(generation(parameters={"seconds": "8"})) == 30


async def test_what_is_not_among_the_last_tasks_stays_known(make_world: MakeWorld) -> None:
    """A model that is seldom used is not forgotten because others are used a lot."""
    world, durations = make_world(ScriptedProvider(submit=[])), Durations()
    await took(world, 7, size="64x64")
    await durations.learn(world.db)
    async with world.db.write_one() as connection:
        await connection.execute(update(TASKS).values(state="failed"))
    await durations.learn(world.db)
    assert durations.expected(generation(size="64x64")) == 7
