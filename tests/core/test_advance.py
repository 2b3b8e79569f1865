"""Advance: the steps of a task's life, one at a time and each once."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from typing import Any

import pytest

from gateway.core import tasks
from gateway.core.advance import advance
from gateway.core.lifecycle import State
from gateway.core.ports import TASK, Message
from gateway.core.preparing import Wanted
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    Done,
    Lost,
    Pending,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)  # fmt: skip
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, linked, png, serving
from tests.core.world import CALLER


async def test_a_one_shot_answer_completes_the_task(make_world: MakeWorld) -> None:
    """Bytes that came with the answer are in the store as they were, measured, hashed, charged and told."""
    world = make_world(ScriptedProvider(submit=[done(png(64, 64), usage={"tokens": 7})]))
    task_id = await world.create(size="64x64")
    row = await world.step(task_id)
    assert (row["state"], row["progress"], row["due_at"]) == (State.COMPLETED, 100, None)
    assert (row["provider"], row["charged"], row["usage"]) == ("vendor", 40_000, {"tokens": 7})
    assert (row["adjusted"], row["error_code"]) == ({}, None)
    (asset,) = await world.assets(task_id)
    assert await world.bytes_of(asset) == png(64, 64)
    assert asset["sha256"] == hashlib.sha256(png(64, 64)).hexdigest()
    assert (asset["size"], asset["media_type"], asset["width"], asset["height"]) == (len(png()), "image/png", 64, 64)
    assert (asset["key_id"], asset["position"], asset["kind"]) == (CALLER.key_id, 0, "image")
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "completed")]
    assert await world.outcomes(task_id) == [("vendor", "done")]


async def test_the_vendor_gets_the_order_as_it_was_admitted(make_world: MakeWorld) -> None:
    """The order carries the vendor's own model name and a key of this attempt, and nothing is left of `auto`."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    task_id = await world.create(size="auto", n=2)
    await world.step(task_id)
    (order,) = provider.orders
    assert (order.model, order.idempotency_key) == ("vendor-model", f"{task_id}-1")
    assert (order.generation.n, order.generation.size) == (2, None)
    assert order.generation.prompt == "a mirror in the sun"


async def test_the_first_turn_is_taken_here_when_somebody_waits(make_world: MakeWorld) -> None:
    """A task that this process takes itself needs no bell and ends in the very same way."""
    world = make_world(ScriptedProvider(submit=[done()]))
    record = await tasks.create(world.rt, CALLER, Wanted(generation()), here=True)
    assert await world.rt.waiter.final(record.id, 5)
    row = await world.row(record.id)
    assert (row["state"], world.bells.messages) == (State.COMPLETED, [])
    assert await world.events(record.id) == [(1, "queued"), (2, "started"), (3, "completed")]


async def test_a_message_for_a_task_that_ended_does_nothing(make_world: MakeWorld) -> None:
    """Once a task is final, no message of any version moves it."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.step(task_id)
    for version in range(row["version"] + 2):
        await advance(world.rt, Message(TASK, task_id, version))
    assert await world.row(task_id) == row
    assert len(provider.orders) == 1


async def test_two_messages_at_once_send_one_order(make_world: MakeWorld) -> None:
    """A doubled message makes no second order, whoever is faster."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    message = Message(TASK, await world.rung(), 0)
    await asyncio.gather(*(advance(world.rt, message) for _ in range(10)))
    assert len(provider.orders) == 1
    assert (await world.row(message.id))["state"] == State.COMPLETED


