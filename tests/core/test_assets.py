"""Assets: whose they are, how they are listed and deleted, and which links open them."""

from __future__ import annotations

import datetime as dt
from collections import deque
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import update

from gateway.core import assets, erasing, ids
from gateway.core.assets import AssetRecord, Landed
from gateway.core.errors import GatewayError
from gateway.core.provenance import Origin
from gateway.core.tables import ASSETS
from providers.contract import Kind, Output
from storage.memory import MemoryStore
from tests.core.conftest import MakeWorld
from tests.core.stores import keys, objects_of
from tests.core.test_storing import filming
from tests.core.vendors import ScriptedProvider, done, film, png
from tests.core.world import CALLER, OTHER, World

BASE = "https://gateway.test"


async def delivered(world: World, *pictures: bytes, caller: Any = CALLER) -> list[AssetRecord]:
    """The assets of a task that delivered these pictures."""
    world.providers["vendor"].script["submit"] = deque([done(*pictures)])
    task_id = await world.create(caller, n=len(pictures))
    await world.step(task_id)
    found, _ = await assets.listing(world.rt, caller.key_id, kind=None, after=None, limit=100, descending=False)
    return [one for one in found if one.task_id == task_id]


def asked(link: str) -> tuple[str, str, str]:
    """File name, expiry and signature of a link."""
    parts = urlsplit(link)
    query = parse_qs(parts.query)
    return parts.path.rpartition("/")[2], query["exp"][0], query["sig"][0]


async def test_an_asset_is_its_owners_alone(make_world: MakeWorld) -> None:
    """Its owner finds it; another key gets the answer for one that does not exist; without a key all are found."""
    world = make_world(ScriptedProvider())
    (asset,) = await delivered(world, png())
    assert await assets.get(world.rt, asset.id, CALLER.key_id) == asset
    assert await assets.get(world.rt, asset.id, None) == asset
    answers = []
    for asset_id in (asset.id, ids.new("img", world.clock.now())):
        with pytest.raises(GatewayError) as caught:
            await assets.get(world.rt, asset_id, OTHER.key_id)
        answers.append((caught.value.code, caught.value.message))
    assert answers[0] == answers[1] == ("media_not_found", "There is no such media.")


@pytest.mark.parametrize(
    "asset_id", ["", "img_", "task_01pd3k6c00x8m2h5vq7jt4wyzn", "img_01PD3K6C00X8M2H5VQ7JT4WYZN", "../x"]
)
async def test_what_is_no_asset_id_costs_no_query(make_world: MakeWorld, asset_id: str) -> None:
    """An id of the wrong form is not looked up."""
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError, match="no such media"):
        await assets.get(world.rt, asset_id, CALLER.key_id)
    assert not world.db.used


async def test_the_bytes_come_back_whole(make_world: MakeWorld) -> None:
    """What was delivered is read as it was; bytes that have left the store are not found."""
    world = make_world(ScriptedProvider())
    (asset,) = await delivered(world, png(48, 32))
    assert await assets.whole(world.rt, asset) == png(48, 32)
    await world.rt.objects.delete(asset.object_key)
    with pytest.raises(GatewayError) as caught:
        await assets.whole(world.rt, asset)
    assert caught.value.code == "media_not_found"


async def test_every_object_of_an_asset_is_named(make_world: MakeWorld) -> None:
    """All that a task has stored is named by its assets: what they did not name would be taken for an orphan."""
    world = make_world(ScriptedProvider())
    found = await delivered(world, png(48, 32), png(32, 48))
    stored = await keys(world.rt.objects, "")
    assert stored == objects_of(*found)
    assert {*stored} <= {key for one in found for key in assets.object_keys(one)}


async def test_every_object_of_a_film_is_named(make_world: MakeWorld) -> None:
    """Also its sheet of frames; and all of them leave the store with it."""
    world = make_world(filming(done(film())))
    task_id = await world.create(kind=Kind.VIDEO)
    await world.finish(task_id)
    (asset,) = (await world.get(task_id)).assets
    place = asset.object_key
    assert await keys(world.rt.objects, "") == [place, f"{place}.spritesheet", f"{place}.thumbnail"]
    assert {*await keys(world.rt.objects, "")} == {*assets.object_keys(asset)}
    await erasing.delete(world.rt, asset)
    assert await keys(world.rt.objects, "") == []


