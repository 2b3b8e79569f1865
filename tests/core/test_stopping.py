"""The wish to cancel, and the deadline, in every state of a task."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core import tasks
from gateway.core.lifecycle import State
from providers.contract import (
    Broken,
    Order,
    Pending,
    Unavailable,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, linked, serving
from tests.core.world import CALLER, START, World


async def test_cancelling_a_queued_task_sends_nothing(make_world: MakeWorld) -> None:
    """A task that nobody has begun is cancelled at once; no vendor hears of it."""
    provider = ScriptedProvider()
    world = make_world(provider)
    task_id = await world.create()
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.ended_at, provider.orders) == (State.CANCELLED, world.clock.now(), [])
    assert await world.events(task_id) == [(1, "queued"), (2, "cancelled")]


async def test_cancelling_a_task_between_two_tries(make_world: MakeWorld) -> None:
    """A task that waits for its next round is cancelled at once, and keeps the story of its attempts."""
    provider = ScriptedProvider(submit=[Unavailable("away")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, len(provider.orders)) == (State.CANCELLED, 1)
    assert await world.outcomes(task_id) == [("vendor", "Unavailable")]


async def test_cancelling_a_waiting_task_asks_the_vendor_to_stop(make_world: MakeWorld) -> None:
    """The vendor is asked once to stop the job, and the task is cancelled without a charge."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job-9")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.charged, provider.cancelled) == (State.CANCELLED, None, ["job-9"])
    assert await world.outcomes(task_id) == [("vendor", "cancelled")]
    assert (await world.row(task_id))["due_at"] is None


@pytest.mark.parametrize(
    "trouble", [Unavailable("away"), Broken("no"), TimeoutError()], ids=lambda one: type(one).__name__
)
async def test_a_vendor_that_does_not_stop_keeps_nobody(make_world: MakeWorld, trouble: Exception) -> None:
    """The task is cancelled for its owner, whatever the vendor makes of being asked."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], cancel=[trouble])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    assert (await tasks.cancel(world.rt, CALLER.key_id, task_id)).state == State.CANCELLED


async def test_a_vendor_that_cannot_cancel_is_not_asked(make_world: MakeWorld) -> None:
    """Where the card does not say that it can, the task ends here and the vendor is left alone."""
    provider = ScriptedProvider(submit=[Pending("job")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    assert (await tasks.cancel(world.rt, CALLER.key_id, task_id)).state == State.CANCELLED
    assert provider.cancelled == []


async def test_a_wish_during_a_one_shot_order_wins(make_world: MakeWorld) -> None:
    """The owner cancels while the vendor draws: the order cannot be recalled, but nothing is delivered or charged."""
    world = make_world(ScriptedProvider(submit=[wishing(lambda: world, lambda: task_id, done())]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["charged"]) == (State.CANCELLED, None)
    assert await world.assets(task_id) == []
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "cancelled")]


async def test_a_wish_during_an_order_that_becomes_a_job_stops_the_job(make_world: MakeWorld) -> None:
    """The owner cancels while the order is under way: the job that comes of it is stopped at the next look."""
    provider = ScriptedProvider(
        card_of(can_cancel=True), submit=[wishing(lambda: world, lambda: task_id, Pending("job"))]
    )
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    assert (await world.step(task_id))["state"] == State.CANCELLED
    assert (provider.cancelled, provider.polled) == (["job"], [])


async def test_a_wish_during_an_order_keeps_it_from_going_elsewhere(make_world: MakeWorld) -> None:
    """The owner cancels while the first route says no: the second route never gets the order."""
    one = ScriptedProvider(submit=[wishing(lambda: world, lambda: task_id, Unavailable("away"))])
    two = ScriptedProvider(card_of("two"), submit=[done()])
    world = make_world(one, two)
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.CANCELLED
    assert two.orders == []


async def test_a_wish_while_outputs_do_not_come_is_granted(make_world: MakeWorld) -> None:
    """The vendor's file server is down and the owner cancels: the task ends, instead of trying until its deadline."""
    async with serving(a=[(503, b"")]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("a"))]))
        task_id = await world.create()
        assert (await world.step(task_id))["state"] == State.STORING
        record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
        assert record.state == State.STORING
        assert (await world.step(task_id))["state"] == State.CANCELLED
        assert len(files.asked) == 1


async def test_a_task_that_was_not_begun_in_its_time_fails(make_world: MakeWorld) -> None:
    """A task still queued at its deadline is not sent any more."""
    provider = ScriptedProvider()
    world = make_world(provider, task_seconds=60.0)
    task_id = await world.create()
    world.clock.forward(60)
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], provider.orders) == (State.FAILED, "timeout", [])


async def test_a_job_that_takes_too_long_is_stopped(make_world: MakeWorld) -> None:
    """At its deadline a waiting task fails, and the vendor is asked to stop."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], poll=[Pending("job")] * 100)
    world = make_world(provider, task_seconds=60.0)
    task_id = await world.create()
    row = await world.finish(task_id)
    assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "timeout", None)
    assert provider.cancelled == ["job"]
    assert world.clock.now() - START < dt.timedelta(seconds=90)


def wishing(world: Callable[[], World], task_id: Callable[[], str], answer: Any) -> Callable[[Order], Awaitable[Any]]:
    """An answer during which the owner asks to cancel."""

    async def answers(_: Order) -> Any:
        record = await tasks.cancel(world().rt, CALLER.key_id, task_id())
        assert record.state is State.SUBMITTING
        if isinstance(answer, Exception):
            raise answer
        return answer

    return answers
