"""The health of routes: who fails is left alone, and tried again with one order, by all processes together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core import tasks
from gateway.core.errors import GatewayError
from gateway.core.health import Health
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from gateway.core.runtime import Runtime
from providers.contract import BadCredential, Broken, Order, Pending, RateLimited, Refused, Unavailable
from tests.core.conftest import MakeWorld
from tests.core.vendors import MODEL, ScriptedProvider, card_of, done, generation
from tests.core.world import CALLER, World

WAY = ("vendor", "default", "vendor-model")
AWAY = Unavailable("away")


def another_process(world: World) -> Runtime:
    """A runtime over the same database that remembers nothing."""
    return replace(world.rt, health=Health(world.db, world.rt.settings, world.clock.now))


async def fail(world: World, times: int, error: Exception = AWAY) -> None:
    """Notes failures of the first route."""
    for _ in range(times):
        await world.rt.health.failed(WAY, error, world.clock.now())


async def test_a_route_that_fails_often_enough_is_left_alone(make_world: MakeWorld) -> None:
    """Below the threshold it is tried as ever; from there on orders go elsewhere without asking it."""
    one = ScriptedProvider(submit=[AWAY] * 3)
    two = ScriptedProvider(card_of("two"), submit=[done() for _ in range(5)])
    world = make_world(one, two, breaker_failures=3)
    for _ in range(5):
        assert (await world.finish(await world.create()))["state"] == State.COMPLETED
    assert (len(one.orders), len(two.orders)) == (3, 5)


async def test_one_order_tries_a_route_that_has_rested(make_world: MakeWorld) -> None:
    """When its rest is over exactly one of twenty askers, in two processes, may try it; the others wait on."""
    world = make_world(ScriptedProvider(), breaker_failures=1, breaker_seconds=30.0)
    await fail(world, 1)
    route = world.rt.catalog.model(MODEL).routes[0]
    processes = [world.rt, another_process(world)]
    for rt in processes:
        await rt.health.refresh()
    world.clock.forward(29)
    assert not await world.rt.health.admits(route, 30)
    world.clock.forward(1)
    answers = await asyncio.gather(*(rt.health.admits(route, 30) for rt in processes for _ in range(10)))
    assert sum(answers) == 1


async def test_a_route_that_is_well_again_takes_all_orders(make_world: MakeWorld) -> None:
    """The order that tries it succeeds: nothing is left of the trouble, for other processes too."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), breaker_failures=1)
    await fail(world, 1)
    world.clock.forward(30)
    for _ in range(2):
        assert (await world.finish(await world.create()))["state"] == State.COMPLETED
    assert await another_process(world).health.read() == []


async def test_a_vendor_that_always_fails_is_asked_ever_more_rarely(make_world: MakeWorld) -> None:
    """The rest doubles with each failure: in an hour a broken vendor gets few orders, not one for each task."""
    provider = ScriptedProvider(submit=[AWAY] * 100)
    world = make_world(provider, breaker_failures=1, breaker_seconds=30.0, max_rounds=20, task_seconds=3600.0)
    row = await world.finish(await world.create())
    assert row["state"] == State.FAILED
    assert 5 <= len(provider.orders) <= 12


async def test_trouble_outlives_its_process(make_world: MakeWorld) -> None:
    """A process that has just started knows of it before it sends anything."""
    provider = ScriptedProvider()
    world = make_world(provider, breaker_failures=1)
    await fail(world, 1)
    row = await world.step(await world.create(), another_process(world))
    assert (row["state"], provider.orders) == (State.QUEUED, [])
    assert row["due_at"] > world.clock.now()


async def test_waiting_for_a_route_is_no_try(make_world: MakeWorld) -> None:
    """A task that waits for the only route to recover has made no attempt, and is served when it has."""
    world = make_world(ScriptedProvider(submit=[done()]), breaker_failures=1)
    await fail(world, 1)
    task_id = await world.create()
    await world.step(task_id)
    assert await world.attempts(task_id) == []
    assert (await world.step(task_id))["state"] == State.COMPLETED


@pytest.mark.parametrize(("advice", "rest"), [(20.0, 20), (9000.0, 120), (0.0, 1), (None, 5)])
async def test_a_full_vendor_is_left_alone_as_it_asks(make_world: MakeWorld, advice: float | None, rest: int) -> None:
    """Its advice is heeded within bounds, at the first refusal already."""
    world = make_world(ScriptedProvider())
    await fail(world, 1, RateLimited("full", retry_after=advice))
    route = world.rt.catalog.model(MODEL).routes[0]
    until = world.rt.health.closed_until([route])
    assert until is not None
    assert (until - world.clock.now()).total_seconds() == rest


