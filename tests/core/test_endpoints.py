"""Endpoints: what may be set, whose they are, how secrets are replaced, and what a key itself has to tell."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.core import accounts, deliveries, endpoints, keys, signing, tasks
from gateway.core.accounts import Budget
from gateway.core.endpoints import DEFAULT, EVENT_TYPES, MOST, MOST_SECRETS, Webhook, WithSecret
from gateway.core.errors import GatewayError
from gateway.core.outbox import EXCEEDED, KEY_DISABLED, OF_KEYS, THRESHOLD
from gateway.core.preparing import Wanted
from gateway.core.tables import METADATA, VIRTUAL_KEYS
from gateway.core.webhook_tables import DELIVERIES
from tests.core.conftest import MakeWorld
from tests.core.receivers import Receiver, verified
from tests.core.test_deliveries import LOCAL, endpoint, go, ordered, rows, settle
from tests.core.vendors import ScriptedProvider, done, generation
from tests.core.world import CALLER, OTHER, World

DAY = dt.timedelta(hours=24).total_seconds()
TYPE = "image.generation.completed"
PRICE = 40_000


async def rotate(world: World, made: WithSecret | None, *, keep: bool) -> str:
    """A new secret of an endpoint, or of the key's single tasks."""
    endpoint_id = made.endpoint.id if made else DEFAULT
    return (await endpoints.rotate(world.rt, CALLER.key_id, endpoint_id, keep=keep)).secret


