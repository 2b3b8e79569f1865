"""Storing: from what a vendor delivered to checked bytes in our store, and their charge."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core import inspection
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from providers.card import Parameter, PriceRow
from providers.contract import (
    Broken,
    Done,
    Kind,
    Output,
    Pending,
    ProviderError,
    Refused,
    Unavailable,
)  # fmt: skip
from storage.objects import Stored
from tests.core.conftest import MakeWorld
from tests.core.trouble import FlakyStore
from tests.core.vendors import ScriptedProvider, card_of, done, film, linked, png, price, serving


def filming(*answers: Done, rows: tuple[PriceRow, ...] = (PriceRow("0.10"),)) -> ScriptedProvider:
    """A vendor of films of two, three or four seconds, at a tenth of a dollar for each unless the rows say more."""
    seconds = Parameter("integer", values=(2, 3, 4))
    per_second = msgspec.structs.replace(price("0.10"), unit="second", rows=rows)
    model = {"kind": Kind.VIDEO, "parameters": {"seconds": seconds}, "price": per_second}
    return ScriptedProvider(card_of(model=model), submit=answers)


async def test_the_vendors_own_cost_is_charged(make_world: MakeWorld) -> None:
    """What the vendor says that it bills counts more than the card's price."""
    world = make_world(ScriptedProvider(submit=[done(cost=12_345)]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["charged"], row["quoted"]) == (12_345, 40_000)
    assert (await world.attempts(task_id))[0]["cost"] == 12_345


async def test_what_nobody_ordered_costs_nothing(make_world: MakeWorld) -> None:
    """Of two pictures where one was ordered both are kept, and one is charged: no more than was reserved."""
    world = make_world(ScriptedProvider(submit=[done(png(), png())]))
    row = await world.step(await world.create())
    assert (row["charged"], row["quoted"], row["adjusted"]) == (40_000, 40_000, {"delivered_n": [1, 2]})


async def test_a_delivered_size_that_was_not_asked_for_is_said(make_world: MakeWorld) -> None:
    """A picture of another size than asked is kept and charged, and `adjusted` says what came."""
    world = make_world(ScriptedProvider(submit=[done(png(32, 64))]))
    task_id = await world.create(size="64x64")
    row = await world.step(task_id)
    assert (row["state"], row["adjusted"]) == (State.COMPLETED, {"delivered_size": ["64x64", "32x64"]})


async def test_a_film_is_kept_with_its_length(make_world: MakeWorld) -> None:
    """A film that came with the answer and one behind a URL are measured, and have their small pictures beside them."""
    async with serving(a=[(200, film(36))]) as files:
        world = make_world(filming(done(film(36)), linked(files.url("a"))))
        for _ in range(2):
            task_id = await world.create(kind=Kind.VIDEO)
            assert (await world.step(task_id))["state"] == State.COMPLETED
            (asset,) = await world.assets(task_id)
            assert (asset["kind"], asset["media_type"], asset["seconds"], asset["fps"]) == (
                "video", "video/mp4", 1.5, 24.0,
            )  # fmt: skip
            assert sorted(asset["pictures"]) == ["spritesheet", "thumbnail"]
            assert len(asset["blurhash"]) == 28
            for name, picture in asset["pictures"].items():
                kept = b"".join([chunk async for chunk in world.rt.objects.read(f"{asset['object_key']}.{name}")])
                assert (len(kept), hashlib.sha256(kept).hexdigest()) == (picture["size"], picture["sha256"])


async def test_what_is_no_film_is_no_result_of_a_film(make_world: MakeWorld) -> None:
    """A picture in place of a film, and a film in place of a picture, fail the task, and cost nothing."""
    world = make_world(filming(done(png())))
    row = await world.step(await world.create(kind=Kind.VIDEO))
    assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "provider_error", None)
    assert row["error_message"].endswith("or is no video.")
    world = make_world(ScriptedProvider(submit=[done(film())]))
    row = await world.step(await world.create())
    assert (row["state"], row["charged"]) == (State.FAILED, None)