async def test_a_rejected_credential_is_parked_with_all_its_models(make_world: MakeWorld) -> None:
    """Its other models are left alone too; other credentials are not."""
    world = make_world(ScriptedProvider(), park_seconds=600.0)
    await world.rt.health.failed(("vendor", "default", "another-model"), BadCredential("no"), world.clock.now())
    route = world.rt.catalog.model(MODEL).routes[0]
    assert not await world.rt.health.admits(route, 30)
    assert await world.rt.health.admits(replace_credential(route), 30)
    (trouble,) = await world.rt.health.read()
    assert (trouble.standing(world.clock.now()), trouble.reason) == ("parked", "BadCredential")
    assert await world.rt.health.reset("vendor", "default") == 1
    assert await world.rt.health.admits(route, 30)


def replace_credential(route: Any) -> Any:
    """The same route over another credential."""
    return msgspec.structs.replace(route, credential="spare")


@pytest.mark.parametrize("answer", [Refused("no"), Broken("no"), Pending("job")], ids=["refused", "broken", "pending"])
async def test_a_vendor_that_answers_is_well(make_world: MakeWorld, answer: Any) -> None:
    """A refusal is an answer as well: failures count only in a row."""
    world = make_world(ScriptedProvider(submit=[answer]), breaker_failures=3)
    await fail(world, 2)
    await world.step(await world.create())
    await fail(world, 2)
    assert world.rt.health.closed_until(world.rt.catalog.model(MODEL).routes) is None


async def test_who_waits_for_an_answer_is_told_to_come_again(make_world: MakeWorld) -> None:
    """With all routes closed a synchronous request makes nothing; an asynchronous one is accepted, and waits."""
    world = make_world(ScriptedProvider(), breaker_failures=1, breaker_seconds=30.0)
    await fail(world, 1)
    with pytest.raises(GatewayError) as caught:
        await tasks.create(world.rt, CALLER, Wanted(generation()), here=True)
    error = caught.value
    assert (error.code, error.retry_after, error.retryable, error.task_id) == ("model_overloaded", 30, True, None)
    assert (await tasks.listing(world.rt, CALLER.key_id))[0] == []
    assert (await world.accept()).state is State.QUEUED


async def test_without_a_database_orders_go_on(make_world: MakeWorld) -> None:
    """What cannot be read or noted of routes keeps no order back."""
    world = make_world(ScriptedProvider())
    world.db.away("read", 1)
    await world.rt.health.refresh()
    world.db.away("write", 1)
    await fail(world, 1)
    assert await world.rt.health.admits(world.rt.catalog.model(MODEL).routes[0], 30)


async def test_two_processes_note_the_same_trouble(make_world: MakeWorld) -> None:
    """Failures that two processes see at the same moment are counted together."""
    world = make_world(ScriptedProvider(), breaker_failures=2)
    processes = [world.rt, another_process(world)]
    await asyncio.gather(*(rt.health.failed(WAY, AWAY, world.clock.now()) for rt in processes))
    (trouble,) = await world.rt.health.read()
    assert (trouble.failures, trouble.standing(world.clock.now())) == (2, "cooling")


# What is sent before a route rests, and who tries it


def rest_of(rt: Runtime) -> float | None:
    """For how many seconds the model's only route is left alone; None when it may be used."""
    until = rt.health.closed_until(rt.catalog.model(MODEL).routes)
    return None if until is None else (until - rt.now()).total_seconds()


async def test_orders_that_were_under_way_do_not_prolong_a_rest(make_world: MakeWorld) -> None:
    """Of a hundred orders that fail together five open the breaker, and the others do not double its time."""
    world = make_world(ScriptedProvider())
    sent_at = world.clock.now()
    world.clock.forward(3)
    for _ in range(100):
        await world.rt.health.failed(WAY, AWAY, sent_at)
    assert rest_of(world.rt) == 30


