"""Callbacks: what a vendor is told to call, and what its call does, which is little."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core import callbacks
from gateway.core.advance import advance
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from gateway.core.ports import TASK, Message
from providers.contract import Callback, Lost, Pending, Refused, Unavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done
from tests.core.world import World

PUBLIC = "https://media.test"
EMPTY = Callback({}, b"")


def calling(*polls: Any, **script: Any) -> ScriptedProvider:
    """A vendor with a job, which calls back."""
    job = Pending("job-1", poll_after=500)
    return ScriptedProvider(card_of(callbacks=True), submit=[job], poll=polls or [done()], **script)


async def waiting(world: World) -> tuple[str, str, str]:
    """A task that its vendor works on, with the two parts of the address that the vendor was given."""
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.WAITING
    url = world.providers["vendor"].orders[0].callback_url
    assert url is not None
    base, reference, signature = url.rsplit("/", 2)
    assert base == f"{PUBLIC}/callbacks"
    return task_id, reference, signature


async def test_a_callback_makes_the_task_due_now(make_world: MakeWorld) -> None:
    """The vendor's call rings for the task long before its next look; the look, not the call, says how it stands."""
    provider = calling()
    world = make_world(provider, public_url=PUBLIC)
    task_id, reference, signature = await waiting(world)
    row = await world.row(task_id)
    assert await callbacks.hear(world.rt, reference, signature, EMPTY) == {}
    (message,) = [one for one in world.bells.messages if one.kind == TASK]
    assert message == Message(TASK, task_id, row["version"])
    await advance(world.rt, message)
    assert (await world.row(task_id))["state"] == State.COMPLETED
    assert provider.polled == ["job-1"]


async def test_many_callbacks_ring_once(make_world: MakeWorld) -> None:
    """A vendor that calls again and again costs one look, and one that calls when all is over costs none."""
    world = make_world(calling(), public_url=PUBLIC)
    _, reference, signature = await waiting(world)
    for _ in range(5):
        await callbacks.hear(world.rt, reference, signature, EMPTY)
    (message,) = [one for one in world.bells.messages if one.kind == TASK]
    await advance(world.rt, message)
    await callbacks.hear(world.rt, reference, signature, EMPTY)
    assert [one for one in world.bells.messages if one.kind == TASK] == [message]


async def test_a_callback_of_an_earlier_attempt_rings_for_nobody(make_world: MakeWorld) -> None:
    """What a vendor says of a job that was given up does not disturb the one that took its place."""
    provider = ScriptedProvider(
        card_of(callbacks=True), submit=[Pending("one"), Pending("two", 500)], poll=[Lost("gone")]
    )
    world = make_world(provider, public_url=PUBLIC)
    task_id, reference, signature = await waiting(world)
    await world.step(task_id)
    await world.step(task_id)
    assert [one["job"] for one in await world.attempts(task_id)] == ["one", "two"]
    await callbacks.hear(world.rt, reference, signature, EMPTY)
    assert [one for one in world.bells.messages if one.kind == TASK] == []


async def test_only_whom_we_told_is_heard(make_world: MakeWorld) -> None:
    """A made-up address is that of no task, whatever is wrong with it, and the vendor's adapter is not asked."""
    provider = calling()
    world = make_world(provider, public_url=PUBLIC)
    task_id, reference, signature = await waiting(world)
    for wrong in ((reference, signature[:-1] + "-"), (f"{task_id}-2", signature), ("x", signature), (reference, "é")):
        with pytest.raises(GatewayError) as caught:
            await callbacks.hear(world.rt, *wrong, EMPTY)
        assert caught.value.code == "task_not_found"
    assert provider.heard == []


async def test_a_callback_that_is_not_the_vendors_is_refused(make_world: MakeWorld) -> None:
    """What the adapter does not take for its vendor's rings nothing, and the reason stays inside."""
    world = make_world(calling(hear=[Refused("the signature is from 1970")]), public_url=PUBLIC)
    _, reference, signature = await waiting(world)
    with pytest.raises(GatewayError) as caught:
        await callbacks.hear(world.rt, reference, signature, EMPTY)
    assert (caught.value.code, "1970" in caught.value.message) == ("operation_not_allowed", False)
    assert [one for one in world.bells.messages if one.kind == TASK] == []


async def test_a_callback_that_cannot_be_checked_is_believed_as_far_as_a_look(make_world: MakeWorld) -> None:
    """When the vendor's key cannot be fetched, the address alone is proof enough to look."""
    world = make_world(calling(hear=[Unavailable("no key")]), public_url=PUBLIC)
    _, reference, signature = await waiting(world)
    assert await callbacks.hear(world.rt, reference, signature, EMPTY) == {}
    assert len([one for one in world.bells.messages if one.kind == TASK]) == 1


async def test_what_the_vendor_asks_is_answered(make_world: MakeWorld) -> None:
    """The adapter sees headers and raw body, and what it says goes back to the vendor."""
    world = make_world(calling(), public_url=PUBLIC)
    _, reference, signature = await waiting(world)
    callback = Callback({"x-test": "1"}, b"17")
    assert await callbacks.hear(world.rt, reference, signature, callback) == {"challenge": "17"}
    assert world.providers["vendor"].heard == [callback]


@pytest.mark.parametrize(("public_url", "calls"), [(None, True), (PUBLIC, False)])
async def test_no_address_is_given_to_whom_it_is_of_no_use(
    make_world: MakeWorld, public_url: str | None, calls: bool
) -> None:
    """Without an address of our own, or to a vendor that never calls, the order names none."""
    provider = ScriptedProvider(card_of(callbacks=calls), submit=[done()])
    world = make_world(provider, public_url=public_url)
    await world.finish(await world.create())
    assert provider.orders[0].callback_url is None