@pytest.mark.parametrize(
    ("asked", "frames", "charged", "adjusted"),
    [
        (2, 48, 200_000, {}), (2, 49, 200_000, {}), (2, 54, 200_000, {}), (2, 43, 200_000, {}),
        (2, 24, 100_000, {"delivered_seconds": [2, 1.0]}), (2, 72, 200_000, {"delivered_seconds": [2, 3.0]}),
        (None, 48, 200_000, {}), (None, 49, 200_000, {}), (None, 55, 300_000, {}), (None, 240, 400_000, {}),
    ],
)  # fmt: skip
async def test_a_film_is_charged_by_its_length(
    make_world: MakeWorld, asked: int | None, frames: int, charged: int, adjusted: dict[str, Any]
) -> None:
    """At a price per second what came is charged, up to what was ordered; a frame more or less counts for nothing."""
    world = make_world(filming(done(film(frames))))
    parameters = {} if asked is None else {"seconds": asked}
    row = await world.step(await world.create(kind=Kind.VIDEO, parameters=parameters))
    assert (row["state"], row["charged"], row["adjusted"]) == (State.COMPLETED, charged, adjusted)
    assert row["quoted"] == (asked or 4) * 100_000


@pytest.mark.parametrize(("frames", "charged"), [(96, 320_000), (72, 240_000), (24, 80_000)])
async def test_a_film_is_charged_at_the_price_of_its_order(make_world: MakeWorld, frames: int, charged: int) -> None:
    """Where seconds cost less in longer films, one that came out shorter is charged by the second as it was ordered."""
    rows = tuple(PriceRow(usd, {"seconds": seconds}) for usd, seconds in (("0.10", "2"), ("0.08", "4")))
    provider = filming(done(film(frames)), rows=rows)
    world = make_world(provider)
    row = await world.step(await world.create(kind=Kind.VIDEO, parameters={"seconds": 4}))
    assert (row["quoted"], row["charged"]) == (320_000, charged)


async def test_a_length_without_a_price_is_refused_by_name(make_world: MakeWorld) -> None:
    """Three seconds, of which no row speaks, cost neither what two nor what four do; the caller is told which do."""
    rows = tuple(PriceRow(usd, {"seconds": seconds}) for usd, seconds in (("0.10", "2"), ("0.08", "4")))
    with pytest.raises(GatewayError, match="a price for these values of seconds alone: 2, 4") as caught:
        await make_world(filming(rows=rows)).create(kind=Kind.VIDEO, parameters={"seconds": 3})
    assert (caught.value.code, caught.value.param) == ("unpriced_model", "seconds")


async def test_of_several_films_each_is_charged_by_its_own_length(make_world: MakeWorld) -> None:
    """Two films of two seconds were ordered: one of them, and half of the other, are charged and said."""
    world = make_world(filming(done(film(48), film(24))))
    row = await world.step(await world.create(kind=Kind.VIDEO, n=2, parameters={"seconds": 2}))
    assert (row["charged"], row["adjusted"]) == (300_000, {"delivered_seconds": [2, 1.0]})


async def test_a_small_picture_that_is_not_stored_is_left_out(make_world: MakeWorld) -> None:
    """Nothing that was bought waits for a thumbnail: the store takes the film, then fails, and the task completes."""

    class Store(FlakyStore):
        async def put(self, key: str, data: Any, media_type: str) -> Stored:
            stored = await super().put(key, data, media_type)
            self.failures = 0 if "." in key else 1
            return stored

    world = make_world(filming(done(film())), objects=Store(0))
    task_id = await world.create(kind=Kind.VIDEO)
    assert (await world.step(task_id))["state"] == State.COMPLETED
    (asset,) = await world.assets(task_id)
    assert len(asset["pictures"]) < 2
    assert await world.bytes_of(asset) == film()
    assert not world.clock.slept


