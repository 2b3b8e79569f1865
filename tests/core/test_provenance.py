"""Provenance: what is delivered says, signed, that a model made it, and what its provider has signed is kept."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import RowMapping

import migrations
from gateway.core import assets
from gateway.core.assets import Landed
from gateway.core.formats import MADE_HERE
from gateway.core.lifecycle import State
from gateway.core.provenance import COMPOSITE, MADE, Content, Notary, Origin, open_notary
from gateway.core.settings import Settings, SettingsError
from gateway.doctor import examine
from providers.contract import Kind, Operation
from tests.core.certificates import Key, issued, p256, pem
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, film, linked, png, serving
from tests.core.world import SECRET, World

CERTIFICATE, KEY = "HELIOGRAPH_PROVENANCE_CERTIFICATE_FILE", "HELIOGRAPH_PROVENANCE_KEY_FILE"
OURS = {"name": "Heliograph", "version": version("heliograph")}

# As an editor writes it that keeps its manifests on a server.
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of an operator who signs."""
    return issued(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notary]:
    """A vendor that signs what it makes."""
    notary = opened(issued(tmp_path_factory.mktemp("vendor")))
    yield notary
    notary.close()


def signed(notary: Notary, folder: Path, data: bytes, media_type: str) -> bytes:
    """A picture as this notary signs it."""
    content, written = Content(data, media_type), folder / "signed"
    written.touch()
    notary.write(content, content, Origin("the-vendors-own"), written)
    return written.read_bytes()


def opened(identity: dict[str, str]) -> Notary:
    """The notary of these settings."""
    notary = open_notary(Settings(**identity))  # type: ignore[arg-type]  # names of files only
    assert notary is not None
    return notary


@cache
def picture(kind: str) -> bytes:
    """A picture in a format."""
    file = io.BytesIO()
    Image.effect_noise((48, 32), 60).convert("RGB").save(file, kind)
    return file.getvalue()


async def delivered(world: World, **members: Any) -> tuple[RowMapping, bytes]:
    """The one asset of a new task, and its bytes, which are those that its row describes."""
    task_id = await world.create(**members)
    assert (await world.finish(task_id))["state"] == State.COMPLETED
    (asset,) = await world.assets(task_id)
    data = await world.bytes_of(asset)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (asset["size"], asset["sha256"])
    return asset, data


