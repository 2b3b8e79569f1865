"""Virtual keys: shown once, stored as digests, refused at once when they have ended."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway.core import keys, signing
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime, derive_secrets
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, generation
from tests.core.world import World

IMPORTED = "sk-live-imported-from-elsewhere-0815"


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world whose keys are tried."""
    return make_world(ScriptedProvider())


def files_of(world: World) -> bytes:
    """Every byte that the database has on disk, its journal included."""
    file = Path(str(world.db.url.database))
    return b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))


async def test_a_new_key_authenticates_its_caller(world: World) -> None:
    """The text that was issued stands for its id, and every other text for nobody."""
    one, two = await keys.create(world.rt, "one"), await keys.create(world.rt, "two")
    assert one.text.startswith("hg_")
    assert await keys.authenticate(world.rt, one.text) == Caller(one.id)
    assert await keys.authenticate(world.rt, two.text) == Caller(two.id)
    assert await keys.authenticate(world.rt, signing.new_key_text("hg_")) is None


@pytest.mark.parametrize("text", [None, IMPORTED], ids=["made", "imported"])
async def test_the_text_is_nowhere_in_the_database(world: World, text: str | None) -> None:
    """Neither the text nor its middle stands in any byte of the database's files; its last four characters do."""
    issued = await keys.create(world.rt, "a name to find", text=text)
    await keys.authenticate(world.rt, issued.text)
    stored = files_of(world)
    assert b"a name to find" in stored
    assert issued.text.encode() not in stored
    assert issued.text[3:-4].encode() not in stored
    (record,) = [one for one in await keys.listing(world.rt) if one.id == issued.id]
    assert record.hint == issued.text[-4:]
    assert issued.text not in repr(record)


async def test_the_digest_needs_the_installations_secret(world: World, make_world: MakeWorld) -> None:
    """A copy of the database authenticates nobody at an installation with another secret."""
    issued = await keys.create(world.rt, "one")
    thief = _with_secret(world.rt, "another-installation-has-another-one")
    assert await keys.authenticate(thief, issued.text) is None
    assert await keys.authenticate(world.rt, issued.text) == Caller(issued.id)


@pytest.mark.parametrize(
    "spoil",
    ["", "x", "hg_", "hg_short", "{}x", "{} ", "{}\n", "{:.40}", "hg_{}", "é{:.37}", "hg_" + "A" * 38,
     "a" * 257, "\0" * 20, "a key with blanks in it"],
    ids=repr,
)  # fmt: skip
async def test_a_malformed_key_costs_no_query(world: World, spoil: str) -> None:
    """A slip in a key of ours, or a text that can be no key, is refused without asking the database."""
    issued = await keys.create(world.rt, "one")
    world.db.used.clear()
    assert await keys.authenticate(world.rt, spoil.format(issued.text)) is None
    assert not world.db.used


async def test_a_key_costs_one_query(world: World) -> None:
    """Authenticating is one read, whether the key is known or not."""
    issued = await keys.create(world.rt, "one")
    world.db.used.clear()
    await keys.authenticate(world.rt, issued.text)
    assert dict(world.db.used) == {"read": 1}
    await keys.authenticate(world.rt, signing.new_key_text("hg_"))
    assert dict(world.db.used) == {"read": 2}


async def test_a_revoked_key_is_refused_at_once(world: World) -> None:
    """From the moment of its revocation on the key is nobody's; revoking it again changes nothing."""
    issued = await keys.create(world.rt, "one")
    await keys.revoke(world.rt, issued.id)
    assert await keys.authenticate(world.rt, issued.text) is None
    revoked = await keys.get(world.rt, issued.id)
    assert revoked.revoked_at == world.clock.now()
    world.clock.forward(60)
    await keys.revoke(world.rt, issued.id)
    assert await keys.get(world.rt, issued.id) == revoked


async def test_a_key_expires_to_the_moment(world: World) -> None:
    """A key works until its time has come, and not a moment longer."""
    until = world.clock.now() + dt.timedelta(hours=1)
    issued = await keys.create(world.rt, "one", expires_at=until)
    world.clock.time = until - dt.timedelta(microseconds=1)
    assert await keys.authenticate(world.rt, issued.text) == Caller(issued.id)
    world.clock.time = until
    assert await keys.authenticate(world.rt, issued.text) is None