async def test_a_picture_of_which_no_thumbnail_can_be_made_is_kept(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault over a small picture costs nobody the large one."""
    monkeypatch.setattr(inspection, "thumbnail", lambda _: 1 / 0)
    world = make_world(ScriptedProvider(submit=[done()]))
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.COMPLETED
    (asset,) = await world.assets(task_id)
    assert (asset["pictures"], asset["blurhash"]) == ({}, None)


async def test_a_film_that_cannot_be_looked_at_now_is_looked_at_later(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without room for one more process loses no film: the step tries again until it works."""
    async with serving(a=[(200, film())]) as files:
        provider = filming(done(film()), linked(files.url("a")))
        world = make_world(provider)
        look, failures = inspection._look, [OSError("no room"), OSError("no room")]

        def sometimes(*given: Any) -> Any:
            if failures:
                raise failures.pop()
            return look(*given)

        monkeypatch.setattr(inspection, "_look", sometimes)
        task_id = await world.create(kind=Kind.VIDEO)
        assert (await world.step(task_id))["state"] == State.COMPLETED
        assert len(world.clock.slept) == 2
        failures.append(OSError("no room"))
        task_id = await world.create(kind=Kind.VIDEO)
        assert [(await world.step(task_id))["state"] for _ in range(2)] == [State.STORING, State.COMPLETED]
        assert len(provider.orders) == 2


async def test_bytes_that_are_no_picture_are_not_delivered(make_world: MakeWorld) -> None:
    """Garbage beside two pictures: two are delivered and charged; nothing but garbage: the task fails."""
    answers = [done(png(), b"garbage", png(32, 32)), done(b"<html>"), done(b"")]
    world = make_world(ScriptedProvider(submit=answers))
    task_id = await world.create(n=3)
    row = await world.step(task_id)
    assert (row["state"], row["charged"], row["quoted"]) == (State.COMPLETED, 80_000, 120_000)
    assert [(one["position"], one["width"]) for one in await world.assets(task_id)] == [(0, 64), (1, 32)]
    for _ in range(2):
        task_id = await world.create()
        row = await world.step(task_id)
        assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "provider_error", None)
        assert await world.assets(task_id) == []
        assert await world.outcomes(task_id) == [("vendor", "Broken")]


async def test_each_model_of_a_vendor_is_charged_at_its_own_price(make_world: MakeWorld) -> None:
    """Two routes of one provider with two of its models: the price is that of the model that delivered."""
    card = card_of()
    large = msgspec.structs.replace(card.models[0], name="vendor-large", price=price("0.50"))
    card = msgspec.structs.replace(card, models=(*card.models, large))
    world = make_world(ScriptedProvider(card, submit=[Unavailable("closed"), done()]))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["charged"]) == (State.COMPLETED, 500_000)


async def test_outputs_are_fetched_from_their_urls(make_world: MakeWorld) -> None:
    """Linked outputs are copied into our store, in order, checked and measured."""
    async with serving(a=[(200, png(64, 64))], b=[(200, png(32, 16))]) as files:
        world = make_world(ScriptedProvider(submit=[Pending("job")], poll=[linked(files.url("a"), files.url("b"))]))
        task_id = await world.create(n=2)
        row = await world.finish(task_id)
        assert (row["state"], row["charged"]) == (State.COMPLETED, 80_000)
        found = await world.assets(task_id)
        assert [(one["width"], one["height"]) for one in found] == [(64, 64), (32, 16)]
        assert [await world.bytes_of(one) for one in found] == [png(64, 64), png(32, 16)]
        assert [one["sha256"] for one in found] == [hashlib.sha256(one).hexdigest() for one in (png(), png(32, 16))]


async def test_an_output_that_fails_first_is_fetched_later(make_world: MakeWorld) -> None:
    """The task waits in storing with what it has; only what is missing is fetched again, and nothing bought again."""
    async with serving(a=[(200, png())], b=[(503, b""), (200, png(32, 32))]) as files:
        provider = ScriptedProvider(submit=[linked(files.url("a"), files.url("b"))])
        world = make_world(provider)
        task_id = await world.create(n=2)
        row = await world.step(task_id)
        assert row["state"] == State.STORING
        assert row["due_at"] > world.clock.now()
        assert await world.assets(task_id) == []
        assert (await world.step(task_id))["state"] == State.COMPLETED
        assert sorted(files.asked) == ["a", "b", "b"]
        assert (len(provider.orders), len(await world.assets(task_id))) == (1, 2)


