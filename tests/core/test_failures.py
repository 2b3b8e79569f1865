"""What a provider may answer to an order, and what that means for the task."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging

import pytest

from gateway.core.advance import MARGIN
from gateway.core.lifecycle import State
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Order,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done


@pytest.mark.parametrize(
    ("failure", "code", "param"),
    [
        (Refused("there is no such style", code="bad_style", param="style"), "provider_refused", "style"),
        (Blocked("the policy forbids it"), "content_policy_violation", None),
        (Unsure("no answer came"), "outcome_unknown", None),
        (Broken("nonsense"), "provider_error", None),
    ],
    ids=["refused", "blocked", "unsure", "broken"],
)
async def test_an_answer_that_ends_the_task(
    make_world: MakeWorld, failure: ProviderError, code: str, param: str | None
) -> None:
    """These answers end the task at once although another route is there: with their code, words and outcome."""
    one, two = ScriptedProvider(submit=[failure]), ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, code)
    assert (row["error_message"], row["error_param"]) == (failure.message, param)
    assert (row["due_at"], row["charged"], row["ended_at"]) == (None, None, world.clock.now())
    assert await world.outcomes(task_id) == [("vendor", type(failure).__name__)]
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "failed")]
    assert (len(one.orders), len(two.orders)) == (1, 0)


async def test_what_a_vendor_says_of_itself_is_for_the_log(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller is told what the error says to it; the rest stands in the log, with the task."""
    failure = Unsure("Vendor answered with status 500")
    failure.detail = "node 7 lost its disk"
    world = make_world(ScriptedProvider(submit=[failure]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert row["error_message"] == "Vendor answered with status 500"
    assert any(task_id in line and "node 7 lost its disk" in line for line in caplog.messages)


@pytest.mark.parametrize(
    "failure", [Unavailable("away"), RateLimited("full"), BadCredential("who?")], ids=lambda one: type(one).__name__
)
async def test_what_surely_was_not_accepted_goes_elsewhere_at_once(
    make_world: MakeWorld, failure: ProviderError
) -> None:
    """The next route gets the order in the same turn, under a key of its own; the caller never notices."""
    one, two = ScriptedProvider(submit=[failure]), ScriptedProvider(card_of("two"), submit=[done()])
    world = make_world(one, two)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["provider"]) == (State.COMPLETED, "two")
    assert await world.outcomes(task_id) == [("vendor", type(failure).__name__), ("two", "done")]
    assert (one.orders[0].idempotency_key, two.orders[0].idempotency_key) == (f"{task_id}-1", f"{task_id}-2")
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "completed")]


async def test_when_no_route_takes_it_the_task_goes_round_and_then_fails(make_world: MakeWorld) -> None:
    """All routes unavailable: round after round with growing pauses, each route so often as set, then overloaded."""
    one = ScriptedProvider(submit=[Unavailable("closed")] * 3)
    two = ScriptedProvider(card_of("two"), submit=[Unavailable("shut")] * 3)
    world = make_world(one, two, max_rounds=3)
    task_id = await world.create()
    pauses = []
    while (row := await world.step(task_id))["state"] == State.QUEUED:
        pauses.append((row["due_at"] - world.clock.now()).total_seconds())
    assert (row["state"], row["error_code"]) == (State.FAILED, "model_overloaded")
    assert (len(one.orders), len(two.orders)) == (3, 3)
    assert [provider for provider, _ in await world.outcomes(task_id)] == ["vendor", "two"] * 3
    assert pauses == sorted(pauses)
    assert all(1 <= pause <= 30 for pause in pauses)
    assert len({order.idempotency_key for order in one.orders + two.orders}) == 6


async def test_a_task_fails_as_soon_as_no_route_is_left(make_world: MakeWorld) -> None:
    """After the last try nobody waits for another: the only route refuses our credential, so the task ends there."""
    world = make_world(ScriptedProvider(submit=[BadCredential("key sk-1 is not yours")]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "provider_error")


async def test_the_caller_learns_nothing_of_our_credential(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """What a vendor says of our account is for the operator's log; the caller sees a neutral error."""
    caplog.set_level(logging.WARNING)
    world = make_world(ScriptedProvider(submit=[BadCredential("organization ACME has no credit left")]))
    task_id = await world.create()
    await world.finish(task_id)
    record = await world.get(task_id)
    assert "ACME" not in repr(record)
    assert record.error_code == "provider_error"
    assert "organization ACME has no credit left" in caplog.text


async def test_a_route_that_refuses_our_credential_is_not_tried_again(make_world: MakeWorld) -> None:
    """The other routes go on round after round; the one with the bad credential was tried once."""
    bad = ScriptedProvider(submit=[BadCredential("no")])
    good = ScriptedProvider(card_of("two"), submit=[Unavailable("away"), Unavailable("away"), done()])
    world = make_world(bad, good)
    task_id = await world.create()
    assert (await world.finish(task_id))["state"] == State.COMPLETED
    assert (len(bad.orders), len(good.orders)) == (1, 3)


@pytest.mark.parametrize(("advice", "pause"), [(20.0, 20), (900.0, 120), (None, 5)])
async def test_a_vendors_advice_to_wait_is_kept(make_world: MakeWorld, advice: float | None, pause: float) -> None:
    """A full vendor says when to come again, and that is heeded within bounds; else it comes again soon."""
    world = make_world(ScriptedProvider(submit=[RateLimited("full", retry_after=advice), done()]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["due_at"]) == (State.QUEUED, world.clock.now() + dt.timedelta(seconds=pause))
    assert (await world.step(task_id))["state"] == State.COMPLETED


async def test_a_defect_of_an_adapter_is_an_unknown_outcome(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter that trips over an answer may have bought already: nothing is sent again, here or elsewhere."""
    one, two = ScriptedProvider(submit=[KeyError("images")]), ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "outcome_unknown")
    assert "images" not in row["error_message"]
    assert (len(one.orders), len(two.orders)) == (1, 0)
    assert "KeyError" in caplog.text


async def test_a_vendor_that_never_answers_is_an_unknown_outcome(make_world: MakeWorld) -> None:
    """A submit that outlasts the adapter's own limit is cut off, and not repeated."""

    async def hangs(_: Order) -> Done:
        await asyncio.Event().wait()
        raise AssertionError

    provider = ScriptedProvider(card_of(timeout=0.01 - MARGIN), submit=[hangs])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], len(provider.orders)) == (State.FAILED, "outcome_unknown", 1)


class Crowded(Unavailable):
    """What an adapter raises for a queue that is full."""


class Unpaid(BadCredential):
    """What an adapter raises for an account without credit."""


async def test_an_adapters_own_errors_are_what_they_derive_from(make_world: MakeWorld) -> None:
    """Subclasses of the contract's errors are treated and recorded as those."""
    one = ScriptedProvider(submit=[Unpaid("no credit")])
    two = ScriptedProvider(card_of("two"), submit=[Crowded("full"), Crowded("full"), done()])
    world = make_world(one, two)
    task_id = await world.create()
    assert (await world.finish(task_id))["state"] == State.COMPLETED
    tried = ["BadCredential", "Unavailable", "Unavailable", "done"]
    assert [outcome for _, outcome in await world.outcomes(task_id)] == tried


async def test_an_error_outside_the_contract_is_the_providers(make_world: MakeWorld) -> None:
    """An outside package that raises the bare base error ends its task like a broken job."""
    world = make_world(ScriptedProvider(submit=[ProviderError("just so")]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], row["error_message"]) == (State.FAILED, "provider_error", "just so")
