"""The wish to cancel, and the deadline, in every state of a task."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core import tasks
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from providers.contract import (
    BadCredential,
    Broken,
    Order,
    Pending,
    Unavailable,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, linked, png, serving
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
    """The task is cancelled for its owner, whatever the vendor makes of being asked; what goes on there is charged."""
    provider = ScriptedProvider(
        card_of(can_cancel=True), submit=[Pending("job")], cancel=[trouble], poll=[Pending("job")]
    )
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped, record.charged) == (State.CANCELLED, "not_stopped", 40_000)


async def test_a_vendor_that_does_not_say_how_its_job_stands_is_asked_again(make_world: MakeWorld) -> None:
    """It took the word to stop, and may have finished before: until it says so, nothing is claimed or charged."""
    provider = ScriptedProvider(
        card_of(can_cancel=True), submit=[Pending("job")], poll=[Unavailable("away"), done()]
    )  # fmt: skip
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped) == (State.WAITING, "asked")
    row = await world.step(task_id)
    assert provider.cancelled == ["job"]
    assert (row["state"], row["stopped"], row["charged"]) == (State.CANCELLED, "delivered", 40_000)


async def test_a_job_that_goes_on_although_it_was_stopped_is_not_believed(make_world: MakeWorld) -> None:
    """The provider takes our word and works on: its price stays reserved, for it may bill the job."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], poll=[Pending("job")] * 100)
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    await tasks.cancel(world.rt, CALLER.key_id, task_id)
    row = await world.finish(task_id)
    assert (row["stopped"], row["held"], provider.cancelled) == ("unknown", 40_000, ["job"])


async def test_a_job_that_failed_by_itself_was_not_stopped(make_world: MakeWorld) -> None:
    """A provider that cannot cancel says that the job has failed: that is what the task says, too."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[Broken("no")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped, record.charged) == (State.CANCELLED, "failed", None)


async def test_what_never_becomes_known_of_a_stopped_job_stays_reserved(make_world: MakeWorld) -> None:
    """The vendor stays away: the task ends all the same, and its money is held as for any unknown outcome."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], poll=[Unavailable("away")] * 100)
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    await tasks.cancel(world.rt, CALLER.key_id, task_id)
    row = await world.finish(task_id)
    assert (row["state"], row["stopped"], row["held"], row["charged"]) == (State.CANCELLED, "unknown", 40_000, None)
    assert row["held_until"] is not None


async def test_a_vendor_that_cannot_cancel_is_not_asked(make_world: MakeWorld) -> None:
    """Where the card does not say that it can, the task ends here, and is charged, for the vendor will bill it."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[Pending("job")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped, record.charged) == (State.CANCELLED, "not_stopped", 40_000)
    assert provider.cancelled == []


async def test_a_job_that_was_done_before_it_could_be_stopped_is_kept(make_world: MakeWorld) -> None:
    """The vendor has finished when the wish arrives: the task is cancelled, and its owner has what was bought."""
    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], poll=[done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped, record.charged) == (State.CANCELLED, "delivered", 40_000)
    assert len(record.assets) == 1


async def test_a_wish_during_a_one_shot_order_keeps_what_was_bought(make_world: MakeWorld) -> None:
    """The owner cancels while the vendor draws: the task is cancelled, and the picture that was paid for is there."""
    world = make_world(ScriptedProvider(submit=[wishing(lambda: world, lambda: task_id, done())]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["stopped"], row["charged"]) == (State.CANCELLED, "delivered", 40_000)
    assert len(await world.assets(task_id)) == 1
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
    assert (provider.cancelled, provider.polled) == (["job"], ["job"])


async def test_a_wish_during_an_order_keeps_it_from_going_elsewhere(make_world: MakeWorld) -> None:
    """The owner cancels while the first route says no: the second route never gets the order."""
    one = ScriptedProvider(submit=[wishing(lambda: world, lambda: task_id, Unavailable("away"))])
    two = ScriptedProvider(card_of("two"), submit=[done()])
    world = make_world(one, two)
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.CANCELLED
    assert two.orders == []


async def test_a_wish_while_outputs_do_not_come_waits_for_them(make_world: MakeWorld) -> None:
    """The vendor's file server is down and the owner cancels: what was bought is still brought in, and kept."""
    async with serving(a=[(503, b""), (200, png())]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("a"))]))
        task_id = await world.create()
        assert (await world.step(task_id))["state"] == State.STORING
        record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
        assert record.state == State.STORING
        row = await world.step(task_id)
        assert (row["state"], row["stopped"], row["charged"]) == (State.CANCELLED, "delivered", 40_000)
        assert len(await world.assets(task_id)) == 1