async def test_outputs_survive_the_process_that_fetched_them(make_world: MakeWorld) -> None:
    """A process dies after the vendor answered: another one takes the outputs up from the row."""
    async with serving(a=[(503, b""), (200, png())]) as files:
        provider = ScriptedProvider(submit=[Done((Output(url=files.url("a"), revised_prompt="a bright mirror"),), 5)])
        world = make_world(provider)
        task_id = await world.create()
        await world.step(task_id)
        other = replace(world.rt, executor=world.rt.executor)
        row = await world.step(task_id, other)
        assert (row["state"], row["charged"]) == (State.COMPLETED, 5)
        (asset,) = await world.assets(task_id)
        assert asset["revised_prompt"] == "a bright mirror"


@pytest.mark.parametrize("answer", [(404, b""), (410, b""), (403, b""), (200, b"garbage"), (200, b"")], ids=str)
async def test_an_output_that_is_gone_or_garbage_is_given_up(make_world: MakeWorld, answer: tuple[int, bytes]) -> None:
    """What no later try can mend is not tried again: the task fails when nothing else is left of it."""
    async with serving(a=[answer], b=[(200, png())]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("a")), linked(files.url("a"), files.url("b"))]))
        task_id = await world.create()
        row = await world.step(task_id)
        assert (row["state"], row["error_code"], row["charged"]) == (State.FAILED, "provider_error", None)
        task_id = await world.create(n=2)
        row = await world.step(task_id)
        assert (row["state"], row["charged"], row["quoted"]) == (State.COMPLETED, 40_000, 80_000)
        assert [one["position"] for one in await world.assets(task_id)] == [0]


async def test_two_of_three_outputs_complete_and_charge_two(make_world: MakeWorld) -> None:
    """One of three is garbage: the two good ones are delivered, and two are charged."""
    async with serving(a=[(200, png())], b=[(200, b"oops")], c=[(200, png(32, 32))]) as files:
        world = make_world(ScriptedProvider(submit=[linked(*map(files.url, "abc"))]))
        task_id = await world.create(n=3)
        row = await world.finish(task_id)
        assert (row["state"], row["charged"]) == (State.COMPLETED, 80_000)
        assert [one["width"] for one in await world.assets(task_id)] == [64, 32]


async def test_outputs_that_do_not_come_in_time_are_given_up(make_world: MakeWorld) -> None:
    """At the deadline the task completes with what came, or fails when nothing did."""
    async with serving(a=[(200, png())], b=[(503, b"")]) as files:
        answers = [linked(files.url("a"), files.url("b")), linked(files.url("b"))]
        world = make_world(ScriptedProvider(submit=answers), task_seconds=60.0)
        row = await world.finish(await world.create(n=2))
        assert (row["state"], row["charged"]) == (State.COMPLETED, 40_000)
        row = await world.finish(await world.create())
        assert (row["state"], row["error_code"]) == (State.FAILED, "provider_error")


async def test_a_url_that_may_not_be_dialled_is_not(make_world: MakeWorld) -> None:
    """A vendor that hands out a private address its card does not name gets no request from us, and no second try."""
    async with serving(a=[(200, png())]) as files:
        provider = ScriptedProvider(card_of(output_hosts=()), submit=[linked(files.url("a"))])
        world = make_world(provider)
        task_id = await world.create()
        row = await world.step(task_id)
        assert (row["state"], row["error_code"], files.asked) == (State.FAILED, "provider_error", [])


async def test_an_output_larger_than_allowed_is_given_up(make_world: MakeWorld) -> None:
    """The setting bounds what is fetched, and the bound is final."""
    async with serving(a=[(200, png() + bytes(5000))]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("a"))]), max_output_bytes=4096)
        task_id = await world.create()
        assert (await world.step(task_id))["state"] == State.FAILED


async def test_private_outputs_are_read_through_the_provider(make_world: MakeWorld) -> None:
    """Where the card says that a download needs our credential, the provider reads it; a failure is tried again."""
    read: list[Any] = [Unavailable("away"), done(png())]
    provider = ScriptedProvider(card_of(private_outputs=True), submit=[linked("https://vendor.test/1")], read=read)
    world = make_world(provider)
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.STORING
    assert (await world.step(task_id))["state"] == State.COMPLETED
    assert await world.bytes_of((await world.assets(task_id))[0]) == png()