async def test_a_lost_job_is_ordered_again(make_world: MakeWorld) -> None:
    """A job that its vendor surely has no more is sent anew, as often as a route is tried, and not charged."""
    provider = ScriptedProvider(submit=[Pending("job-1"), Pending("job-2")], poll=[Lost("restarted"), done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    row = await world.finish(task_id)
    assert (row["state"], provider.polled) == (State.COMPLETED, ["job-1", "job-2"])
    first, second = await world.attempts(task_id)
    assert (first["outcome"], first["cost"], second["outcome"]) == ("Lost", None, "done")


async def test_a_job_that_is_lost_again_and_again_fails(make_world: MakeWorld) -> None:
    """A vendor that loses every job is not asked for ever; the caller learns why, and pays nothing."""
    rounds = 3
    provider = ScriptedProvider(submit=[Pending("job")] * rounds, poll=[Lost("restarted")] * rounds)
    world = make_world(provider, max_rounds=rounds)
    row = await world.finish(await world.create())
    assert (row["error_code"], row["charged"], len(provider.orders)) == ("model_overloaded", None, rounds)
    assert row["error_message"] == "The provider lost the work before it was finished."


async def test_a_job_that_is_lost_while_it_is_stopped_costs_nothing(make_world: MakeWorld) -> None:
    """Nothing is sent again for somebody who wished the task to end."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[Lost("restarted")])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    await tasks.cancel(world.rt, CALLER.key_id, task_id)
    row = await world.row(task_id)
    assert (row["stopped"], row["charged"], len(provider.orders)) == ("failed", None, 1)


async def test_a_finish_without_outputs_is_an_error(make_world: MakeWorld) -> None:
    """A vendor that says done and returns nothing has failed."""
    world = make_world(ScriptedProvider(submit=[Done(())]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "provider_error", None)


async def test_a_job_is_polled_when_the_vendor_says(make_world: MakeWorld) -> None:
    """A pending job waits with its vendor's advice, holds no turn meanwhile, and completes when it is done."""
    provider = ScriptedProvider(submit=[Pending("job-1", poll_after=7)], poll=[Pending("job-1", 3), done()])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["due_at"]) == (State.WAITING, world.clock.now() + dt.timedelta(seconds=7))
    assert (await world.attempts(task_id))[0]["job"] == "job-1"
    row = await world.step(task_id)
    assert (row["state"], row["due_at"]) == (State.WAITING, world.clock.now() + dt.timedelta(seconds=3))
    row = await world.step(task_id)
    assert (row["state"], row["progress"], provider.polled) == (State.COMPLETED, 100, ["job-1", "job-1"])
    assert await world.events(task_id) == [(1, "queued"), (2, "started"), (3, "completed")]


@pytest.mark.parametrize(
    "trouble",
    [Unavailable("away"), RateLimited("slow down"), BadCredential("no"), Unsure("hm"), TimeoutError()],
    ids=lambda trouble: type(trouble).__name__,
)
async def test_a_look_that_fails_is_repeated(make_world: MakeWorld, trouble: Exception) -> None:
    """Trouble in looking says nothing about the job: it is looked at again later, and never sent again."""
    provider = ScriptedProvider(submit=[Pending("job", progress=0.4)], poll=[*[trouble] * 3, done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    for _ in range(3):
        row = await world.step(task_id)
        assert (row["state"], row["progress"]) == (State.WAITING, 40)
        assert row["due_at"] > world.clock.now()
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert len(provider.orders) == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Broken("it broke"), "provider_error"), (Blocked("no"), "content_policy_violation"),
     (Refused("no"), "provider_refused")],
    ids=["broken", "blocked", "refused"],
)  # fmt: skip
async def test_a_job_that_failed_is_final(make_world: MakeWorld, failure: ProviderError, code: str) -> None:
    """What the vendor says of a failed job ends the task, without a charge and without a second try."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[failure])
    world = make_world(provider)
    task_id = await world.create()
    row = await world.finish(task_id)
    assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, code, None)
    assert (await world.outcomes(task_id), len(provider.orders)) == ([("vendor", type(failure).__name__)], 1)


async def test_a_task_that_stops_its_worker_is_ended(make_world: MakeWorld) -> None:
    """A step that never comes to its end is begun three times; the fourth turn ends the task."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[ZeroDivisionError()] * 3)
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    for takes in (1, 2, 3):
        with pytest.raises(ZeroDivisionError):
            await world.step(task_id)
        assert (await world.row(task_id))["takes"] == takes
    row = await world.step(task_id)
    assert (row["state"], row["error_code"], len(provider.polled)) == (State.FAILED, "internal_error", 3)
    assert await world.outcomes(task_id) == [("vendor", "broken")]


async def test_a_step_that_ends_forgives_those_that_did_not(make_world: MakeWorld) -> None:
    """Only turns in a row count: a look that works in between starts the count anew."""
    bad: list[Any] = [ZeroDivisionError(), ZeroDivisionError()]
    provider = ScriptedProvider(submit=[Pending("job")], poll=[*bad, Pending("job"), *bad, done()])
    world = make_world(provider)
    task_id = await world.create()
    for _ in range(6):
        await asyncio.gather(world.step(task_id), return_exceptions=True)
    assert (await world.step(task_id))["state"] == State.COMPLETED


async def test_a_row_that_cannot_be_read_is_ended(make_world: MakeWorld) -> None:
    """A generation that another version wrote and this one does not understand is no poison: it too ends."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    await world.change(task_id, generation={"kind": "hologram"})
    for _ in range(3):
        await asyncio.gather(world.step(task_id), return_exceptions=True)
    row = await world.step(task_id)
    assert (row["state"], row["error_code"]) == (State.FAILED, "internal_error")


async def test_ending_a_stopped_task_leaves_finished_attempts_as_they_were(make_world: MakeWorld) -> None:
    """An attempt that had come to its own end keeps its outcome when the task is ended between two tries."""
    world = make_world(ScriptedProvider(submit=[Unavailable("away")]))
    task_id = await world.create()
    await world.step(task_id)
    await world.change(task_id, takes=3)
    assert (await world.step(task_id))["error_code"] == "internal_error"
    assert await world.outcomes(task_id) == [("vendor", "Unavailable")]


@pytest.mark.parametrize("state", [State.SUBMITTING, State.WAITING, State.STORING])
async def test_a_task_whose_provider_has_left_the_configuration_fails(make_world: MakeWorld, state: State) -> None:
    """Nobody can say any more what became of it: its owner is told so, and what it may cost stays reserved."""
    async with serving(a=[(503, b"")]) as files:
        answers: dict[State, Any] = {State.WAITING: Pending("job"), State.STORING: linked(files.url("a"))}
        provider = ScriptedProvider(submit=[answers.get(state, done())])
        world = make_world(provider)
        task_id = await world.create()
        await (world.crash(task_id) if state is State.SUBMITTING else world.step(task_id))
        assert (await world.row(task_id))["state"] == state
        row = await world.step(task_id, world.without("vendor"))
        code = "outcome_unknown" if state is State.SUBMITTING else "provider_error"
        assert (row["state"], row["error_code"]) == (State.FAILED, code)
        assert (row["held"], row["charged"]) == (40_000, None)


async def test_a_queued_task_whose_model_has_left_the_configuration_fails(make_world: MakeWorld) -> None:
    """A model that is no longer served cannot be sent to anybody."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    row = await world.step(task_id, world.without("vendor"))
    assert (row["state"], row["error_code"], row["error_param"]) == (State.FAILED, "model_not_found", "model")


async def test_a_queued_task_goes_to_the_route_that_is_left(make_world: MakeWorld) -> None:
    """A provider that left the configuration is no loss while another route is there."""
    one, two = ScriptedProvider(), ScriptedProvider(card_of("two"), submit=[done()])
    world = make_world(one, two)
    task_id = await world.create()
    row = await world.step(task_id, world.without("vendor"))
    assert (row["state"], row["provider"]) == (State.COMPLETED, "two")
