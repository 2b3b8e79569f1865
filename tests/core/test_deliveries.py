"""Deliveries: each event comes to whoever wants it, in order, signed, and in the same words every time."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import logging
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import RowMapping, select, text

from gateway.core import deliveries, delivery_log, endpoints, ids, tasks, turns
from gateway.core.crashing import CrashPoints
from gateway.core.deliveries import PATIENCE, RETENTION, SCHEDULE, Verdict, advised, pause, verdict
from gateway.core.destinations import EACH, FAILURES, REST
from gateway.core.endpoints import DEFAULT, Webhook, WithSecret
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.outbound import Outbound, Policy
from gateway.core.outbox import ENDINGS, WORDS
from gateway.core.ports import DELIVERY, Message
from gateway.core.preparing import Wanted
from gateway.core.runtime import Runtime
from gateway.core.sweep import sweep
from gateway.core.tables import METADATA
from gateway.core.tasks import TaskRecord
from gateway.core.webhook_tables import DELIVERIES, DELIVERY_ATTEMPTS, ENDPOINTS
from providers.contract import Broken, Done, Pending
from storage.memory import MemoryStore
from tests.core.conftest import MakeWorld
from tests.core.receivers import Receiver, endless, never, verified
from tests.core.vendors import ScriptedProvider, done, film, generation
from tests.core.world import CALLER, OTHER, START, World

EVERY = [f"image.generation.{word}" for word in WORDS]
LOCAL = {"allow_hosts": ("127.0.0.1",)}
PROMPT = "a canary in a coal mine"


async def ordered(world: World, url: str = "", *, here: bool = False, **members: Any) -> TaskRecord:
    """A new task of that prompt, with a webhook of its own if there is a URL."""
    webhook = Webhook(url, base="http://gateway.test", **members) if url else None
    wanted = Wanted(generation(prompt=PROMPT), webhook=webhook, labels={"mine": "yes"})
    return await tasks.create(world.rt, CALLER, wanted, here=here)


async def endpoint(world: World, url: str, *types: str, caller: Caller = CALLER) -> WithSecret:
    """An endpoint of a key."""
    types = types or tuple(EVERY)
    return await endpoints.create(world.rt, caller, name="mine", url=url, event_types=types, base="http://gw.test")


async def rows(world: World, statement: Any = None) -> list[RowMapping]:
    """The deliveries in the order of their making, or other rows."""
    statement = select(DELIVERIES).order_by(DELIVERIES.c.sequence, DELIVERIES.c.id) if statement is None else statement
    async with world.db.read() as connection:
        return list((await connection.execute(statement)).mappings())


async def states(world: World) -> list[str]:
    """How the deliveries stand."""
    return [row["state"] for row in await rows(world)]


async def go(world: World, rt: Runtime | None = None) -> int:
    """Rings for all deliveries that are due and may be sent, as a sweep does, and makes those attempts together."""
    rt = rt or world.rt
    among = deliveries.within_reach(rt)
    rung = await turns.ring(rt.db, DELIVERIES, DELIVERY, rt.now(), rt.settings.lease_seconds, 100, among)
    await asyncio.gather(*(deliveries.attempt(rt, message) for message in rung))
    return len(rung)


async def go_on(world: World) -> float:
    """Turns the clock to when the next delivery is due, and makes it go; the seconds that this took."""
    before = world.clock.time
    due = [row["due_at"] for row in await rows(world) if row["due_at"] is not None]
    world.clock.time = max(world.clock.time, min(due))
    while not await go(world):
        # Its destination is left alone just now.
        world.clock.forward(30)
    return (world.clock.time - before).total_seconds()


async def settle(world: World) -> None:
    """Goes on until nothing is due any more."""
    while any(row["due_at"] is not None for row in await rows(world)):
        await go_on(world)


async def default_secret(world: World) -> str:
    """The secret that signs the webhooks of the caller's single tasks."""
    return (await endpoints.rotate(world.rt, CALLER.key_id, DEFAULT, keep=False)).secret


# What is told.