@pytest.mark.parametrize("error", [RateLimited("full", retry_after=20), BadCredential("no")], ids=["full", "parked"])
async def test_an_older_order_that_was_taken_does_not_end_a_rest(make_world: MakeWorld, error: Exception) -> None:
    """That the vendor took an order a while ago says nothing of what it has said since."""
    world = make_world(ScriptedProvider())
    sent_at = world.clock.now()
    world.clock.forward(3)
    await fail(world, 1, error)
    await world.rt.health.succeeded(WAY, sent_at)
    assert rest_of(world.rt) is not None
    assert len(await another_process(world).health.read()) == 1


async def test_newer_advice_prolongs_a_rest(make_world: MakeWorld) -> None:
    """When an order that was under way brings another word on how long there is no room, the longer holds."""
    world = make_world(ScriptedProvider())
    sent_at = world.clock.now()
    world.clock.forward(3)
    for advice in (20, 60, 5, None):
        await world.rt.health.failed(WAY, RateLimited("full", retry_after=advice), sent_at)
    assert rest_of(world.rt) == 60


async def test_a_try_may_take_as_long_as_an_order(make_world: MakeWorld) -> None:
    """While the order that tries a route is under way nobody else tries, though it takes longer than the rest did."""
    world = make_world(ScriptedProvider(card_of(timeout=120.0)), breaker_failures=1, breaker_seconds=30.0)
    await fail(world, 1)
    world.clock.forward(30)
    other = another_process(world)
    route = world.rt.catalog.model(MODEL).routes[0]
    assert await world.rt.health.admits(route, 150)
    world.clock.forward(149)
    await other.health.refresh()
    assert not await other.health.admits(route, 150)
    assert (await other.health.read())[0].standing(world.clock.now()) == "half_open"


async def test_a_try_of_which_nobody_hears_is_followed_by_another(make_world: MakeWorld) -> None:
    """The process that tried was killed: when its time is over the next may, and until then others ask again soon."""
    world = make_world(ScriptedProvider(), breaker_failures=1, breaker_seconds=30.0)
    await fail(world, 1)
    world.clock.forward(30)
    route = world.rt.catalog.model(MODEL).routes[0]
    assert await world.rt.health.admits(route, 150)
    assert rest_of(world.rt) == 5
    world.clock.forward(150)
    assert await another_process(world).health.admits(route, 150)


async def test_a_try_that_fails_doubles_the_rest(make_world: MakeWorld) -> None:
    """Up to ten minutes; the first that succeeds makes it as short again as at first."""
    world = make_world(ScriptedProvider())
    route = world.rt.catalog.model(MODEL).routes[0]
    await fail(world, 5)
    rests = []
    for _ in range(7):
        rests.append(rest_of(world.rt) or 0)
        world.clock.forward(rests[-1])
        assert await world.rt.health.admits(route, 30)
        await fail(world, 1)
    assert rests == [30, 60, 120, 240, 480, 600, 600]
    world.clock.forward(600)
    assert await world.rt.health.admits(route, 30)
    await world.rt.health.succeeded(WAY, world.clock.now())
    await fail(world, 5)
    assert rest_of(world.rt) == 30


async def test_route_and_credential_are_tried_by_one_order(make_world: MakeWorld) -> None:
    """Who tries a route whose credential was parked as well tries both, or neither."""
    world = make_world(ScriptedProvider(), breaker_failures=1)
    await fail(world, 1)
    await fail(world, 1, BadCredential("no"))
    other = another_process(world)
    world.clock.forward(600)
    route = world.rt.catalog.model(MODEL).routes[0]
    await other.health.refresh()
    sibling = msgspec.structs.replace(route, card=card_of("sibling").models[0])
    assert await other.health.admits(sibling, 30)
    assert not await world.rt.health.admits(route, 30)
    tried = {one.model: one.tried_at is not None for one in await world.rt.health.read()}
    assert tried == {"*": True, "vendor-model": False}


async def test_a_route_that_had_no_room_is_open_to_all_when_its_time_is_over(make_world: MakeWorld) -> None:
    """The vendor has said for how long: one order at a time would keep others from a vendor that is well."""
    world = make_world(ScriptedProvider())
    await fail(world, 1, RateLimited("full", retry_after=20))
    world.clock.forward(20)
    route = world.rt.catalog.model(MODEL).routes[0]
    assert [await world.rt.health.admits(route, 30) for _ in range(3)] == [True] * 3