async def test_private_outputs_are_bounded_too(make_world: MakeWorld) -> None:
    """What the provider reads is bounded in bytes, for good, and in time, until the next try."""

    async def hangs(_: Output) -> Done:
        await asyncio.Event().wait()
        raise AssertionError

    answers = [linked("https://vendor.test/1")] * 2
    card = card_of(private_outputs=True, timeout=0.02)
    read: list[Any] = [done(png() + bytes(5000)), hangs, done(png())]
    world = make_world(ScriptedProvider(card, submit=answers, read=read), max_output_bytes=4096)
    row = await world.step(await world.create())
    assert (row["state"], row["error_code"]) == (State.FAILED, "provider_error")
    task_id = await world.create()
    assert (await world.step(task_id))["state"] == State.STORING
    assert (await world.step(task_id))["state"] == State.COMPLETED


@pytest.mark.parametrize("error", [Refused("no such file"), Broken("larger than anything")], ids=repr)
async def test_a_private_output_that_cannot_be_read_is_given_up(make_world: MakeWorld, error: ProviderError) -> None:
    """What the vendor refuses to hand out, or hands out as nonsense, is not asked for until the deadline."""
    card = card_of(private_outputs=True)
    world = make_world(ScriptedProvider(card, submit=[linked("https://vendor.test/1")], read=[error]))
    row = await world.step(await world.create())
    assert (row["state"], row["error_code"]) == (State.FAILED, "provider_error")


async def test_a_full_disk_loses_no_output(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for a moment to put a file, the task waits for its outputs and fetches them later."""
    async with serving(a=[(200, png())]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("a"))]))
        task_id = await world.create()
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", "/nonexistent")
            assert (await world.step(task_id))["state"] == State.STORING
        assert (await world.step(task_id))["state"] == State.COMPLETED


async def test_an_output_with_nothing_in_it_is_not_delivered(make_world: MakeWorld) -> None:
    """An output with neither bytes nor a URL is none."""
    world = make_world(ScriptedProvider(submit=[Done((Output(),)), Done((Output(), Output(data=png())))]))
    assert (await world.step(await world.create()))["error_code"] == "provider_error"
    row = await world.step(await world.create(n=2))
    assert (row["state"], row["charged"]) == (State.COMPLETED, 40_000)


async def test_a_store_that_fails_loses_no_bytes(make_world: MakeWorld) -> None:
    """Bytes that came with the answer are held until the store takes them; the order is not sent again."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider, objects=FlakyStore(2))
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], len(provider.orders)) == (State.COMPLETED, 1)
    assert len(world.clock.slept) == 2
    assert all(1 <= pause <= 30 for pause in world.clock.slept)
    assert await world.bytes_of((await world.assets(task_id))[0]) == png()


async def test_a_store_that_fails_while_urls_are_fetched(make_world: MakeWorld) -> None:
    """Linked outputs stay with the vendor until the store takes them; the task comes back for them."""
    async with serving(a=[(200, png())]) as files:
        provider = ScriptedProvider(submit=[linked(files.url("a"))])
        world = make_world(provider, objects=FlakyStore(2))
        task_id = await world.create()
        states = [(await world.step(task_id))["state"] for _ in range(3)]
        assert states == [State.STORING, State.STORING, State.COMPLETED]
        assert len(provider.orders) == 1


async def test_a_store_that_never_works_ends_the_task(make_world: MakeWorld) -> None:
    """Bytes that cannot be kept until the deadline are lost, and the task says so rather than hang."""
    world = make_world(ScriptedProvider(submit=[done()]), objects=FlakyStore(10**6), task_seconds=60.0)
    task_id = await world.create()
    row = await world.step(task_id)
    assert (row["state"], row["charged"]) == (State.FAILED, None)
    assert await world.outcomes(task_id) == [("vendor", "Broken")]


async def test_a_result_is_kept_although_its_model_is_no_longer_served(make_world: MakeWorld) -> None:
    """What was bought is delivered even when its model has left the configuration, at the price that was quoted."""
    provider = ScriptedProvider(submit=[Pending("job")], poll=[done()])
    world = make_world(provider)
    task_id = await world.create()
    await world.step(task_id)
    renamed = replace(world.rt, catalog=type(world.rt.catalog)({}, {}, world.providers))
    row = await world.step(task_id, renamed)
    assert (row["state"], row["charged"]) == (State.COMPLETED, 40_000)
    assert len(await world.assets(task_id)) == 1