async def test_a_task_tells_how_it_ended(make_world: MakeWorld) -> None:
    """One webhook, signed for the key, with the caller's headers, what the task has brought, and no prompt."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    secret = await default_secret(world)
    async with Receiver().listening() as receiver:
        task = await ordered(world, receiver.url(), headers={"Authorization": "Bearer theirs"})
        await world.finish(task.id)
        assert await go(world) == 1
    (heard,) = receiver.heard
    assert verified(heard, secret)
    assert heard.headers["authorization"] == "Bearer theirs"
    assert heard.headers["content-type"] == "application/json"
    told, data = heard.json, heard.json["data"]
    assert (told["object"], told["type"], told["created_at"]) == (
        "event", "image.generation.completed", int(START.timestamp())
    )  # fmt: skip
    assert heard.id == told["id"]
    (asset,) = (await world.get(task.id)).assets
    assert data["url"] == data["image_url"] == data["image_urls"][0] == data["data"][0]["url"]
    assert data["url"].startswith(f"http://gateway.test/media/{asset.name}?exp=")
    assert data["data"][0] | {"url": ""} == {
        "id": asset.id, "url": "", "media_type": "image/png", "width": 64, "height": 64, "bytes": asset.size,
        "sha256": asset.sha256,
    }  # fmt: skip
    expected = {
        "task_id": task.id, "status": "completed", "progress": 100, "metadata": {"mine": "yes"}, "sequence": 3,
        "cost": "0.040000", "generation_time": 0, "file_size": asset.size, "operation": "image.generation",
    }  # fmt: skip
    assert data | expected == data
    assert b"canary" not in heard.body
    assert await states(world) == ["delivered"]
    assert (await rows(world))[0]["due_at"] is None


async def test_a_task_tells_of_what_it_is_asked_for(make_world: MakeWorld) -> None:
    """With all events: that it has begun, each look that saw progress, and its end, numbered and in order."""
    looks: list[Any] = [Pending("job", 1.0, 0.25), Pending("job", 1.0, 0.25), Pending("job", 1.0, 0.5), done()]
    world = make_world(ScriptedProvider(submit=[Pending("job")], poll=looks), **LOCAL)
    async with Receiver().listening() as receiver:
        task = await ordered(world, receiver.url(), events=("started", "progress", "image.generation.completed"))
        await world.finish(task.id)
        await settle(world)
    assert receiver.words == ["started", "progress", "progress", "completed"]
    assert [one.json["data"]["progress"] for one in receiver.heard] == [0, 25, 50, 100]
    assert [one.json["data"]["sequence"] for one in receiver.heard] == [2, 3, 4, 5]
    assert [one.json["data"]["status"] for one in receiver.heard] == ["processing"] * 3 + ["completed"]
    assert [one.json["data"].get("stage") for one in receiver.heard] == ["submitting", "generating", "generating", None]


async def test_progress_is_no_event_where_nobody_wants_it(make_world: MakeWorld) -> None:
    """Without such a webhook the story of a task is as short as ever."""
    world = make_world(ScriptedProvider(submit=[Pending("job")], poll=[Pending("job", 1.0, 0.5), done()]), **LOCAL)
    task = await ordered(world, "http://127.0.0.1/hook")
    await world.finish(task.id)
    assert await world.events(task.id) == [(1, "queued"), (2, "started"), (3, "completed")]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_other_ends_are_told_as_well(make_world: MakeWorld, ending: str) -> None:
    """A failure has its code and reason; a cancel says so."""
    world = make_world(ScriptedProvider(submit=[Broken("It broke.")]), **LOCAL)
    async with Receiver().listening() as receiver:
        task = await ordered(world, receiver.url())
        if ending == "cancelled":
            await tasks.cancel(world.rt, CALLER.key_id, task.id)
        else:
            await world.finish(task.id)
        await go(world)
    (heard,) = receiver.heard
    assert (heard.word, heard.json["data"]["status"]) == (ending, ending)
    assert heard.json["data"].get("error_code") == ("provider_error" if ending == "failed" else None)
    assert "image_url" not in heard.json["data"]


async def test_endpoints_hear_of_their_own_key_alone(make_world: MakeWorld) -> None:
    """Both endpoints of the key hear under one id, each with its own signature; another key's hears nothing."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        first = await endpoint(world, receiver.url("first"), "image.generation.completed")
        second = await endpoint(world, receiver.url("second"))
        await endpoint(world, receiver.url("other"), caller=OTHER)
        await endpoint(world, receiver.url("never"), "video.generation.completed", "image.edit.completed")
        await world.finish((await ordered(world)).id)
        await settle(world)
    assert sorted(receiver.words) == ["completed", "completed", "started"]
    ended = [one for one in receiver.heard if one.word == "completed"]
    assert len({one.id for one in ended}) == 1
    assert sorted((verified(one, first.secret), verified(one, second.secret)) for one in ended) == [
        (False, True), (True, False),
    ]  # fmt: skip