async def test_a_lack_of_room_is_no_outage(make_world: MakeWorld) -> None:
    """Refusals for lack of room do not count towards the breaker, and end the row of failures that do."""
    world = make_world(ScriptedProvider())
    await fail(world, 4)
    await fail(world, 1, RateLimited("full", retry_after=1))
    world.clock.forward(1)
    await fail(world, 4)
    assert rest_of(world.rt) is None


async def test_a_defect_of_an_adapter_counts(make_world: MakeWorld) -> None:
    """Orders that end in an error which nobody foresaw are failures of the route, and so are those cut off in time."""
    world = make_world(ScriptedProvider(submit=[KeyError("x"), TimeoutError()]), breaker_failures=2)
    for _ in range(2):
        await world.step(await world.create())
    trouble = world.rt.health.troubles[WAY]
    assert (trouble.failures, trouble.reason, trouble.standing(world.clock.now())) == (2, "Unsure", "cooling")


async def test_a_look_does_not_forget_what_is_noted_meanwhile(make_world: MakeWorld) -> None:
    """What this process finds out while it reads what others know holds at once."""
    world = make_world(ScriptedProvider(), breaker_failures=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(world.rt.health.refresh())
        group.create_task(fail(world, 1))
    await world.rt.health.refresh()
    assert rest_of(world.rt) == 30


async def test_an_outage_of_the_database_keeps_a_route_closed_for_a_moment(make_world: MakeWorld) -> None:
    """Who cannot claim to be the one that tries does not try, raises nothing, and may ask again."""
    world = make_world(ScriptedProvider(), breaker_failures=1)
    await fail(world, 1)
    world.clock.forward(30)
    world.db.away("write", 1)
    route = world.rt.catalog.model(MODEL).routes[0]
    assert not await world.rt.health.admits(route, 30)
    assert rest_of(world.rt) == 5
    await world.rt.health.refresh()
    assert await world.rt.health.admits(route, 30)


async def test_an_outage_does_not_make_an_unknown_outcome_of_a_refused_order(make_world: MakeWorld) -> None:
    """The vendor surely took nothing; that no claim can be made just then on the next route changes nothing of that."""

    async def refuses(_: Order) -> Any:
        world.clock.forward(700)
        world.db.away("write", 2)
        world.db.away("write_one", 2)
        raise AWAY

    world = make_world(ScriptedProvider(submit=[refuses]), ScriptedProvider(card_of("two"), submit=[done()]))
    await world.rt.health.failed(("two", "default", "two-model"), BadCredential("no"), world.clock.now())
    task_id = await world.create()
    row = await world.step(task_id)
    if row["state"] == State.QUEUED:
        row = await world.finish(task_id)
    assert (row["state"], row["provider"]) == (State.COMPLETED, "two")


async def test_to_look_for_the_next_route_is_not_to_try_it(make_world: MakeWorld) -> None:
    """A task that comes round again later leaves the right to try a route to who goes there now."""

    async def fails_late(_: Order) -> Any:
        await fail(world, 1)
        world.clock.forward(30)
        raise AWAY

    one, two = ScriptedProvider(submit=[AWAY]), ScriptedProvider(card_of("two"), submit=[fails_late])
    world = make_world(one, two, breaker_failures=2)
    row = await world.step(await world.create())
    assert (row["state"], len(one.orders), len(two.orders)) == (State.QUEUED, 1, 1)
    (trouble,) = [one for one in await world.rt.health.read() if one.provider == "vendor"]
    assert (trouble.standing(world.clock.now()), trouble.tried_at) == ("half_open", None)


async def test_what_nobody_asks_for_is_forgotten(make_world: MakeWorld) -> None:
    """Trouble that was not seen for a day goes: the route may not be there any more."""
    world = make_world(ScriptedProvider())
    await fail(world, 2)
    world.clock.forward(86_000)
    await fail(world, 1, BadCredential("no"))
    world.clock.forward(400)
    await world.rt.health.purge()
    assert [one.model for one in await world.rt.health.read()] == ["*"]


async def test_what_is_well_costs_nothing(make_world: MakeWorld) -> None:
    """Orders on routes without trouble write nothing of it, and one look a second is all that is read."""
    world = make_world(ScriptedProvider())
    route = world.rt.catalog.model(MODEL).routes[0]
    await world.rt.health.refresh()
    before = world.db.used.copy()
    for _ in range(10):
        await world.rt.health.refresh()
        assert await world.rt.health.admits(route, 30)
        await world.rt.health.succeeded(WAY, world.clock.now())
    assert world.db.used == before