async def test_a_task_that_was_not_begun_in_its_time_fails(make_world: MakeWorld) -> None:
    """A task still queued at its deadline is not sent any more."""
    provider = ScriptedProvider()
    world = make_world(provider, task_seconds=60.0)
    task_id = await world.create()
    world.clock.forward(60)
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], provider.orders) == (State.FAILED, "timeout", [])


async def test_an_order_that_is_answered_after_the_deadline_is_delivered(make_world: MakeWorld) -> None:
    """A short timeout cuts no order off: what was being drawn is kept and charged, and the route stands as before."""

    async def draws(_: Order) -> Any:
        world.clock.forward(60)
        return done()

    world = make_world(ScriptedProvider(submit=[draws]))
    task = await tasks.create(world.rt, CALLER, Wanted(generation(), timeout=1.0), here=False)
    row = await world.finish(task.id)
    assert (row["state"], row["charged"]) == (State.COMPLETED, 40_000)
    assert await world.rt.health.read() == []


async def test_a_job_that_takes_too_long_is_stopped(make_world: MakeWorld) -> None:
    """At its deadline a waiting task fails, and the vendor is asked to stop."""

    async def stands(job: str) -> Pending:
        if job in provider.cancelled:
            raise Broken("The job was stopped.")
        return Pending(job)

    provider = ScriptedProvider(card_of(can_cancel=True), submit=[Pending("job")], poll=[stands] * 100)
    world = make_world(provider, task_seconds=60.0)
    task_id = await world.create()
    row = await world.finish(task_id)
    assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "timeout", None)
    assert row["stopped"] == "at_provider"
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


async def test_a_cancel_is_heard_that_comes_while_a_task_finds_all_routes_closed(make_world: MakeWorld) -> None:
    """The wish came after the turn was taken and before it is given back: the task is due at once."""
    world = make_world(ScriptedProvider(), park_seconds=600.0)
    await world.rt.health.failed(("vendor", "default", "vendor-model"), BadCredential("no"), world.clock.now())
    task_id = await world.create()
    refresh = world.rt.health.refresh

    async def wish() -> None:
        await refresh()
        await world.change(task_id, cancel_asked_at=world.clock.now(), due_at=world.clock.now(), rings=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.rt.health, "refresh", wish)
        row = await world.step(task_id)
    assert (row["state"], row["due_at"]) == (State.QUEUED, world.clock.now())
    assert (await world.step(task_id))["state"] == State.CANCELLED


@pytest.mark.parametrize("when", ["before", "commit", "after"])
async def test_a_task_waits_for_a_route_though_the_database_is_away(make_world: MakeWorld, when: str) -> None:
    """Giving the turn back is tried until it is written: the step does not count as one that stopped its worker."""
    world = make_world(ScriptedProvider(submit=[done()]), breaker_failures=1)
    await world.rt.health.failed(("vendor", "default", "vendor-model"), Unavailable("away"), world.clock.now())
    task_id = await world.rung()
    world.db.when = when
    world.db.away("write", 2)
    row = await world.step(task_id)
    assert (row["state"], row["takes"]) == (State.QUEUED, 0)
    assert (await world.step(task_id))["state"] == State.COMPLETED