async def test_older_headers_come_along_if_they_are_wanted(make_world: MakeWorld) -> None:
    """With the setting there is the hex digest over the body, under the text of the secret, and the event's id."""
    world = make_world(ScriptedProvider(submit=[done()]), webhook_legacy_headers=True, **LOCAL)
    async with Receiver().listening() as receiver:
        made = await endpoint(world, receiver.url(), "image.generation.completed")
        await world.finish((await ordered(world)).id)
        await go(world)
    (heard,) = receiver.heard
    digest = hmac.new(made.secret.encode(), heard.body, hashlib.sha256).hexdigest()
    assert heard.headers["x-conduit-signature"] == f"sha256={digest}"
    assert heard.headers["x-conduit-event-id"] == heard.id


async def test_nothing_is_told_that_did_not_happen(make_world: MakeWorld) -> None:
    """A transaction that fails takes its deliveries along; when it is made again there is one, of what stands."""
    world = make_world(ScriptedProvider(submit=[lambda _: deliver()]), **LOCAL)

    async def deliver() -> Done:
        world.db.when = "commit"
        world.db.away("write", 2)
        return done()

    await world.finish((await ordered(world, "http://127.0.0.1/hook")).id)
    assert world.clock.slept == [1.0, 1.0]
    assert [row["type"] for row in await rows(world)] == ["image.generation.completed"]


class LinklessStore(MemoryStore):
    """A store that cannot make links."""

    def link(self, *_: object) -> str | None:
        raise KeyError("no link")