def told(media_type: str, data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All that is signed in a file, which must be valid, and the actions of the newest manifest."""
    reader = c2pa.Reader(media_type, io.BytesIO(data))
    assert reader.get_validation_state() == "Valid"
    store = json.loads(reader.json())
    reader.close()
    manifest = store["manifests"][store["active_manifest"]]
    return store, _actions(manifest)


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    (actions,) = [one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2"]
    return list(actions)


def software(store: dict[str, Any]) -> dict[str, str]:
    """What wrote the newest manifest."""
    (info,) = store["manifests"][store["active_manifest"]]["claim_generator_info"]
    return {name: info[name] for name in ("name", "version")}


@pytest.mark.parametrize("kind", MADE_HERE)
async def test_every_picture_says_that_a_model_made_it(
    make_world: MakeWorld, identity: dict[str, str], kind: str
) -> None:
    """In each format a valid manifest names model and gateway, and nothing of the prompt or of who asked."""
    world = make_world(ScriptedProvider(submit=[done(picture(kind))]), **identity)
    asset, data = await delivered(world)
    store, actions = told(asset["media_type"], data)
    assert asset["media_type"] == f"image/{kind}"
    assert [(one["action"], one["digitalSourceType"], one["softwareAgent"]) for one in actions] == [
        ("c2pa.created", MADE, {"name": "picture"})
    ]
    assert software(store) == OURS
    assert not any(word in data for word in (b"mirror", asset["key_id"].encode(), asset["task_id"].encode()))
    Image.open(io.BytesIO(data)).load()


async def test_what_is_fetched_is_signed_too(make_world: MakeWorld, identity: dict[str, str]) -> None:
    """A picture and a film behind URLs are signed as those that came with the answer."""
    async with serving(picture=[(200, png())], film=[(200, film())]) as files:
        world = make_world(ScriptedProvider(submit=[linked(files.url("picture"))]), **identity)
        _, data = await delivered(world)
        assert told("image/png", data)[1][0]["action"] == "c2pa.created"
        card = card_of(model={"kind": Kind.VIDEO})
        world = make_world(
            ScriptedProvider(card, submit=[linked(files.url("film")), done(film(kind="mov"))]), **identity
        )
        for media_type in ("video/mp4", "video/quicktime"):
            asset, data = await delivered(world, kind=Kind.VIDEO)
            assert asset["media_type"] == media_type
            assert told(media_type, data)[1][0]["digitalSourceType"] == MADE


async def test_a_format_without_manifests_is_kept_as_it_came(
    make_world: MakeWorld, identity: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """WebM cannot be signed, and is delivered all the same; that is no trouble, and nothing is logged of it."""
    webm = film(kind="webm", codec="libvpx")
    world = make_world(ScriptedProvider(card_of(model={"kind": Kind.VIDEO}), submit=[done(webm)]), **identity)
    assert (await delivered(world, kind=Kind.VIDEO))[1] == webm
    assert not [one for one in caplog.records if one.name == assets.__name__]


@pytest.mark.parametrize(
    ("operation", "source"),
    [(Operation.EDIT, COMPOSITE), (Operation.UPSCALE, COMPOSITE), (Operation.VARIATION, MADE)],
)
async def test_what_was_made_of_a_picture_says_so(
    make_world: MakeWorld, identity: dict[str, str], operation: Operation, source: str
) -> None:
    """An edit is a composite of what was sent and what the model made; a variation is the model's alone."""
    card = card_of(model={"operations": (operation,)})
    world = make_world(ScriptedProvider(card, submit=[done()]), **identity)
    (action,) = told("image/png", (await delivered(world, operation=operation))[1])[1]
    assert action["digitalSourceType"] == source


async def test_what_a_vendor_has_signed_is_not_touched(make_world: MakeWorld, vendor: Notary, tmp_path: Path) -> None:
    """Where we sign nothing, the vendor's very bytes are kept, inline and fetched, with its manifest whole in them."""
    theirs = signed(vendor, tmp_path, png(), "image/png")
    async with serving(a=[(200, theirs)]) as files:
        answers = [done(theirs), linked(files.url("a")), done(theirs)]
        world = make_world(ScriptedProvider(submit=answers))
        for asked in ({}, {}, {"output_format": "png"}):
            _, data = await delivered(world, parameters=asked)
            assert data == theirs
    assert told("image/png", data)[1][0]["softwareAgent"] == {"name": "the-vendors-own"}


@pytest.mark.parametrize(
    ("kind", "done_to_it"), [("png", ["c2pa.opened"]), ("webp", ["c2pa.opened", "c2pa.converted"])]
)
async def test_what_a_vendor_has_signed_goes_along_in_ours(
    make_world: MakeWorld, identity: dict[str, str], vendor: Notary, tmp_path: Path, kind: str, done_to_it: list[str]
) -> None:
    """Its file is the parent of ours, with the vendor's manifest found valid, also where we had to convert it."""
    world = make_world(ScriptedProvider(submit=[done(signed(vendor, tmp_path, png(), "image/png"))]), **identity)
    _, data = await delivered(world, parameters={"output_format": kind})
    store, actions = told(f"image/{kind}", data)
    assert [one["action"] for one in actions] == done_to_it
    assert (actions[0]["digitalSourceType"], actions[0]["description"]) == (MADE, "Made by the model picture.")
    assert software(store) == OURS
    (parent,) = store["manifests"][store["active_manifest"]]["ingredients"]
    assert parent["relationship"] == "parentOf"
    assert "assertion.dataHash.match" in {
        one["code"] for one in parent["validation_results"]["activeManifest"]["success"]
    }
    (vendors,) = _actions(store["manifests"][parent["active_manifest"]])
    assert vendors["softwareAgent"] == {"name": "the-vendors-own"}


async def test_a_result_that_cannot_be_signed_is_kept(
    make_world: MakeWorld, identity: dict[str, str], vendor: Notary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture whose manifest is garbage is delivered and charged as it came, and the log names its task."""
    theirs = signed(vendor, tmp_path, picture("JPEG"), "image/jpeg")
    place = theirs.index(b"c2pa.signature")
    garbled = theirs[: place - 30] + bytes(60) + theirs[place + 30 :]
    world = make_world(ScriptedProvider(submit=[done(garbled)]), **identity)
    asset, data = await delivered(world)
    assert data == garbled
    (said,) = [one.getMessage() for one in caplog.records if one.name == assets.__name__]
    assert said.startswith(f"media/{asset['task_id']}/1-0 is kept unsigned: ")


async def test_nothing_is_fetched_because_a_file_asks_for_it(make_world: MakeWorld, identity: dict[str, str]) -> None:
    """A picture that names a URL of its manifest makes nobody call there, and is delivered as it came."""
    async with serving(manifest=[(200, b"")]) as files:
        url = files.url("manifest")
        elsewhere = PngInfo()
        elsewhere.add_itxt("XML:com.adobe.xmp", XMP.format(url=url))
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=elsewhere)
        world = make_world(ScriptedProvider(submit=[done(file.getvalue())]), **identity)
        assert (await delivered(world))[1] == file.getvalue()
        assert files.asked == []


async def test_who_stores_a_result_late_changes_nothing(make_world: MakeWorld, identity: dict[str, str]) -> None:
    """A process that lost its turn signs once more; the bytes that the other recorded stay what they were."""
    world = make_world(ScriptedProvider(submit=[done()]), **identity)
    asset, data = await delivered(world)
    place = assets.object_key(asset["task_id"], 1, 0)
    late = await assets.keep(world.rt, "image", place, Landed(0), png(), Origin("picture"))
    assert late.sha256 != asset["sha256"]
    assert late.key != asset["object_key"]
    assert await world.bytes_of(asset) == data


@pytest.mark.parametrize(
    "key",
    [
        p256(), ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "p521", "ed25519", "rsa"],
)  # fmt: skip
def test_the_algorithm_is_the_keys(tmp_path: Path, key: Key) -> None:
    """Every kind of key that C2PA knows signs, and no setting has to name it."""
    notary = opened(issued(tmp_path, key))
    told("image/png", signed(notary, tmp_path, png(), "image/png"))
    notary.close()


def test_without_the_extra_it_is_said_what_to_install(
    identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sets it up and has not installed it learns of it at the start; who does not, needs nothing."""
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(SettingsError) as raised:
        opened(identity)
    assert str(raised.value) == f'{CERTIFICATE} needs pip install "heliograph[provenance]"'
    assert open_notary(Settings()) is None


WRONG = {
    "no certificate": ({"provenance_certificate_file": None}, f"{CERTIFICATE} and {KEY} need each other"),
    "no key": ({"provenance_key_file": None}, f"{CERTIFICATE} and {KEY} need each other"),
    "no file": ({"provenance_key_file": "/no.pem"}, f"{KEY}: /no.pem cannot be read: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_files_that_are_not_there_are_named(
    identity: dict[str, str], changes: dict[str, str | None], said: str
) -> None:
    """Both settings are needed, and what they name must be there to be read."""
    with pytest.raises(SettingsError) as raised:
        open_notary(Settings(**identity | changes))  # type: ignore[arg-type]  # names of files only
    assert str(raised.value) == said


SECP256K1 = pem(ec.generate_private_key(ec.SECP256K1()))
ENCRYPTED = pem(p256(), serialization.BestAvailableEncryption(b"password"))
NOT_A_KEY = f"{KEY} must name a file with a private key in PEM, not encrypted"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("chain.pem", b"", f"{CERTIFICATE} must name a file of certificates in PEM"),
        ("chain.pem", b"\0nonsense", f"{CERTIFICATE} must name a file of certificates in PEM"),
        ("key.pem", b"", NOT_A_KEY), ("key.pem", ENCRYPTED, NOT_A_KEY),
        ("key.pem", SECP256K1, f"{KEY} must be a key of P-256, P-384, P-521, Ed25519 or RSA"),
        ("key.pem", pem(p256()), f"{KEY} is not the key of the first certificate in {CERTIFICATE}"),
    ],
    ids=["empty", "nonsense", "no key", "encrypted", "another curve", "another's key"],
)  # fmt: skip
def test_files_that_make_no_sense_are_named(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    """What is wrong with a certificate or a key is said at the start, with its setting and without its content."""
    settings = issued(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        opened(settings)
    assert str(raised.value) == said


def test_a_certificate_that_has_ended_signs_nothing(tmp_path: Path) -> None:
    """That nobody would believe the signatures is learnt at the start, not from the results."""
    with pytest.raises(SettingsError, match=f"{CERTIFICATE}: nothing can be signed with it: "):
        opened(issued(tmp_path, days=-1))


async def test_the_doctor_tries_a_signature(tmp_path: Path) -> None:
    """It says until when the certificate holds, or what is wrong; where nothing is signed it says nothing."""
    identity = issued(tmp_path)
    ours: dict[str, Any] = {"data_dir": str(tmp_path), "secret": SECRET}
    await migrations.upgrade(Settings(**ours).database)
    assert not [one for one in await examine(Settings(**ours)) if one.part == "provenance"]
    (well,) = [one for one in await examine(Settings(**ours | identity)) if one.part == "provenance"]
    assert well.well
    assert well.words.startswith("A probe was signed; the certificate ends on 20")
    (tmp_path / "key.pem").write_bytes(pem(p256()))
    (ill,) = [one for one in await examine(Settings(**ours | identity)) if one.part == "provenance"]
    assert (ill.well, ill.words) == (False, f"{KEY} is not the key of the first certificate in {CERTIFICATE}.")
