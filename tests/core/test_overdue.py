"""Orders of which nobody knows whether they arrived: never bought twice, never given up too soon."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from gateway.core.advance import MARGIN
from gateway.core.lifecycle import State
from providers.contract import (
    BadCredential,
    Broken,
    Done,
    Pending,
    ProviderError,
    RateLimited,
    Unavailable,
    Unsure,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done
from tests.core.world import START

FINDS: dict[str, Any] = {"can_find": True}
REPEATS: dict[str, Any] = {"idempotent_submit": True}


async def test_an_overdue_order_is_never_sent_again(make_world: MakeWorld) -> None:
    """Its sender died and the vendor offers no way to ask: the outcome is unknown, and no second order goes out."""
    one, two = ScriptedProvider(submit=[]), ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    task_id = await world.create()
    await world.crash(task_id)
    row = await world.step(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "outcome_unknown")
    assert (len(one.orders), len(two.orders)) == (1, 0)
    assert await world.outcomes(task_id) == [("vendor", "Unsure")]


async def test_an_idempotent_order_is_sent_again_under_the_same_key(make_world: MakeWorld) -> None:
    """Where the vendor keeps one order per key, the same attempt is sent again and completes."""
    provider = ScriptedProvider(card_of(**REPEATS), submit=[done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.crash(task_id)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert [order.idempotency_key for order in provider.orders] == [f"{task_id}-1"] * 2
    assert await world.outcomes(task_id) == [("vendor", "done")]


@pytest.mark.parametrize(
    "failure", [Unavailable("away"), RateLimited("full"), BadCredential("who?"), Unsure("hm")],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
async def test_a_repeated_order_never_goes_elsewhere(make_world: MakeWorld, failure: ProviderError) -> None:
    """The first sending may have been accepted: until the vendor answers, only the same key may follow it there."""
    one = ScriptedProvider(card_of(**REPEATS), submit=[failure, failure, done()])
    two = ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    task_id = await world.create()
    await world.crash(task_id)
    for _ in range(2):
        row = await world.step(task_id)
        assert (row["state"], row["takes"]) == (State.SUBMITTING, 0)
        assert row["due_at"] > world.clock.now()
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert {order.idempotency_key for order in one.orders} == {f"{task_id}-1"}
    assert two.orders == []


async def test_a_repeated_order_that_gets_no_answer_in_time_is_unknown(make_world: MakeWorld) -> None:
    """The deadline ends the repetitions: what became of the first sending stays unknown."""
    provider = ScriptedProvider(card_of(**REPEATS), submit=[Unavailable("away")] * 20)
    world = make_world(provider, ScriptedProvider(card_of("two")), task_seconds=60.0)
    task_id = await world.create()
    await world.crash(task_id)
    row = await world.finish(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "outcome_unknown")
    assert {order.idempotency_key for order in provider.orders} == {f"{task_id}-1"}


@pytest.mark.parametrize(
    ("found", "state"), [(Pending("job", poll_after=2), State.WAITING), (done(), State.COMPLETED)],
    ids=["pending", "done"],
)  # fmt: skip
async def test_an_overdue_order_is_looked_up(make_world: MakeWorld, found: Pending | Done, state: State) -> None:
    """Where the vendor can be asked for our reference, its answer is taken up, and nothing is sent again."""
    provider = ScriptedProvider(card_of(**FINDS), submit=[], find=[found])
    world = make_world(provider)
    task_id = await world.create()
    await world.crash(task_id)
    assert (await world.step(task_id))["state"] == state
    assert [order.idempotency_key for order in provider.found] == [f"{task_id}-1"]
    assert len(provider.orders) == 1


async def test_an_order_that_never_arrived_is_sent_anew(make_world: MakeWorld) -> None:
    """The vendor knows nothing of it once it can be under way no more: a new attempt then buys nothing twice."""
    provider = ScriptedProvider(card_of(**FINDS), submit=[done()], find=[None, None])
    world = make_world(provider)
    task_id = await world.create()
    await world.crash(task_id)
    row = await world.step(task_id)
    assert (row["state"], row["due_at"]) == (State.SUBMITTING, START + dt.timedelta(seconds=5 + MARGIN))
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert [order.idempotency_key for order in provider.orders] == [f"{task_id}-1", f"{task_id}-2"]
    assert await world.outcomes(task_id) == [("vendor", "Unavailable"), ("vendor", "done")]


@pytest.mark.parametrize(
    "trouble", [Unavailable("away"), RateLimited("full"), BadCredential("who?"), Unsure("hm"), TimeoutError()],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
async def test_a_look_up_that_fails_is_repeated(make_world: MakeWorld, trouble: Exception) -> None:
    """A vendor that cannot be asked just now is asked again later, however often, before anything is concluded."""
    provider = ScriptedProvider(card_of(**FINDS), submit=[], find=[*[trouble] * 5, done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.crash(task_id)
    for _ in range(5):
        row = await world.step(task_id)
        assert (row["state"], row["takes"]) == (State.SUBMITTING, 0)
        assert row["due_at"] > world.clock.now()
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert len(provider.orders) == 1


async def test_a_look_up_that_finds_a_failed_job_ends_the_task(make_world: MakeWorld) -> None:
    """The order did arrive, and its job has failed since."""
    provider = ScriptedProvider(card_of(**FINDS), submit=[], find=[Broken("out of memory")])
    world = make_world(provider)
    task_id = await world.create()
    await world.crash(task_id)
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], row["error_message"]) == (State.FAILED, "provider_error", "out of memory")


@pytest.mark.parametrize("facts", [FINDS, REPEATS], ids=["can_find", "idempotent_submit"])
async def test_an_unsure_answer_is_cleared_up_where_the_vendor_offers_a_way(
    make_world: MakeWorld, facts: dict[str, Any]
) -> None:
    """No clear answer came, but the card says how to get one: nothing is given up that may have been bought."""
    provider = ScriptedProvider(card_of(**facts), submit=[Unsure("the line broke"), done()], find=[done()])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.step(task_id)
    assert row["state"] == State.SUBMITTING
    assert world.clock.now() < row["due_at"] <= world.clock.now() + dt.timedelta(seconds=30)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert {order.idempotency_key for order in (*provider.orders, *provider.found)} == {f"{task_id}-1"}