async def test_no_result_is_lost_for_want_of_words(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """A webhook that cannot be written is missing, and logged as a fault; the task is completed all the same."""
    world = make_world(ScriptedProvider(submit=[done()]), objects=LinklessStore(), media_links="presigned", **LOCAL)
    row = await world.finish((await ordered(world, "http://127.0.0.1/hook")).id)
    assert (row["state"], await rows(world)) == ("completed", [])
    assert [one.levelname for one in caplog.records if "could not be written" in one.message] == ["ERROR"]


# How it is tried again.


async def test_it_is_tried_again_in_the_same_words(make_world: MakeWorld) -> None:
    """After 500, 500: the same id and bytes, a time and signature of its own each, by the schedule; all is noted."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    secret = await default_secret(world)
    async with Receiver(500, 500).listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
        waits = [await go_on(world), await go_on(world)]
    assert [0.9 * one <= wait <= 1.1 * one for one, wait in zip(SCHEDULE, waits, strict=False)] == [True, True]
    assert len({(one.id, one.body) for one in receiver.heard}) == 1
    sent = [int(one.headers["webhook-timestamp"]) for one in receiver.heard]
    assert sent == sorted(set(sent))
    assert len({one.headers["webhook-signature"] for one in receiver.heard}) == 3
    assert all(verified(one, secret) for one in receiver.heard)
    (found,) = (await delivery_log.listing(world.rt, CALLER.key_id, DEFAULT, state=None, after=None, limit=5))[0]
    assert [(one.number, one.status, one.error, one.reply) for one in found.attempts] == [
        (1, 500, None, "heard"), (2, 500, None, "heard"), (3, 200, None, "heard"),
    ]  # fmt: skip
    assert found.state == "delivered"


async def test_the_schedule_comes_to_an_end(make_world: MakeWorld) -> None:
    """A receiver that is never there is tried eight times in a bit more than a day; then it is given up."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        url = receiver.url()
    await world.finish((await ordered(world, url)).id)
    await go(world)
    waits = [await go_on(world) for _ in SCHEDULE]
    assert all(0.9 * one <= wait <= 1.1 * one for one, wait in zip(SCHEDULE, waits, strict=True))
    assert await states(world) == ["failed"]
    noted = await rows(world, select(DELIVERY_ATTEMPTS))
    assert {row["error"] for row in noted} == {"the server could not be reached"}
    assert len(noted) == len(SCHEDULE) + 1


@pytest.mark.parametrize(
    ("status", "found"),
    [(200, "delivered"), (204, "delivered"), (299, "delivered"), (302, "retry"), (304, "retry"), (400, "stop"),
     (401, "stop"), (404, "stop"), (408, "retry"), (410, "gone"), (422, "stop"), (425, "retry"), (429, "retry"),
     (500, "retry"), (503, "retry"), (599, "retry"), (199, "retry")],
)  # fmt: skip
def test_a_status_asks_for_something(status: int, found: Verdict) -> None:
    """What follows from each."""
    assert verdict(status) == found


def test_the_pause_follows_schedule_lot_and_advice() -> None:
    """A lot moves it by a tenth; advice moves it later only, to twice the time at most."""
    assert [pause(number, None, 0.0) for number in range(len(SCHEDULE) + 1)] == [*SCHEDULE, None]
    assert [pause(3, None, draw) for draw in (-1.0, 1.0)] == pytest.approx([540.0, 660.0])
    assert [pause(0, advice, 0.0) for advice in (0.0, 3.0, 7.0, 10.0, 86_400.0)] == [5, 5, 7, 10, 10]


def test_advice_is_a_number_or_a_date() -> None:
    """Anything else says nothing."""
    assert [advised(text, START) for text in ("7", " 120 ", "0", "9" * 40)] == [7, 120, 0, 999_999_999]
    assert advised("Tue, 01 Jan 2030 00:01:00 GMT", START) == 60
    assert advised("Mon, 31 Dec 2029 00:01:00 GMT", START) == 0
    assert [advised(text, START) for text in (None, "", "soon", "-5", "1.5", "Tue, 99 Jan 2030", "²")] == [None] * 7


async def test_advice_is_heard(make_world: MakeWorld) -> None:
    """A 429 that says when to come again is heeded within bounds."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    busy = b"HTTP/1.1 429 Said\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"
    async with Receiver(busy).listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
        assert await go_on(world) == 9


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_the_receiver_refuses_is_not_sent_again(make_world: MakeWorld, status: int) -> None:
    """It would say the same again. Its owner may have it sent once more, in the same words."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(status).listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
        assert await states(world) == ["failed"]
        assert await go(world) == 0
        (row,) = await rows(world)
        again = await delivery_log.redeliver(world.rt, CALLER.key_id, DEFAULT, row["id"])
        assert again.state == "pending"
        await asyncio.sleep(0)
        assert Message(DELIVERY, row["id"], row["version"]) in world.bells.messages
        await deliveries.attempt(world.rt, Message(DELIVERY, row["id"], row["version"]))
    assert await states(world) == ["delivered"]
    assert len({(one.id, one.body) for one in receiver.heard}) == 1
    assert len(receiver.heard) == 2


async def test_a_redirect_leads_nowhere(make_world: MakeWorld) -> None:
    """A 302 to a metadata address, or to a neighbour, is a failure to be tried again, and nobody connects there."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as decoy:
        answers = [
            f"HTTP/1.1 302 Said\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
            for url in ("http://169.254.169.254/latest/meta-data", decoy.url())
        ]
        async with Receiver(*answers).listening() as receiver:
            await world.finish((await ordered(world, receiver.url())).id)
            await go(world)
            await go_on(world)
            assert await states(world) == ["pending"]
            await go_on(world)
    assert (len(receiver.heard), decoy.heard) == (3, [])
    assert await states(world) == ["delivered"]


async def test_a_name_that_leads_inside_is_not_dialled(make_world: MakeWorld) -> None:
    """A host that was public when the task was made, and is not any more, is blocked, and given up."""
    world = make_world(ScriptedProvider(submit=[done()]))

    async def inside(_: str) -> list[str]:
        return ["127.0.0.1"]

    world.rt = replace(world.rt, outbound=Outbound(Policy(), resolver=inside))
    await world.finish((await ordered(world, "http://receiver.example/hook")).id)
    await go(world)
    (noted,) = await rows(world, select(DELIVERY_ATTEMPTS))
    assert noted["error"] == "blocked: the host of the URL does not have a public address"
    assert await states(world) == ["failed"]


async def test_an_endless_answer_is_cut_off(make_world: MakeWorld) -> None:
    """What is kept of it is little."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(endless).listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
    (noted,) = await rows(world, select(DELIVERY_ATTEMPTS))
    assert (noted["status"], len(noted["reply"])) == (200, deliveries.EXCERPT)


# In order.


async def test_a_later_event_waits_for_the_earlier(make_world: MakeWorld) -> None:
    """While the first is tried again the second is not sent; it follows as soon as the first is there."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(500, 503).listening() as receiver:
        await world.finish((await ordered(world, receiver.url(), events=("started", "completed"))).id)
        assert await go(world) == 2
        assert (receiver.words, await states(world)) == (["started"], ["pending", "waiting"])
        await go_on(world)
        assert receiver.words == ["started"] * 2
        await settle(world)
    assert receiver.words == ["started"] * 3 + ["completed"]
    assert await states(world) == ["delivered"] * 2


async def test_an_event_that_was_given_up_holds_nothing_up(make_world: MakeWorld) -> None:
    """The second is sent once the first is refused for good."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(404).listening() as receiver:
        await world.finish((await ordered(world, receiver.url(), events=("started", "completed"))).id)
        await go(world)
        await go(world)
    assert receiver.words == ["started", "completed"]
    assert await states(world) == ["failed", "delivered"]


async def test_two_workers_that_meet_keep_the_order(make_world: MakeWorld) -> None:
    """While one sends the first event, another that takes the second leaves it, and is rung for it afterwards."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(never).listening() as receiver:
        await world.finish((await ordered(world, receiver.url(), events=("started", "completed"))).id)
        first, second = [Message(DELIVERY, row["id"], 0) for row in await rows(world)]
        sending = asyncio.create_task(deliveries.attempt(world.rt, first))
        await receiver.count(1)
        await deliveries.attempt(world.rt, second)
        assert (await states(world))[1] == "waiting"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        world.clock.forward(world.rt.settings.lease_seconds)
        await go(world)
        await go(world)
    assert receiver.words == ["started", "started", "completed"]


# Whose trouble it is.


async def test_gone_means_gone(make_world: MakeWorld) -> None:
    """410 disables the endpoint: what was on its way is skipped, others of the key are told, and it can come back."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), **LOCAL)
    async with Receiver(410).listening() as receiver, Receiver().listening() as other:
        made = await endpoint(world, receiver.url(), *EVERY)
        await endpoint(world, other.url(), "webhook_endpoint.disabled")
        await world.finish((await ordered(world)).id)
        await settle(world)
        await world.finish((await ordered(world)).id)
        await go(world)
        assert receiver.words == ["started"]
        mine = [row["state"] for row in await rows(world) if row["endpoint_id"] == made.endpoint.id]
        assert sorted(mine) == ["failed", "skipped", "skipped", "skipped"]
        (told,) = other.heard
        assert told.json["data"] == {
            "webhook_endpoint_id": made.endpoint.id, "name": "mine",
            "reason": "the receiver says that it is gone (410)",
        }  # fmt: skip
        key = CALLER.key_id
        for call in (
            delivery_log.redeliver(world.rt, key, made.endpoint.id, (await rows(world))[0]["id"]),
            delivery_log.replay(world.rt, key, made.endpoint.id, START),
        ):
            with pytest.raises(GatewayError) as caught:
                await call
            assert caught.value.code == "endpoint_disabled"
        back = await endpoints.change(world.rt, key, made.endpoint.id, enabled=True)
        assert (back.disabled_at, back.reason) == (None, None)
        assert await delivery_log.replay(world.rt, key, made.endpoint.id, START) == 4
        await settle(world)
    assert receiver.words[1:].count("started") == 2
    assert receiver.words[1:].count("completed") == 2


async def test_gone_ends_a_single_tasks_webhook(make_world: MakeWorld) -> None:
    """410 for one task is the end of that task's webhooks, and of nobody else's."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), **LOCAL)
    async with Receiver(410).listening() as receiver:
        events = ("started", "completed")
        await world.finish((await ordered(world, receiver.url(), events=events)).id)
        await settle(world)
        assert await states(world) == ["failed", "skipped"]
        await world.finish((await ordered(world, receiver.url(), events=events)).id)
        await settle(world)
    assert receiver.words == ["started", "started", "completed"]


async def test_only_failures_for_long_disable(make_world: MakeWorld) -> None:
    """After five days without a single success an endpoint is disabled; one success in between begins anew."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(4)]), **LOCAL)
    async with Receiver(*[500] * 8, 200, *[500] * 9).listening() as receiver:
        made = await endpoint(world, receiver.url(), "image.generation.completed")

        async def standing() -> tuple[bool, bool]:
            found = await endpoints.get(world.rt, CALLER.key_id, made.endpoint.id)
            return found.failing_since is not None, found.disabled_at is not None

        async def another() -> None:
            await world.finish((await ordered(world)).id)
            await settle(world)

        await another()
        assert await standing() == (True, False)
        world.clock.forward(PATIENCE.total_seconds() - 200_000)
        await another()
        assert await standing() == (False, False)
        await another()
        assert await standing() == (True, False)
        world.clock.forward(PATIENCE.total_seconds())
        await another()
        assert await standing() == (True, True)
    found = await endpoints.get(world.rt, CALLER.key_id, made.endpoint.id)
    assert found.reason == "nothing could be delivered for 5 days"


async def test_a_dead_receiver_hurts_itself_alone(make_world: MakeWorld) -> None:
    """Of thirty webhooks to one that never answers a few are under way; another's goes out at once."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(31)]), concurrency=64, **LOCAL)
    async with Receiver(*[never] * 30).listening() as slow, Receiver().listening() as quick:
        for _ in range(30):
            await world.finish((await ordered(world, slow.url())).id)
        await world.finish((await ordered(world, quick.url())).id)
        sending = asyncio.create_task(go(world))
        await quick.count(1)
        await slow.count(EACH)
        assert len(slow.heard) == EACH
        assert await go(world) == 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_webhooks_leave_room_for_tasks(make_world: MakeWorld) -> None:
    """However many destinations there are, a quarter of what a process does at once is the most."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(20)]), concurrency=40, **LOCAL)
    async with Receiver(*[never] * 20).listening() as first:
        for number in range(20):
            await world.finish((await ordered(world, first.url(str(number)))).id)
        async with world.db.write_one() as connection:
            await connection.execute(text("UPDATE deliveries SET destination = id"))
        sending = asyncio.create_task(go(world))
        await first.count(10)
        assert world.rt.destinations.room == 0
        assert await sweep(world.rt) == 0
        assert len(first.heard) == 10
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_after_failures_in_a_row_one_tries_it(make_world: MakeWorld) -> None:
    """A receiver that fails is left alone for a while, without an attempt being used up; then one webhook probes."""
    world = make_world(ScriptedProvider(submit=[done() for _ in range(10)]), **LOCAL)
    async with Receiver(*[500] * (FAILURES + 1)).listening() as receiver:
        for _ in range(10):
            task = await ordered(world, receiver.url())
            await world.finish(task.id)
        for row in (await rows(world))[:FAILURES]:
            await deliveries.attempt(world.rt, Message(DELIVERY, row["id"], 0))
        assert await go(world) == 0
        world.clock.forward(REST - 1)
        assert await go(world) == 0
        assert len(receiver.heard) == FAILURES
        world.clock.forward(1)
        await go(world)
        assert len(receiver.heard) == FAILURES + 1
        await settle(world)
    assert await states(world) == ["delivered"] * 10
    assert sum(row["attempts"] for row in await rows(world)) == len(receiver.heard) == 10 + FAILURES + 1


async def test_a_disabled_endpoint_keeps_what_it_misses(make_world: MakeWorld) -> None:
    """What happens meanwhile is recorded as skipped, and is there for a replay from a time on."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        made = await endpoint(world, receiver.url(), "image.generation.completed")
        key, id = CALLER.key_id, made.endpoint.id
        await endpoints.change(world.rt, key, id, enabled=False)
        await world.finish((await ordered(world)).id)
        world.clock.forward(3600)
        await world.finish((await ordered(world)).id)
        assert (await go(world), await states(world)) == (0, ["skipped"] * 2)
        await endpoints.change(world.rt, key, id, enabled=True)
        assert await delivery_log.replay(world.rt, key, id, START + dt.timedelta(seconds=1)) == 1
        await go(world)
    assert sorted(await states(world)) == ["delivered", "skipped"]


async def test_nothing_goes_to_a_deleted_endpoint(make_world: MakeWorld) -> None:
    """What was on its way is skipped, its URL is forgotten, and later events make nothing."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        made = await endpoint(world, receiver.url(), "image.generation.completed")
        await world.finish((await ordered(world)).id)
        await endpoints.delete(world.rt, CALLER.key_id, made.endpoint.id)
        await go(world)
        await world.finish((await ordered(world)).id)
    assert (receiver.heard, await states(world)) == ([], ["skipped"])
    assert (await rows(world, select(ENDPOINTS)))[0]["url"] == ""


# Whatever dies.


class Fatal(CrashPoints):
    """Ends the work of a process at a point."""

    def pass_by(self, point: str) -> None:
        if point == self.armed:
            raise asyncio.CancelledError


@pytest.mark.parametrize(("point", "sent"), [("delivery.before_send", 1), ("delivery.after_send", 2)])
async def test_a_worker_that_dies_loses_no_webhook(make_world: MakeWorld, point: str, sent: int) -> None:
    """Dead before it sends: another sends it. Dead after: it comes twice, under one id, and is noted once."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        dying = asyncio.create_task(go(world, replace(world.rt, crash=Fatal(point))))
        await asyncio.gather(dying, return_exceptions=True)
        assert dying.cancelled()
        assert await go(world) == 0
        world.clock.forward(world.rt.settings.lease_seconds)
        assert await go(world) == 1
    assert len(receiver.heard) == sent
    assert len({(one.id, one.body) for one in receiver.heard}) == 1
    assert await states(world) == ["delivered"]


async def test_the_sweep_sends_what_nobody_rang_for(make_world: MakeWorld) -> None:
    """With the broker away, the sweep finds the delivery and hands it to this process."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    world.bells.broken = True
    async with Receiver().listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        assert await sweep(world.rt) == 1
        await receiver.count(1)
        await world.rt.executor.drain(5)
    assert await states(world) == ["delivered"]


async def test_a_bell_is_rung_at_once(make_world: MakeWorld) -> None:
    """The message of a new delivery goes out after the commit, and is enough to have it sent."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await asyncio.sleep(0)
        (message,) = [one for one in world.bells.messages if one.kind == DELIVERY]
        await world.rt.executor.handlers[DELIVERY](message)
        await world.rt.executor.handlers[DELIVERY](message)
    assert len(receiver.heard) == 1


async def test_what_stops_its_worker_is_tried_less_and_less(make_world: MakeWorld) -> None:
    """A delivery whose attempts come to no end counts as one that fails, and goes on by the schedule."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        for _ in range(3):
            dying = asyncio.create_task(go(world, replace(world.rt, crash=Fatal("delivery.before_send"))))
            await asyncio.gather(dying, return_exceptions=True)
            world.clock.forward(world.rt.settings.lease_seconds)
        await go(world)
        assert receiver.heard == []
        (noted,) = await rows(world, select(DELIVERY_ATTEMPTS))
        assert noted["error"] == "the attempt stopped its worker several times"
        await go_on(world)
    assert len(receiver.heard) == 1


async def test_a_database_that_is_away_is_no_fault_of_ours(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be noted is sent again after the lease; nothing is logged as an error."""
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        world.db.away("write", 1)
        await go(world)
        world.clock.forward(world.rt.settings.lease_seconds)
        await go(world)
    assert len(receiver.heard) == 2
    assert await states(world) == ["delivered"]
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


# What stays secret, and what goes.


async def test_headers_are_secrets(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """They stand in no column as they are, in no log, and in nothing that is shown; another secret cannot read them."""
    caplog.set_level(logging.DEBUG, "gateway")
    world = make_world(ScriptedProvider(submit=[done()]), **LOCAL)
    async with Receiver(500).listening() as receiver:
        task = await ordered(world, receiver.url("canary-path"), headers={"X-Token": "canary-token"})
        await world.finish(task.id)
        await go(world)
        async with world.db.read() as connection:
            tables = ("endpoints", "endpoint_secrets", "tasks", "deliveries", "delivery_attempts", "events")
            dump = [str((await connection.execute(METADATA.tables[one].select())).all()) for one in tables]
        assert "canary-token" not in "".join(dump)
        assert "canary-token" not in str(await world.get(task.id))
        assert caplog.records
        assert "canary" not in caplog.text
        secrets = replace(world.rt.secrets, headers=bytes(32))
        world.clock.forward(10)
        await go(world, replace(world.rt, secrets=secrets))
    assert [one.headers["x-token"] for one in receiver.heard] == ["canary-token"]
    noted = await rows(world, select(DELIVERY_ATTEMPTS).order_by(DELIVERY_ATTEMPTS.c.number))
    assert noted[1]["error"] == "the headers were encrypted under another secret"


async def test_a_retry_takes_the_webhook_along(make_world: MakeWorld) -> None:
    """A new task of a failed one tells the same receiver, with the same headers, of the same events."""
    world = make_world(ScriptedProvider(submit=[Broken("It broke."), done()]), **LOCAL)
    async with Receiver().listening() as receiver:
        first = await ordered(world, receiver.url(), headers={"X-Token": "mine"})
        await world.finish(first.id)
        again = await tasks.retry(world.rt, CALLER, first.id)
        assert again.webhook_url == receiver.url()
        await world.finish(again.id)
        await settle(world)
    assert sorted(receiver.words) == ["completed", "failed"]
    assert {one.headers["x-token"] for one in receiver.heard} == {"mine"}


async def test_old_deliveries_are_forgotten(make_world: MakeWorld) -> None:
    """A month after its end a delivery is gone with its attempts; what is under way stays."""
    world = make_world(ScriptedProvider(submit=[done(), done()]), **LOCAL)
    async with Receiver(200, 500).listening() as receiver:
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
        world.clock.forward(RETENTION.total_seconds() + 1)
        await world.finish((await ordered(world, receiver.url())).id)
        await go(world)
        await deliveries.purge(world.rt)
    assert await states(world) == ["pending"]
    assert len(await rows(world, select(DELIVERY_ATTEMPTS))) == 1


async def test_films_have_openais_names(make_world: MakeWorld) -> None:
    """An endpoint that was made with OpenAI's names hears of a film by them, once, with the id that OpenAI has."""
    world = make_world(ScriptedProvider(submit=[done(film(8, (64, 64)))]), **LOCAL)
    async with Receiver().listening() as receiver:
        await endpoint(world, receiver.url("both"), "video.completed", "video.generation.completed")
        await endpoint(world, receiver.url("theirs"), "video.completed", "video.failed")
        task = await ordered(world)
        await world.change(task.id, kind="video")
        await world.finish(task.id)
        await go(world)
    told = {one.json["type"]: one.json["data"] for one in receiver.heard}
    assert set(told) == {"video.completed", "video.generation.completed"}
    assert told["video.completed"]["id"] == told["video.completed"]["task_id"] == task.id
    assert "id" not in told["video.generation.completed"]


def test_the_usual_events_are_the_ends() -> None:
    """A task that says no more is heard of once: in the end."""
    assert ENDINGS == ("completed", "failed", "cancelled")
    assert ids.is_id(ids.derived("evt", "x"), "evt")
    assert ids.derived("evt", "x") == ids.derived("evt", "x") != ids.derived("evt", "y")