async def test_a_deleted_asset_is_gone(make_world: MakeWorld) -> None:
    """No list and no id finds it, its bytes have left the store, and deleting it again is no error."""
    world = make_world(ScriptedProvider())
    kept, gone = await delivered(world, png(48, 32), png(32, 48))
    await erasing.delete(world.rt, gone)
    with pytest.raises(GatewayError, match="no such media"):
        await assets.get(world.rt, gone.id, CALLER.key_id)
    found, more = await assets.listing(world.rt, CALLER.key_id, kind="image", after=None, limit=10, descending=True)
    assert (found, more) == ([kept], False)
    assert await world.rt.objects.find(gone.object_key) is None
    assert await world.rt.objects.find(kept.object_key) is not None
    await erasing.delete(world.rt, gone)


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_have_no_gaps(make_world: MakeWorld, descending: bool) -> None:
    """Page by page each asset of the key comes once, in order, and the last page says that it is."""
    world = make_world(ScriptedProvider())
    made = []
    for _ in range(3):
        made += [one.id for one in await delivered(world, png(48, 32), png(32, 48))]
        await delivered(world, png(), caller=OTHER)
        world.clock.forward(1)
    found: list[str] = []
    more, after = True, None
    while more:
        page, more = await assets.listing(
            world.rt, CALLER.key_id, kind="image", after=after, limit=4, descending=descending
        )
        found += [one.id for one in page]
        after = found[-1]
    assert found == sorted(made, reverse=descending)
    assert await assets.listing(world.rt, CALLER.key_id, kind="video", after=None, limit=4, descending=False) == (
        [],
        False,
    )


@pytest.mark.parametrize("descending", [False, True])
async def test_pictures_and_films_stand_by_age(make_world: MakeWorld, descending: bool) -> None:
    """Whatever their ids begin with, and wherever a page ends."""
    world = make_world(ScriptedProvider())
    made = []
    for kind in ("image", "video") * 3:
        (one,) = await delivered(world, png())
        made.append(one.id.replace("img_", f"{assets.PREFIXES[kind]}_"))
        async with world.db.write_one() as connection:
            await connection.execute(update(ASSETS).where(ASSETS.c.id == one.id).values(id=made[-1], kind=kind))
        world.clock.forward(1)
    found: list[str] = []
    more, after = True, None
    while more:
        page, more = await assets.listing(
            world.rt, CALLER.key_id, kind=None, after=after, limit=2, descending=descending
        )
        found += [one.id for one in page]
        after = found[-1]
    assert found == (made[::-1] if descending else made)


async def test_a_link_opens_its_asset_until_it_ends(make_world: MakeWorld) -> None:
    """The link works to the second that it names, without a key, on the host that the client called."""
    world = make_world(ScriptedProvider(), link_seconds=600)
    (asset,) = await delivered(world, png())
    link = assets.link(world.rt, asset, BASE + "/")
    assert link.startswith(f"{BASE}/media/{asset.id}.png?exp=")
    name, expires, signature = asked(link)
    assert dt.datetime.fromtimestamp(int(expires), dt.UTC) == world.clock.now() + dt.timedelta(seconds=600)
    assert assets.link_is_valid(world.rt, name, expires, signature)
    world.clock.forward(600)
    assert assets.link_is_valid(world.rt, name, expires, signature)
    world.clock.forward(1)
    assert not assets.link_is_valid(world.rt, name, expires, signature)


FORGED = [
    ("{name}", "{later}", "{signature}"),
    ("{name}", "999999999999", "{signature}"),
    ("{name}", "9" * 400, "{signature}"),
    ("{name}", "-1", "{signature}"),
    ("{name}", "", "{signature}"),
    ("{name}", "1e12", "{signature}"),
    ("{name}", "٣" * 10, "{signature}"),
    ("{name}", "{expires}", ""),
    ("{name}", "{expires}", "{signature:.21}"),
    ("{name}", "{expires}", "{signature}A"),
    ("{name}", "{expires}", "é" * 22),
    ("{name}", "{expires}", "\ud800" * 22),
    ("{name:.30}.html", "{expires}", "{signature}"),
    ("{name}.html", "{expires}", "{signature}"),
    ("", "{expires}", "{signature}"),
]


@pytest.mark.parametrize("forged", FORGED, ids=range(len(FORGED)))
async def test_a_forged_link_opens_nothing(make_world: MakeWorld, forged: tuple[str, str, str]) -> None:
    """Another name, time or signature than the ones that were issued together is refused, however it is spelled."""
    world = make_world(ScriptedProvider())
    (asset,) = await delivered(world, png())
    name, expires, signature = asked(assets.link(world.rt, asset, BASE))
    words = {"name": name, "expires": expires, "later": int(expires) + 1, "signature": signature}
    assert not assets.link_is_valid(world.rt, *(one.format(**words) for one in forged))
    assert assets.link_is_valid(world.rt, name, expires, signature)


