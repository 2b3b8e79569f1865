"""Watching: what a provider pushes is shown, and whatever becomes of that, the task goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core.lifecycle import State
from providers.contract import Pending, Progress, Report, Unavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done
from tests.core.world import World


class Pushing(ScriptedProvider):
    """A provider that pushes what it is told to, and then what `end` raises, or nothing more."""

    def __init__(self, *fractions: float, end: Exception | None = None) -> None:
        super().__init__(card_of(watches=True), submit=[Pending("job", poll_after=600)], poll=[done()])
        self.fractions = fractions
        self.end = end

    async def watch(self, job: str, report: Report) -> None:
        for fraction in self.fractions:
            await report(Progress(fraction))
        if self.end is not None:
            raise self.end


async def watched(make_world: MakeWorld, provider: ScriptedProvider) -> tuple[World, Any]:
    """A world in which a task waits with the provider, and its row when nothing more is pushed."""
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    await asyncio.gather(*world.rt.executor._companions)
    return world, await world.row(task_id)


async def test_progress_is_shown_and_the_end_makes_the_task_due(make_world: MakeWorld) -> None:
    """It rises as it is pushed and never falls; when nothing more comes, somebody looks at the job at once."""
    world, row = await watched(make_world, Pushing(0.25, 0.75, 0.5))
    assert (row["progress"], row["due_at"]) == (75, world.clock.now())
    assert (await world.finish(row["id"]))["state"] == State.COMPLETED


async def test_a_push_that_breaks_off_changes_nothing(make_world: MakeWorld) -> None:
    """The next look comes when it was due anyway."""
    world, row = await watched(make_world, Pushing(0.25, end=Unavailable("away")))
    assert (row["progress"], row["state"]) == (25, State.WAITING)
    assert (row["due_at"] - world.clock.now()).total_seconds() == 600


@pytest.mark.parametrize("fraction", [1.0, 7.5])
async def test_only_a_look_says_that_it_is_done(make_world: MakeWorld, fraction: float) -> None:
    """However far the provider says that it is, the task waits until its job was looked at."""
    _, row = await watched(make_world, Pushing(fraction))
    assert (row["progress"], row["state"]) == (99, State.WAITING)


async def test_a_process_that_stops_does_not_wait_for_what_is_pushed(make_world: MakeWorld) -> None:
    """Watching ends with the process: nothing depends on it."""

    class Endless(Pushing):
        async def watch(self, job: str, report: Report) -> None:
            await asyncio.Event().wait()

    world = make_world(Endless())
    task_id = await world.create()
    await world.step(task_id)
    async with asyncio.timeout(5):
        await world.rt.executor.drain(60)
