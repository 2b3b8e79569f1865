"""Choosing: routes by order, their shares by weight, and models to fall back on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from gateway.core import ids, tasks
from gateway.core.choosing import Candidate, choose
from gateway.core.config import AliasConfig
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from providers.card import Parameter
from providers.contract import Blocked, Pending, ProviderError, Unavailable, Unsure
from tests.core.conftest import MakeWorld
from tests.core.vendors import MODEL, ScriptedProvider, card_of, configured, done, generation, price, vendor
from tests.core.world import CALLER, World

AWAY = Unavailable("away")
SHARED = """
[providers.one]
weight = 3
credentials_env = { api_key = "KEY_ONE" }
[providers.one.further_credentials.eu]
credentials_env = { api_key = "KEY_EU" }
"""


def two_models(world: World) -> None:
    """Gives the second provider's model a name of its own."""
    model = world.rt.catalog.models[MODEL]
    first, second = model.routes
    world.rt.catalog.models = {
        MODEL: type(model)(MODEL, (first,)), "other": type(model)("other", (second,)),
    }  # fmt: skip


async def test_routes_of_one_order_share_by_weight(make_world: MakeWorld, tmp_path: Path) -> None:
    """Of four thousand tasks three of four go over the credential of weight three; each task always over the same."""
    world = make_world(ScriptedProvider())
    one = vendor("one", keys={"api_key": "ONE_KEY"})
    catalog = configured(tmp_path, one, text=SHARED, KEY_ONE="k-1", KEY_EU="k-2")
    routes = catalog.model("one-picture").routes
    offered = [Candidate(route, generation(), 0) for route in routes]
    seen: Counter[str] = Counter()
    for _ in range(4000):
        task_id = ids.new("task", world.clock.now())
        first, again = [await choose(world.rt, task_id, offered, []) for _ in range(2)]
        assert first.taken is not None
        assert first.taken is again.taken
        seen[first.taken.route.credential] += 1
    assert 0.72 < seen["default"] / 4000 < 0.78
    assert set(seen) == {"default", "eu"}


def test_each_credential_is_sent_alone(tmp_path: Path) -> None:
    """Each has its own client with its own secret; both are routes of the model, in the same place."""
    catalog = configured(tmp_path, vendor("one", keys={"api_key": "ONE_KEY"}), text=SHARED, KEY_ONE="k-1", KEY_EU="k-2")
    first, second = catalog.provider("one", "default"), catalog.provider("one", "eu")
    assert first is not None
    assert second is not None
    assert (first.http.secrets, second.http.secrets) == ({"api_key": "k-1"}, {"api_key": "k-2"})
    routes = catalog.model("one-picture").routes
    assert [(route.credential, route.order, route.weight) for route in routes] == [("default", 0, 3), ("eu", 0, 1)]
    assert catalog.provider("one", "gone") is None


async def test_an_attempt_keeps_its_credential(make_world: MakeWorld) -> None:
    """It is recorded with the credential that it was sent with; without that one nobody looks at the job."""
    one = ScriptedProvider(submit=[Pending("job")], poll=[done()])
    world = make_world(one)
    task_id = await world.create()
    await world.step(task_id)
    (attempt,) = await world.attempts(task_id)
    assert attempt["credential"] == "default"
    rt = world.without("vendor")
    row = await world.finish(task_id, rt)
    assert (row["state"], row["error_message"]) == (
        State.FAILED, "The provider that had this task is no longer configured.",
    )  # fmt: skip


async def test_a_fallback_model_serves_when_the_first_takes_nothing(make_world: MakeWorld) -> None:
    """The other model's route gets the order in that model's own terms, and the task says which one it was."""
    one = ScriptedProvider(submit=[AWAY])
    two = ScriptedProvider(card_of("two"), submit=[done()])
    world = make_world(one, two)
    two_models(world)
    wanted = Wanted(generation(), fallback_models=("other",))
    task = await tasks.create(world.rt, CALLER, wanted, here=False)
    assert (await world.finish(task.id))["state"] == State.COMPLETED
    assert await world.outcomes(task.id) == [("vendor", "Unavailable"), ("two", "done")]
    assert two.orders[0].generation.model == "other"
    record = await world.get(task.id)
    assert (record.model, record.adjusted) == (MODEL, {"model": [MODEL, "other"]})


async def test_without_trouble_the_first_model_serves(make_world: MakeWorld) -> None:
    """A fallback changes nothing while it is not needed."""
    one, two = ScriptedProvider(submit=[done()]), ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    two_models(world)
    task = await tasks.create(world.rt, CALLER, Wanted(generation(), fallback_models=("other", MODEL)), here=False)
    await world.finish(task.id)
    assert ((await world.get(task.id)).adjusted, two.orders) == ({}, [])


async def test_a_fallback_that_cannot_do_it_is_left_out(make_world: MakeWorld) -> None:
    """What only the first model can do is reserved and tried there alone."""
    two = ScriptedProvider(card_of("two", model={"max_n": 1}))
    world = make_world(ScriptedProvider(), two)
    two_models(world)
    plan = await tasks.plan(world.rt, CALLER, Wanted(generation(n=4), fallback_models=("other",)))
    assert [one.route.provider for one in plan.candidates] == ["vendor"]