async def test_links_are_as_the_settings_want_them(make_world: MakeWorld) -> None:
    """A public base replaces the host that was called, public objects need no signature, presigned ones the store's."""
    world = make_world(ScriptedProvider(), public_url="https://media.test/")
    (asset,) = await delivered(world, png())
    assert assets.link(world.rt, asset, BASE).startswith(f"https://media.test/media/{asset.name}?exp=")
    public = make_world(ScriptedProvider(), media_links="public", media_public_url="https://cdn.test/bucket/")
    assert assets.link(public.rt, asset, BASE) == f"https://cdn.test/bucket/{asset.object_key}"
    presigned = make_world(ScriptedProvider(), media_links="presigned")
    assert assets.link(presigned.rt, asset, BASE).startswith(f"{BASE}/media/{asset.name}?exp=")
    signed = make_world(ScriptedProvider(), media_links="presigned", objects=_Presigning())
    assert assets.link(signed.rt, asset, BASE) == f"https://s3.test/{asset.object_key}?for=86400&type=image/png"


def test_an_attempts_outputs_have_places_of_their_own() -> None:
    """The same attempt stores an output in the same place again, another attempt or output elsewhere."""
    places = {assets.object_key("task_1", attempt, position) for attempt in (1, 2) for position in (0, 1)}
    assert len(places) == 4
    assert assets.object_key("task_1", 1, 0) == assets.object_key("task_1", 1, 0)


def test_what_a_job_promises_is_not_ours_yet() -> None:
    """Before any byte has come, an output is a position, a URL if it has one, and the vendor's words."""
    outputs = (Output(url="https://v.test/1", revised_prompt="a sun"), Output(data=b"bytes", width=9))
    assert assets.expected(outputs) == [Landed(0, url="https://v.test/1", revised_prompt="a sun"), Landed(1)]


async def test_a_small_picture_has_a_link_of_its_own(make_world: MakeWorld) -> None:
    """It is found under its own name, lies beside its asset, and is gone from the store with it."""
    world = make_world(ScriptedProvider())
    (asset,) = await delivered(world, png(48, 32))
    thumbnail = asset.picture("thumbnail")
    assert thumbnail is not None
    assert (thumbnail.name, thumbnail.object_key) == (f"{asset.id}.thumbnail.webp", f"{asset.object_key}.thumbnail")
    name, expires, signature = asked(assets.link(world.rt, thumbnail, BASE))
    assert assets.link_is_valid(world.rt, name, expires, signature)
    assert assets.file_of(asset, name) == thumbnail
    assert assets.file_of(asset, asset.name) == asset
    assert asset.picture("spritesheet") is None
    await erasing.delete(world.rt, asset)
    assert [one async for one in world.rt.objects.list()] == []


@pytest.mark.parametrize(
    "name", ["{id}", "{id}.jpg", "{id}.thumbnail", "{id}.thumbnail.png", "{id}.spritesheet.jpg", ""]
)
async def test_a_name_that_no_file_has_finds_nothing(make_world: MakeWorld, name: str) -> None:
    """Only the very names that links are made with lead to bytes."""
    world = make_world(ScriptedProvider())
    (asset,) = await delivered(world, png(48, 32))
    with pytest.raises(GatewayError, match="no such media"):
        assets.file_of(asset, name.format(id=asset.id))


async def test_kept_bytes_are_described_by_what_was_measured(make_world: MakeWorld) -> None:
    """A vendor's claims are not believed: what is no picture is flawed, and is not stored."""
    world = make_world(ScriptedProvider())
    kept = await assets.keep(world.rt, "image", "media/a", Landed(0), png(48, 32), Origin("picture"))
    assert (kept.key, kept.media_type, kept.width, kept.height, kept.flaw) == ("media/a", "image/png", 48, 32, None)
    flawed = await assets.keep(world.rt, "image", "media/b", Landed(0), b"<html>", Origin("picture"))
    assert (flawed.key, flawed.flaw) == (
        None,
        "it is no picture in a format that is taken: PNG, JPEG, WEBP, GIF or AVIF",
    )
    assert await world.rt.objects.find("media/b") is None


class _Presigning(MemoryStore):
    """A store with links of its own."""

    def link(self, key: str, media_type: str, seconds: int) -> str | None:
        return f"https://s3.test/{key}?for={seconds}&type={media_type}"