async def refused(call: Any) -> GatewayError:
    """What is wrong with a call."""
    with pytest.raises(GatewayError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("single", [False, True])
async def test_a_rotation_loses_nobody(make_world: MakeWorld, single: bool) -> None:
    """For a day each webhook carries a signature of either secret; after that, of the new one alone."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(4)]), **LOCAL)
    async with Receiver().listening() as receiver:
        made = None if single else await endpoint(world, receiver.url(), TYPE)
        old = made.secret if made else await rotate(world, None, keep=False)

        async def signed(*secrets: str) -> list[bool]:
            await world.finish((await ordered(world, receiver.url() if single else "")).id)
            await settle(world)
            return [verified(receiver.heard[-1], one) for one in secrets]

        assert await signed(old) == [True]
        new = await rotate(world, made, keep=True)
        assert await signed(old, new) == [True, True]
        assert len(receiver.heard[-1].headers["webhook-signature"].split(" ")) == 2
        world.clock.forward(DAY)
        assert await signed(old, new) == [False, True]
        newest = await rotate(world, made, keep=False)
        assert await signed(old, new, newest) == [False, False, True]


async def test_a_secret_is_never_weak(make_world: MakeWorld) -> None:
    """It has 256 bits, is each endpoint's own, and is in no table."""
    world = make_world(ScriptedProvider())
    first, second = [await endpoint(world, "https://receiver.example/hook", TYPE) for _ in range(2)]
    await rotate(world, first, keep=True)
    assert first.secret.startswith("whsec_")
    assert len(first.secret) == 6 + 44
    assert first.secret != second.secret
    assert first.endpoint.hint == f"whsec_…{first.secret[-4:]}"
    stored = [dict(row) for one in ("endpoints", "endpoint_secrets") for row in await rows(world, table(one))]
    assert first.secret[6:40] not in str(stored)
    assert signing.webhook_secret(bytes(32), "we_1", "") != signing.webhook_secret(bytes(32), "we_1", "a")


def table(name: str) -> Any:
    """All rows of a table."""
    return select(METADATA.tables[name])


async def test_secrets_do_not_pile_up(make_world: MakeWorld) -> None:
    """With ten that sign, the eleventh is refused until they end."""
    world = make_world(ScriptedProvider())
    made = await endpoint(world, "https://receiver.example/hook", TYPE)
    for _ in range(MOST_SECRETS - 1):
        await rotate(world, made, keep=True)
    error = await refused(endpoints.rotate(world.rt, CALLER.key_id, made.endpoint.id, keep=True))
    assert (error.code, error.param) == ("invalid_parameter", "keep_old_secret_active_for_24_hours")
    world.clock.forward(DAY)
    await rotate(world, made, keep=True)


async def test_what_changes_and_what_does_not(make_world: MakeWorld) -> None:
    """A change moves `updated_at`, one that changes nothing does not; the URL of what is under way moves along."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(503).listening() as first, Receiver().listening() as second:
        made = await endpoint(world, first.url(), TYPE)
        id, key = made.endpoint.id, CALLER.key_id
        await world.finish((await ordered(world)).id)
        await go(world)
        world.clock.forward(1)
        same = await endpoints.change(world.rt, key, id, name="mine", url=first.url(), event_types=[TYPE, TYPE])
        assert same.updated_at == made.endpoint.updated_at
        assert same.failing_since is not None
        changed = await endpoints.change(world.rt, key, id, url=second.url())
        assert (changed.updated_at, changed.failing_since) == (world.clock.now(), None)
        await settle(world)
    assert (first.words, second.words) == (["completed"], ["completed"])


async def test_they_are_listed_by_page(make_world: MakeWorld) -> None:
    """The newest first; neither another key's nor those of single tasks are among them."""
    world = make_world(ScriptedProvider())
    born = []
    for number in range(5):
        world.clock.forward(1)
        born.append((await endpoint(world, f"https://receiver.example/{number}", TYPE)).endpoint.id)
    await endpoint(world, "https://receiver.example/other", TYPE, caller=OTHER)
    await ordered(world, "https://receiver.example/task")
    first, more = await endpoints.listing(world.rt, CALLER.key_id, after=None, limit=3)
    rest, end = await endpoints.listing(world.rt, CALLER.key_id, after=first[-1].id, limit=3)
    assert ([one.id for one in first + rest], more, end) == (born[::-1], True, False)


async def test_a_key_has_so_many_and_no_more(make_world: MakeWorld) -> None:
    """The fifty-first is refused; one that is deleted makes room."""
    world = make_world(ScriptedProvider())
    made = [await endpoint(world, "https://receiver.example/hook", TYPE) for _ in range(MOST)]
    with pytest.raises(GatewayError, match="at most 50"):
        await endpoint(world, "https://receiver.example/hook", TYPE)
    await endpoints.delete(world.rt, CALLER.key_id, made[0].endpoint.id)
    await endpoint(world, "https://receiver.example/hook", TYPE)


@pytest.mark.parametrize("types", [[], ["image.generation.queued"], ["*"], ["batch.completed"], [TYPE, ""]])
async def test_unknown_types_are_refused(make_world: MakeWorld, types: list[str]) -> None:
    """By name, and with where to find those that there are."""
    world = make_world(ScriptedProvider())
    call = endpoints.create(
        world.rt, CALLER, name="x", url="https://receiver.example/", event_types=types, base="http://gateway.test"
    )
    error = await refused(call)
    assert (error.code, error.param) == ("invalid_parameter", "event_types")
    assert "/v1/webhook_event_types" in error.message


async def test_foreign_and_absent_ones_are_alike(make_world: MakeWorld) -> None:
    """Another key's endpoint, a deleted one, that of a task, and one that never was: not found."""
    world = make_world(ScriptedProvider())
    foreign = await endpoint(world, "https://receiver.example/", TYPE, caller=OTHER)
    gone = await endpoint(world, "https://receiver.example/", TYPE)
    await endpoints.delete(world.rt, CALLER.key_id, gone.endpoint.id)
    await ordered(world, "https://receiver.example/")
    (single,) = [row["id"] for row in await rows(world, table("endpoints")) if row["task_id"]]
    for id in (foreign.endpoint.id, gone.endpoint.id, single, "we_" + "0" * 26, "x", ""):
        for call in (
            endpoints.get(world.rt, CALLER.key_id, id),
            endpoints.change(world.rt, CALLER.key_id, id, name="x"),
            endpoints.rotate(world.rt, CALLER.key_id, id, keep=True),
            endpoints.delete(world.rt, CALLER.key_id, id),
            deliveries.try_out(world.rt, CALLER.key_id, id, TYPE),
        ):
            assert (await refused(call)).code == "endpoint_not_found"


@pytest.mark.parametrize(
    ("webhook", "param"),
    [
        (Webhook("http://127.0.0.1/"), "webhook_url"),
        (Webhook("ftp://receiver.example/"), "webhook_url"),
        (Webhook("https://receiver.example:25/"), "webhook_url"),
        (Webhook("https://receiver.example/", {"Host": "x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"Webhook-Id": "x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X-Conduit-Signature": "x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"Transfer-Encoding": "chunked"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X A": "x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"": "x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X-A": "a\r\nB: c"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X-A": "é"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X-A": " x"}), "webhook_headers"),
        (Webhook("https://receiver.example/", {"X-A": "x" * 1025}), "webhook_headers"),
        (Webhook("https://receiver.example/", {f"X-{n}": "x" for n in range(17)}), "webhook_headers"),
        (Webhook("https://receiver.example/", events=("queued",)), "webhook_events"),
        (Webhook("https://receiver.example/", events=("video.generation.completed",)), "webhook_events"),
    ],
)
async def test_a_tasks_webhook_is_checked_first(make_world: MakeWorld, webhook: Webhook, param: str) -> None:
    """A dry run refuses it as well; no task is made, and nothing is reserved."""
    world = make_world(ScriptedProvider())
    wanted = Wanted(generation(), webhook=webhook)
    for call in (tasks.plan(world.rt, CALLER, wanted), tasks.create(world.rt, CALLER, wanted, here=False)):
        error = await refused(call)
        assert (error.code, error.param) == ("invalid_parameter", param)
    assert await rows(world, table("tasks")) == []


async def test_the_types_follow_from_the_models(make_world: MakeWorld) -> None:
    """What no model here does is not offered, though it may be named."""
    world = make_world(ScriptedProvider())
    offered = endpoints.offered_types(world.rt)
    assert offered == [
        *(f"image.generation.{word}" for word in ("started", "progress", "completed", "failed", "cancelled")), *OF_KEYS,
    ]  # fmt: skip
    assert set(offered) < set(EVENT_TYPES)
    assert {"video.completed", "video.failed", "image.edit.completed"} <= set(EVENT_TYPES)


# What a key itself has to tell.


async def told(world: World) -> list[tuple[str, str, Any]]:
    """Endpoint, type and threshold of each delivery."""
    every = await rows(world, select(DELIVERIES).order_by(DELIVERIES.c.id))
    found = [(row["endpoint_id"], row["type"], json.loads(row["body"])["data"].get("threshold")) for row in every]
    return sorted(found, key=lambda one: one[2] or 0)


async def test_a_budget_tells_once_in_a_period(make_world: MakeWorld) -> None:
    """Each threshold that is passed is told once, however often the balance crosses it; the next period begins anew."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(9)]))
    made = (await endpoint(world, "https://receiver.example/", *OF_KEYS)).endpoint.id
    async with world.db.write() as connection:
        budget = Budget(3 * PRICE, "day", (50, 100))
        await accounts.change(connection, CALLER.key_id, world.clock.now(), budget=budget)
    await world.create()
    assert await told(world) == []
    second = await world.create()
    assert await told(world) == [(made, THRESHOLD, 50)]
    await tasks.cancel(world.rt, CALLER.key_id, second)
    await world.create()
    assert await told(world) == [(made, THRESHOLD, 50)]
    await world.create()
    assert await told(world) == [(made, THRESHOLD, 50), (made, EXCEEDED, 100)]
    for row in await rows(world, table("tasks")):
        if row["state"] == "queued":
            await tasks.cancel(world.rt, CALLER.key_id, row["id"])
    world.clock.forward(DAY)
    for _ in range(2):
        await world.create()
    assert len(await told(world)) == 3


async def test_an_owners_budget_is_told_to_all_his_keys(make_world: MakeWorld) -> None:
    """Endpoints of every key of the owner hear of it, and nobody else's."""
    world = make_world(ScriptedProvider())
    async with world.db.write() as connection:
        await accounts.ensure_owner(connection, "team", world.clock.now())
        await accounts.change(connection, "owner:team", world.clock.now(), budget=Budget(PRICE))
        await connection.execute(update(VIRTUAL_KEYS).where(VIRTUAL_KEYS.c.id == CALLER.key_id).values(owner="team"))
    third = await keys.create(world.rt, "third", owner="team")
    mine = [
        (await endpoint(world, "https://receiver.example/", *OF_KEYS, caller=one)).endpoint.id
        for one in (CALLER, keys.Caller(third.id, "team"), OTHER)
    ]
    await world.create(keys.Caller(CALLER.key_id, "team"))
    assert {(id, type) for id, type, _ in await told(world)} == {
        (id, type) for id in mine[:2] for type in (THRESHOLD, EXCEEDED)
    }  # fmt: skip


async def test_a_key_that_ends_says_so(make_world: MakeWorld) -> None:
    """Once, to its own endpoints: revoked again it is silent."""
    world = make_world(ScriptedProvider(), **LOCAL)
    key = await keys.create(world.rt, "third")
    async with Receiver().listening() as receiver:
        await endpoint(world, receiver.url(), KEY_DISABLED, caller=keys.Caller(key.id))
        await endpoint(world, receiver.url(), KEY_DISABLED)
        await keys.revoke(world.rt, key.id)
        await keys.revoke(world.rt, key.id)
        await settle(world)
    (heard,) = receiver.heard
    assert (heard.json["type"], heard.json["data"]) == (KEY_DISABLED, {"key_id": key.id, "reason": "revoked"})