async def test_no_key_is_made_that_is_over(world: World) -> None:
    """An end that has come is refused, in a new key and in a change, and changes nothing."""
    issued, past = await keys.create(world.rt, "one"), world.clock.now()
    before = await keys.listing(world.rt)
    with pytest.raises(GatewayError, match="expires_at must be in the future") as creating:
        await keys.create(world.rt, "two", expires_at=past)
    with pytest.raises(GatewayError, match="expires_at must be in the future") as changing:
        await keys.change(world.rt, issued.id, name="dead", expires_at=past)
    assert {creating.value.code, changing.value.code} == {"invalid_parameter"}
    assert {creating.value.param, changing.value.param} == {"expires_at"}
    assert await keys.listing(world.rt) == before


async def test_a_key_of_elsewhere_can_be_imported(world: World) -> None:
    """A text that clients already have becomes a key here, and works as it is."""
    issued = await keys.create(world.rt, "old", text=IMPORTED)
    assert issued.text == IMPORTED
    assert await keys.authenticate(world.rt, IMPORTED) == Caller(issued.id)
    assert await keys.authenticate(world.rt, IMPORTED + "x") is None


async def test_a_key_of_a_twin_can_be_imported(world: World) -> None:
    """A key that another installation made with the same prefix works here too."""
    text = signing.new_key_text("hg_")
    issued = await keys.create(world.rt, "moved", text=text)
    assert await keys.authenticate(world.rt, text) == Caller(issued.id)


@pytest.mark.parametrize(
    "text",
    ["", "x" * 15, "x" * 257, "with a space in its middle", "übungsschlüssel-0815", "line\nbreak-in-the-middle",
     "hg_looks-like-ours-but-is-not", "hg_" + "A" * 38],
    ids=repr,
)  # fmt: skip
async def test_what_could_never_authenticate_is_not_imported(world: World, text: str) -> None:
    """A text that `authenticate` would refuse, or that is too weak, is refused as a key to begin with."""
    before = await keys.listing(world.rt)
    with pytest.raises(GatewayError) as caught:
        await keys.create(world.rt, "bad", text=text)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "key")
    assert not text or text not in caught.value.message
    assert await keys.listing(world.rt) == before


async def test_a_key_is_imported_once(world: World) -> None:
    """The same text is one key, also after its revocation: it never comes back to life under another name."""
    issued = await keys.create(world.rt, "one", text=IMPORTED)
    await keys.revoke(world.rt, issued.id)
    with pytest.raises(GatewayError, match="exists already"):
        await keys.create(world.rt, "two", text=IMPORTED)
    assert await keys.authenticate(world.rt, IMPORTED) is None


async def test_keys_are_listed_in_order(world: World) -> None:
    """All keys, the newest last."""
    before = {one.id for one in await keys.listing(world.rt)}
    made = []
    for name in ("one", "two", "three"):
        world.clock.forward(1)
        made.append((await keys.create(world.rt, name)).id)
    assert [one.id for one in await keys.listing(world.rt) if one.id not in before] == made


async def test_an_unknown_key_is_not_found(world: World) -> None:
    """Reading or revoking a key that is not there says so."""
    for use in (keys.get, keys.revoke):
        with pytest.raises(GatewayError) as caught:
            await use(world.rt, "key_unknown")
        assert caught.value.code == "key_not_found"


async def test_a_revoked_keys_tasks_stay_its_own(world: World) -> None:
    """What a key has made is neither lost nor anybody else's when the key has ended."""
    issued = await keys.create(world.rt, "one")
    record = await world.accept(Caller(issued.id))
    await keys.revoke(world.rt, issued.id)
    assert (await world.row(record.id))["key_id"] == issued.id
    assert record.generation["prompt"] == generation().prompt


def _with_secret(rt: Runtime, secret: str) -> Runtime:
    settings = msgspec.structs.replace(rt.settings, secret=secret)
    return replace(rt, settings=settings, secrets=derive_secrets(settings))
