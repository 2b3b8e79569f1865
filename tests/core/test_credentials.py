"""Several credentials of one provider: whatever is asked about an order is asked with the one that it was sent with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core import tasks
from gateway.core.catalog import Catalog
from gateway.core.handlers import handlers
from gateway.core.lifecycle import State
from gateway.dialects.wire import task_body
from providers.contract import BadCredential, Done, Output, Pending, RateLimited
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, models_of, png
from tests.core.world import CALLER, World


def two(make_world: MakeWorld, first: Any, second: Any, **facts: Any) -> tuple[World, dict[str, ScriptedProvider]]:
    """A world whose provider has two credentials, by their names, the first of which is tried first."""
    scripts = {"default": first, "eu": second}
    providers = {name: ScriptedProvider(card_of(**facts), **script) for name, script in scripts.items()}
    world = make_world(providers["default"])
    world.rt = replace(world.rt, catalog=catalog_of(providers))
    world.rt.executor.handlers = handlers(world.rt)
    return world, providers


def catalog_of(providers: dict[str, ScriptedProvider]) -> Catalog:
    """A catalog of one provider with these credentials, in this order."""
    ((name, model),) = models_of([next(iter(providers.values()))]).items()
    (route,) = model.routes
    routes = (msgspec.structs.replace(route, credential=one, order=place) for place, one in enumerate(providers))
    by_key = {"vendor" if one == "default" else f"vendor:{one}": provider for one, provider in providers.items()}
    return Catalog({name: msgspec.structs.replace(model, routes=tuple(routes))}, {}, by_key)


async def test_an_attempt_says_its_credential(make_world: MakeWorld) -> None:
    """The order goes to the next credential when the first has no room, and each attempt names its own."""
    world, found = two(make_world, {"submit": [RateLimited("full")]}, {"submit": [done()]})
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert [(one["provider"], one["credential"]) for one in await world.attempts(task_id)] == [
        ("vendor", "default"),
        ("vendor", "eu"),
    ]
    assert [len(one.orders) for one in found.values()] == [1, 1]


async def test_a_job_belongs_to_its_credential(make_world: MakeWorld) -> None:
    """Looking at a job, stopping it, and reading what it made are done with the credential that ordered it."""
    bad, job = {"submit": [BadCredential("no")]}, Pending("job")
    read = [Done((Output(data=png()),))]
    output = Done((Output(url="https://files.test/a"),))
    world, found = two(
        make_world, bad, {"submit": [job], "poll": [job, output], "read": read}, private_outputs=True, can_cancel=True
    )
    task_id = await world.create()
    await world.step(task_id)
    await world.step(task_id)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert (found["default"].polled, found["eu"].polled) == ([], ["job", "job"])
    found["default"].script["submit"].append(BadCredential("no"))
    found["eu"].script["submit"].append(job)
    task_id = await world.create()
    await world.step(task_id)
    await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (found["default"].cancelled, found["eu"].cancelled) == ([], ["job"])


@pytest.mark.parametrize("facts", [{"can_find": True}, {"idempotent_submit": True}], ids=["find", "repeat"])
async def test_an_overdue_order_is_looked_up_with_its_credential(make_world: MakeWorld, facts: dict[str, Any]) -> None:
    """Whoever takes an order over asks with the credential that it was sent with."""
    world, found = two(make_world, {"submit": [done()], "find": [done()]}, {}, **facts)
    task_id = await world.create()
    await world.crash(task_id)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert (found["eu"].found, found["eu"].orders) == ([], [])


@pytest.mark.parametrize("state", [State.SUBMITTING, State.WAITING])
async def test_a_task_whose_credential_has_left_the_configuration_fails(make_world: MakeWorld, state: State) -> None:
    """The other credential of the provider is no stand-in: it would be asked for what it never ordered."""
    world, found = two(make_world, {"submit": [Pending("job")]}, {}, can_find=True)
    task_id = await world.create()
    await (world.crash(task_id) if state is State.SUBMITTING else world.step(task_id))
    row = await world.step(task_id, replace(world.rt, catalog=catalog_of({"eu": found["eu"]})))
    code = "outcome_unknown" if state is State.SUBMITTING else "provider_error"
    assert (row["state"], row["error_code"], row["held"]) == (State.FAILED, code, 40_000)
    assert (found["eu"].found, found["eu"].polled) == ([], [])


async def test_callers_do_not_see_credentials(make_world: MakeWorld) -> None:
    """What a caller gets of a task and its attempts does not name the credential."""
    world, _ = two(make_world, {"submit": [BadCredential("no")]}, {"submit": [done()]})
    task_id = await world.create()
    await world.step(task_id)
    assert "eu" not in [
        str(value) for one in (await world.get(task_id)).attempts for value in msgspec.structs.astuple(one)
    ]


async def test_callers_do_not_see_how_we_stand_with_a_vendor(make_world: MakeWorld) -> None:
    """That our credential was rejected is for the operator: the caller reads that the provider could not be used."""
    world, _ = two(make_world, {"submit": [BadCredential("no")]}, {"submit": [BadCredential("no")]})
    task_id = await world.create()
    await world.finish(task_id)
    body = msgspec.json.encode(task_body(world.rt, await world.get(task_id), "http://gateway.test")).decode()
    assert "redential" not in body
    assert body.count("The provider cannot be used now.") == 3