@pytest.mark.parametrize(
    ("wanted", "member"),
    [(Wanted(generation(extras={"style_id": "x"})), "style_id"), (Wanted(generation(), {"seed": 3}), "seed"),
     (Wanted(generation(), {"seed": 3}, strict=True), "seed")],
    ids=["option", "parameter", "strict"],
)  # fmt: skip
async def test_a_member_that_a_fallback_does_not_know_leaves_it_out(
    make_world: MakeWorld, wanted: Wanted, member: str
) -> None:
    """What the model asked for knows is not ignored by another, nor is the request refused for it: it is said."""
    model = {"extras": ("style_id",), "parameters": {"seed": Parameter("integer")}}
    world = make_world(ScriptedProvider(card_of(model=model)), ScriptedProvider(card_of("two")))
    two_models(world)
    plan = await tasks.plan(world.rt, CALLER, msgspec.structs.replace(wanted, fallback_models=("other",)))
    assert [one.route.provider for one in plan.candidates] == ["vendor"]
    assert list(plan.skipped) == ["other"]
    assert member in plan.skipped["other"]


async def test_what_nobody_knows_leaves_no_fallback_out(make_world: MakeWorld) -> None:
    """Novelties and hints are ignored by a fallback as they are by the model itself."""
    world = make_world(ScriptedProvider(card_of(model={"extras": ("user",)})), ScriptedProvider(card_of("two")))
    two_models(world)
    wanted = Wanted(generation(), {"novelty": 1}, {"user": "u-1"}, fallback_models=("other",))
    assert (await tasks.plan(world.rt, CALLER, wanted)).skipped == {}


async def test_a_fallback_job_goes_on_as_what_it_is(make_world: MakeWorld) -> None:
    """Whoever looks at the job knows from the attempt as which model it was ordered, and charges that one's price."""
    two = ScriptedProvider(card_of("two", model={"price": price("0.02")}), submit=[Pending("job")], poll=[done()])
    world = make_world(ScriptedProvider(submit=[AWAY]), two)
    two_models(world)
    task = await tasks.create(world.rt, CALLER, Wanted(generation(n=2), fallback_models=("other",)), here=False)
    assert (await world.step(task.id))["state"] == State.WAITING
    row = await world.step(task.id)
    assert (row["charged"], row["adjusted"]["model"]) == (20_000, [MODEL, "other"])


async def test_a_retry_falls_back_as_the_first_try_did(make_world: MakeWorld) -> None:
    """The new task has the fallbacks of the failed one, and says what an alias of theirs has changed."""
    two = ScriptedProvider(card_of("two", model={"sizes": ("512x512",)}), submit=[done()])
    world = make_world(
        ScriptedProvider(submit=[Blocked("no"), AWAY]), two,
        aliases={"old": AliasConfig("other", {"size": {"64x64": "512x512"}})},
    )  # fmt: skip
    two_models(world)
    first = await tasks.create(world.rt, CALLER, Wanted(generation(size="64x64"), fallback_models=("old",)), here=False)
    await world.step(first.id)
    second = await tasks.retry(world.rt, CALLER, first.id)
    row = await world.finish(second.id)
    assert (row["provider"], row["adjusted"]["model"]) == ("two", [MODEL, "old"])
    assert row["adjusted"]["size"] == ["64x64", "512x512"]


@pytest.mark.parametrize("failure", [Blocked("no"), Unsure("hm")], ids=["blocked", "unsure"])
async def test_a_fallback_is_no_second_try(make_world: MakeWorld, failure: ProviderError) -> None:
    """What was refused, or may have been bought, goes to no other model."""
    one, two = ScriptedProvider(submit=[failure]), ScriptedProvider(card_of("two"))
    world = make_world(one, two)
    two_models(world)
    task = await tasks.create(world.rt, CALLER, Wanted(generation(), fallback_models=("other",)), here=False)
    assert (await world.step(task.id))["state"] == State.FAILED
    assert two.orders == []


async def test_the_dearest_candidate_is_reserved(make_world: MakeWorld) -> None:
    """Whichever model serves, the reservation covers it; what is charged is the price of the one that did."""
    one = ScriptedProvider(submit=[AWAY, AWAY])
    two = ScriptedProvider(card_of("two", model={"price": price("0.10")}), submit=[done()])
    world = make_world(one, two)
    two_models(world)
    task = await tasks.create(world.rt, CALLER, Wanted(generation(), fallback_models=("other",)), here=False)
    assert task.quoted == 100_000
    assert (await world.finish(task.id))["charged"] == 100_000


async def test_a_fallback_that_does_not_exist_is_refused(make_world: MakeWorld) -> None:
    """It is named as such, before anything is made."""
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError) as caught:
        await tasks.create(world.rt, CALLER, Wanted(generation(), fallback_models=("nope",)), here=False)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "fallback_models")
