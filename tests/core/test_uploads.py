"""Uploads: what a caller's picture becomes, which are refused, and that the provider gets it however late it is."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from gateway.core import accounts, assets, tasks, uploads
from gateway.core.accounts import Budget, Limits
from gateway.core.errors import GatewayError
from gateway.core.inputs import Upload, assigned
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from gateway.core.uploads import Given
from providers.card import InputRule, ModelCard
from providers.contract import Broken, Kind, Operation, Role, Unavailable
from storage.memory import MemoryStore
from storage.objects import ObjectError
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, serving
from tests.core.world import CALLER, OTHER, World

ROLES = {Role.IMAGE: InputRule(max=2), Role.MASK: InputRule(), Role.REFERENCE: InputRule(max=1)}
Draw = Callable[..., Given]


def drawing(mode: str = "RGB", size: tuple[int, int] = (64, 48), kind: str = "PNG", **options: Any) -> bytes:
    """A picture whose upper left pixel is red; where it can be, the next one is transparent."""
    image = Image.new(mode, size, "white")
    if mode == "RGBA":
        image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((0, 0), Image.new("RGB", (1, 1), "red").convert(mode).getpixel((0, 0)) or 0)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def given(tmp_path: Path) -> Draw:
    """Makes a picture as it comes with a form."""

    def make(data: bytes | None = None, role: Role = Role.IMAGE, field: str = "image") -> Given:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        path.write_bytes(drawing() if data is None else data)
        return Given(role, field, file=path)

    return make


def editing(**rules: InputRule) -> ScriptedProvider:
    """A vendor that edits pictures."""
    inputs = {Role(name): rule for name, rule in rules.items()} or ROLES
    card = card_of(model={"inputs": inputs, "operations": (Operation.GENERATION, Operation.EDIT)})
    return ScriptedProvider(card, submit=[done()])


def wanted(*pictures: Given) -> Wanted:
    """An edit of these pictures."""
    return Wanted(generation(operation=Operation.EDIT), pictures=pictures)


async def cleaned(world: World, one: Given) -> tuple[Upload, Image.Image]:
    """What becomes of a picture."""
    async with uploads.received(world.rt, CALLER, [one], len) as (upload,):
        image = Image.open(upload.place)
        image.load()
        return upload, image


async def refused(world: World, *pictures: Given) -> GatewayError:
    """The error that an edit of these is refused with; nothing of it is left."""
    with pytest.raises(GatewayError) as caught:
        await tasks.create(world.rt, CALLER, wanted(*pictures), here=False)
    assert [one async for one in world.rt.objects.list()] == []
    return caught.value


async def test_the_provider_gets_the_picture(make_world: MakeWorld, given: Draw) -> None:
    """Role, type, size and bytes arrive; the row holds a key and facts; what was sent lies in our store."""
    provider = editing(image=InputRule(min=1), mask=InputRule(min=1))
    world = make_world(provider)
    mask = given(drawing("RGBA"), Role.MASK, "mask")
    task = await tasks.create(world.rt, CALLER, wanted(given(), mask), here=False)
    row = await world.finish(task.id)
    assert row["state"] == State.COMPLETED
    image, hole = provider.orders[0].inputs
    assert (image.role, image.media_type, image.width, image.height) == (Role.IMAGE, "image/png", 64, 48)
    assert (hole.role, Image.open(io.BytesIO(hole.data)).mode) == (Role.MASK, "RGBA")
    assert [one["place"] for one in row["inputs"]] == [f"inputs/{task.id}/0", f"inputs/{task.id}/1"]
    assert b"".join([chunk async for chunk in world.rt.objects.read(row["inputs"][0]["place"])]) == image.data


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_picture_is_turned_upright(make_world: MakeWorld, given: Draw, orientation: int) -> None:
    """However a camera was held, the pixels stand as they are to be seen, and nobody has to know of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upload, image = await cleaned(make_world(editing()), given(drawing(kind="JPEG", exif=exif, quality=100)))
    assert (upload.width, upload.height) == ((64, 48) if orientation < 5 else (48, 64))
    assert image.size == (upload.width, upload.height)
    assert image.getexif() == {}


async def test_metadata_is_gone(make_world: MakeWorld, given: Draw) -> None:
    """Neither places, nor comments, nor what hides behind the end of the file goes on to anybody."""
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    texts = PngInfo()
    texts.add_text("Comment", "a secret place")
    world = make_world(editing())
    for data in (
        drawing(kind="JPEG", exif=exif, comment=b"a secret place", xmp=b"<x>a secret place</x>"),
        drawing(kind="PNG", exif=exif, pnginfo=texts),
        drawing(kind="WEBP", exif=exif, xmp=b"<x>a secret place</x>"),
    ):
        async with uploads.received(world.rt, CALLER, [given(data + b"a secret place")], len) as (upload,):
            assert b"secret" not in Path(upload.place).read_bytes()  # noqa: ASYNC240 - a small file of a test


async def test_a_jpeg_keeps_its_quality(make_world: MakeWorld, given: Draw) -> None:
    """Where nothing has to change, nothing is compressed harder, nor blown up."""
    data = drawing(kind="JPEG", quality=60)
    _, image = await cleaned(make_world(editing()), given(data))
    before = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImageFile)
    assert isinstance(before, JpegImageFile)
    assert (image.quantization, image.layer) == (before.quantization, before.layer)


@pytest.mark.parametrize(
    ("mode", "kind", "media_type", "kept"),
    [
        ("RGB", "PNG", "image/png", "RGB"), ("RGBA", "PNG", "image/png", "RGBA"), ("L", "PNG", "image/png", "L"),
        ("1", "PNG", "image/png", "L"), ("P", "PNG", "image/png", "RGB"), ("I;16", "PNG", "image/png", "L"),
        ("LA", "PNG", "image/png", "RGBA"), ("CMYK", "JPEG", "image/jpeg", "RGB"), ("L", "JPEG", "image/jpeg", "L"),
        ("RGBA", "WEBP", "image/png", "RGBA"), ("RGB", "WEBP", "image/jpeg", "RGB"), ("P", "GIF", "image/png", "RGB"),
        ("RGB", "AVIF", "image/jpeg", "RGB"),
    ],
)  # fmt: skip
async def test_every_picture_becomes_a_plain_one(
    make_world: MakeWorld, given: Draw, mode: str, kind: str, media_type: str, kept: str
) -> None:
    """Whatever was sent, what goes on is a JPEG or a PNG of eight bits, so that every vendor can read it."""
    upload, image = await cleaned(make_world(editing()), given(drawing(mode, kind=kind)))
    assert (upload.media_type, image.mode, upload.transparent) == (media_type, kept, kept == "RGBA")


async def test_sixteen_bits_are_cut_and_not_clipped(make_world: MakeWorld, given: Draw) -> None:
    """A grey of sixteen bits stays grey."""
    file = io.BytesIO()
    Image.new("I;16", (8, 8), 0x8000).save(file, "PNG")
    _, image = await cleaned(make_world(editing()), given(file.getvalue()))
    assert image.getpixel((0, 0)) == 0x80


async def test_colours_of_its_own_become_those_of_everybody(make_world: MakeWorld, given: Draw) -> None:
    """A profile is applied and left out; one that makes no sense is only left out."""
    world = make_world(editing())
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (lab, b"nonsense"):
        _, image = await cleaned(world, given(drawing(icc_profile=profile)))
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert "icc_profile" not in image.info


async def test_of_moving_pictures_the_first_frame_counts(make_world: MakeWorld, given: Draw) -> None:
    """An animation is taken as the picture that it begins with."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    _, image = await cleaned(make_world(editing()), given(file.getvalue()))
    assert image.getpixel((0, 0)) == (0, 0, 255)


HUGE = drawing("1", (9000, 9000))
NONE = "image: it is no picture in a format that is taken: PNG, JPEG, WEBP, GIF or AVIF."
HARMED = "image: it is damaged or incomplete. Formats that are taken: PNG, JPEG, WEBP, GIF or AVIF."
NO_WAY = "it must be an http(s) URL, a data URL in base64, or the id of media of yours."
BAD = [
    (b"", "image: it is empty."), (b"\0", NONE), (b"<svg/>", NONE), (b"%PDF-1.7", NONE), (b"PK\3\4", NONE),
    (drawing(kind="JPEG")[:200], HARMED), (drawing()[:60], HARMED), (drawing(kind="TIFF"), NONE),
    (drawing(kind="BMP"), NONE), (drawing(kind="ICO"), NONE), (HUGE, "it is 9000x9000, and may have at most"),
    (drawing("1", (15000, 15000)), "and has far more."),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), BAD)
async def test_a_bad_picture_is_refused(make_world: MakeWorld, given: Draw, data: bytes, said: str) -> None:
    """What cannot be decoded, or is too large to be, is the caller's mistake, by its field."""
    error = await refused(make_world(editing()), given(data))
    assert (error.code, error.param) == ("invalid_image", "image")
    assert said in error.message


@pytest.mark.parametrize(
    ("mask", "said"),
    [(drawing("RGB"), "must have an alpha channel"), (drawing("RGBA", (64, 64)), "must have the size of the picture")],
)
async def test_a_mask_must_fit(make_world: MakeWorld, given: Draw, mask: bytes, said: str) -> None:
    """A mask that says nothing, or something of another picture, is refused before anything is spent."""
    error = await refused(make_world(editing()), given(), given(mask, Role.MASK, "mask"))
    assert (error.code, error.param) == ("invalid_image", "mask")
    assert said in error.message


@pytest.mark.parametrize(
    ("rules", "count", "code", "said"),
    [
        ({"image": InputRule(min=1)}, 0, "missing_parameter", "needs image"),
        ({"image": InputRule()}, 2, "invalid_parameter", "at most 1 of image"),
        ({"style": InputRule()}, 1, "unsupported_parameter", "takes no image"),
        ({"image": InputRule(min_edge=65)}, 1, "invalid_image", "64x48; its edges must be from 65"),
        ({"image": InputRule(max_edge=60)}, 1, "invalid_image", "to 60 pixels"),
        ({"image": InputRule(min_pixels=9999)}, 1, "invalid_image", "from 9999 to"),
        ({"image": InputRule(max_bytes=10)}, 1, "invalid_image", "at most 10 are taken"),
    ],
)
async def test_what_a_model_cannot_take_is_refused(
    make_world: MakeWorld, given: Draw, rules: dict[str, InputRule], count: int, code: str, said: str
) -> None:
    """By its card, by the name of the member, before anything is stored or spent."""
    error = await refused(make_world(editing(**rules)), *(given() for _ in range(count)))
    assert (error.code, error.param) == (code, "image")
    assert said in error.message


def test_pictures_find_their_roles() -> None:
    """Plain pictures are those to work on first, then references; a film begins with one."""

    def roles(rules: dict[Role, InputRule], *given: Role) -> list[Role]:
        return assigned(ModelCard("m", Kind.IMAGE, (Operation.EDIT,), inputs=rules), given)

    image, reference, mask, frame = Role.IMAGE, Role.REFERENCE, Role.MASK, Role.FIRST_FRAME
    assert roles(ROLES, image, image, image, mask) == [image, image, reference, mask]
    assert roles({frame: InputRule(), reference: InputRule(max=3)}, image, image) == [frame, reference]
    assert roles({reference: InputRule(max=3)}, image, image) == [reference, reference]
    assert roles({}, image) == [image]


async def test_a_model_that_takes_no_jpeg_gets_a_png(make_world: MakeWorld, given: Draw) -> None:
    """What a vendor cannot read is converted for it, when it is sent."""
    provider = editing(image=InputRule(media_types=("image/png",)))
    world = make_world(provider)
    task = await tasks.create(world.rt, CALLER, wanted(given(drawing(kind="JPEG"))), here=False)
    await world.finish(task.id)
    (image,) = provider.orders[0].inputs
    assert (image.media_type, Image.open(io.BytesIO(image.data)).format) == ("image/png", "PNG")


async def test_a_retry_has_pictures_of_its_own(make_world: MakeWorld, given: Draw) -> None:
    """What becomes of the failed task's pictures is nothing to the new one."""
    provider = editing()
    provider.script["submit"].appendleft(Broken("no"))
    world = make_world(provider)
    first = await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    assert (await world.finish(first.id))["state"] == State.FAILED
    second = await tasks.retry(world.rt, CALLER, first.id)
    await uploads.drop(world.rt, [Upload(**one) for one in (await world.row(first.id))["inputs"]])
    assert (await world.finish(second.id))["state"] == State.COMPLETED
    assert provider.orders[0].inputs[0].data == provider.orders[1].inputs[0].data


async def test_a_refused_request_leaves_nothing(make_world: MakeWorld, given: Draw) -> None:
    """A picture of a task that was not accepted is taken away again."""
    world = make_world(editing(), key_concurrency=1, concurrency_overflow="refuse")
    await world.create()
    with pytest.raises(GatewayError, match="runs 1 task already, as many as it may"):
        await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    assert [one async for one in world.rt.objects.list()] == []


class Moody(MemoryStore):
    """A store that can be made to fail."""

    broken = False

    def read(self, key: str, start: int = 0, end: int | None = None) -> Any:
        if self.broken:
            raise ObjectError("away")
        return super().read(key, start, end)

    async def put(self, key: str, data: Any, media_type: str) -> Any:
        if self.broken:
            raise ObjectError("away")
        return await super().put(key, data, media_type)


async def test_nothing_is_sent_while_its_pictures_cannot_be_read(make_world: MakeWorld, given: Draw) -> None:
    """The store is waited for, without an attempt; once it is back the order goes out, whole."""
    provider, store = editing(), Moody()
    world = make_world(provider, objects=store)
    task = await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    store.broken = True
    row = await world.step(task.id)
    assert (row["state"], provider.orders, await world.attempts(task.id)) == (State.QUEUED, [], [])
    store.broken = False
    assert (await world.finish(task.id))["state"] == State.COMPLETED
    assert len(provider.orders[0].inputs) == 1


async def test_a_store_that_is_away_refuses_at_once(make_world: MakeWorld, given: Draw) -> None:
    """Without its picture a task is not made."""
    store = Moody()
    world = make_world(editing(), objects=store)
    store.broken = True
    with pytest.raises(GatewayError) as caught:
        await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    assert caught.value.code == "storage_unavailable"


async def test_pictures_that_are_gone_end_the_task(make_world: MakeWorld, given: Draw) -> None:
    """Somebody emptied the store: the task says so, and nothing is bought."""
    provider = editing()
    world = make_world(provider)
    task = await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    await world.rt.objects.delete(f"inputs/{task.id}/0")
    row = await world.finish(task.id)
    assert (row["error_code"], row["error_message"]) == ("internal_error", "The pictures of the task are gone.")
    assert provider.orders == []


async def test_another_route_gets_the_pictures_too(make_world: MakeWorld, given: Draw) -> None:
    """Each route takes them in the roles of its own card."""
    first, second = editing(), ScriptedProvider(
        card_of("second", model={"inputs": {Role.REFERENCE: InputRule(max=4)}, "operations": (Operation.EDIT,)}),
        submit=[done()],
    )  # fmt: skip
    first.script["submit"].appendleft(Unavailable("away"))
    world = make_world(first, second)
    task = await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    await world.finish(task.id)
    assert [one.inputs[0].role for one in (*first.orders, *second.orders)] == [Role.IMAGE, Role.REFERENCE]


async def test_a_model_that_needs_a_picture_is_served(make_world: MakeWorld, given: Draw) -> None:
    """The picture counts as there when the request is admitted, when it is priced, and when its route is chosen."""
    provider = editing(image=InputRule(min=1))
    world = make_world(provider)
    assert (await tasks.plan(world.rt, CALLER, wanted(given()))).candidates
    task = await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    assert (await world.finish(task.id))["state"] == State.COMPLETED
    assert len(provider.orders) == 1


async def test_a_route_that_cannot_take_the_pictures_is_left_out(make_world: MakeWorld, given: Draw) -> None:
    """A mask goes to the route that takes one, though another one is first; and so a dry run says."""
    first, second = (
        editing(image=InputRule()),
        ScriptedProvider(card_of("second", model={"inputs": ROLES, "operations": (Operation.EDIT,)}), submit=[done()]),
    )
    world = make_world(first, second)
    work = wanted(given(), given(drawing("RGBA"), Role.MASK, "mask"))
    assert [one.route.provider for one in (await tasks.plan(world.rt, CALLER, work)).candidates] == ["second"]
    await world.finish((await tasks.create(world.rt, CALLER, work, here=False)).id)
    assert (len(first.orders), len(second.orders)) == (0, 1)


def data_url(data: bytes, *, alter: Callable[[str], str] = str) -> str:
    """A picture as text."""
    return "data:image/png;base64," + alter(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    "alter",
    [str, lambda text: text.rstrip("="), lambda text: text.translate(str.maketrans("+/", "-_")),
     lambda text: "\n".join(text[at : at + 60] for at in range(0, len(text), 60))],
    ids=["plain", "no padding", "other alphabet", "lines"],
)  # fmt: skip
async def test_a_picture_may_be_text(make_world: MakeWorld, alter: Callable[[str], str]) -> None:
    """Base64 of either alphabet, with or without padding and line breaks."""
    upload, _ = await cleaned(make_world(editing()), Given(Role.IMAGE, "image", text=data_url(drawing(), alter=alter)))
    assert (upload.width, upload.height) == (64, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:image/png;base64,????", "base64 of its data URL is not valid"),
        ("data:image/png,abc", NO_WAY),
        ("", NO_WAY), ("file:///etc/passwd", NO_WAY), ("aGVsbG8=", NO_WAY),
        ("http://127.0.0.1:1/x.png", "could not be fetched"), ("http://169.254.169.254/x", "could not be fetched"),
        ("http://", "could not be fetched"), ("data:image/png;base64,", "it is empty"),
        ("data:image/png;base64," + "A" * 3000, "more than 2048 bytes"),
    ],
)  # fmt: skip
async def test_bad_text_is_no_picture(make_world: MakeWorld, text: str, said: str) -> None:
    """Whatever stands there, the answer names the member, and no address inside is called."""
    error = await refused(make_world(editing(), max_picture_bytes=2048), Given(Role.IMAGE, "image", text=text))
    assert (error.code, error.param) == ("invalid_image", "image")
    assert said in error.message


async def test_endless_pictures_are_refused_before_any_is_looked_at(make_world: MakeWorld) -> None:
    """Neither fetched nor decoded: the first is none at all, and it is the number that is refused."""
    error = await refused(
        make_world(editing()), *(Given(Role.IMAGE, "image", text="?") for _ in range(uploads.MOST + 1))
    )
    assert (error.code, error.param) == ("invalid_parameter", "image")


async def test_what_a_header_says_is_refused_before_it_is_decoded(make_world: MakeWorld, given: Draw) -> None:
    """The pixels are missing, which nobody comes to see: what the header says is too large for the model already."""
    header = drawing(size=(6000, 5000))[:64]
    error = await refused(make_world(editing(image=InputRule(max_pixels=1_000_000))), given(header))
    assert (error.code, error.param) == ("invalid_image", "image")
    assert "6000x5000; it must have from 1 to 1000000 pixels" in error.message
    error = await refused(make_world(editing()), given(header))
    assert "damaged or incomplete" in error.message


async def test_pictures_that_are_too_much_as_they_come_are_refused(make_world: MakeWorld, given: Draw) -> None:
    """All of them lie on disk until they are written anew, so that their sum is bounded as well."""
    padded = drawing(kind="JPEG") + bytes(400_000)
    error = await refused(make_world(editing(), max_upload_bytes=700_000), given(padded), given(padded))
    assert (error.code, error.param) == ("payload_too_large", "image")
    assert "as they come" in error.message


async def test_without_room_it_is_nobodys_fault(
    make_world: MakeWorld, given: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file can be made the client may come again, and is not told that its picture is bad."""
    picture = given()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    error = await refused(make_world(editing()), picture)
    assert (error.code, error.kind.status, error.retryable) == ("storage_unavailable", 503, True)


async def spent(world: World) -> None:
    """Leaves nothing in the caller's budget."""
    async with world.db.write() as connection:
        await accounts.change(connection, CALLER.key_id, world.clock.now(), budget=Budget(limit=39_999))


async def exhausted(world: World) -> None:
    """Uses up the caller's rate."""
    async with world.db.write() as connection:
        await accounts.change(connection, CALLER.key_id, world.clock.now(), limits=Limits(per_minute=1))
    await world.create()


@pytest.mark.parametrize(("use_up", "code"), [(spent, "insufficient_quota"), (exhausted, "rate_limit_exceeded")])
async def test_nothing_is_fetched_for_whom_it_is_refused(
    make_world: MakeWorld, use_up: Callable[[World], Awaitable[None]], code: str
) -> None:
    """Without budget or beyond the rate no address is called, neither for a task nor for a dry run."""
    world = make_world(editing(), allow_hosts=("127.0.0.1",))
    await use_up(world)
    async with serving(a=[(200, drawing())]) as files:
        asked = wanted(Given(Role.IMAGE, "image", text=files.url("a")))
        for refusing in (tasks.plan(world.rt, CALLER, asked), tasks.create(world.rt, CALLER, asked, here=False)):
            with pytest.raises(GatewayError) as caught:
                await refusing
            assert caught.value.code == code
        assert files.asked == []


async def test_an_edit_counts_once(make_world: MakeWorld, given: Draw) -> None:
    """The early look at the rate takes nothing of it, and neither does a dry run."""
    world = make_world(editing())
    async with world.db.write() as connection:
        await accounts.change(connection, CALLER.key_id, world.clock.now(), limits=Limits(per_minute=5))
    await tasks.plan(world.rt, CALLER, wanted(given()))
    await tasks.create(world.rt, CALLER, wanted(given()), here=False)
    assert (await accounts.get(world.rt, CALLER.key_id)).rates[0].left == 4


async def test_few_bytes_do_not_become_many(make_world: MakeWorld, given: Draw) -> None:
    """Pictures that are small as they come, and large as they are handed on, are refused by what they come to."""
    noise = Image.effect_noise((512, 512), 90)
    file = io.BytesIO()
    Image.merge("RGBA", [noise, noise, noise, noise]).save(file, "WEBP", quality=1)
    world = make_world(editing(image=InputRule(max=4)), max_upload_bytes=1_000_000)
    assert 3 * len(file.getvalue()) < 1_000_000
    error = await refused(world, *(given(file.getvalue()) for _ in range(3)))
    assert (error.code, error.param) == ("payload_too_large", "image")


async def test_our_own_media_may_be_worked_on(make_world: MakeWorld) -> None:
    """By its id, or by a link to it, which is not called."""
    provider = editing()
    provider.script["submit"].extend([done(), done()])
    world = make_world(provider)
    asset_id, link = await made(world)
    for text in (asset_id, link):
        task = await tasks.create(world.rt, CALLER, wanted(Given(Role.IMAGE, "image", text=text)), here=False)
        await world.finish(task.id)
        assert len(provider.orders[-1].inputs) == 1


async def test_a_link_gives_no_more_than_it_serves(make_world: MakeWorld) -> None:
    """Whoever has the link of a thumbnail alone works on the thumbnail, and not on the picture."""
    provider = editing()
    provider.script["submit"].append(done())
    world = make_world(provider)
    asset_id, _ = await made(world)
    asset = await assets.get(world.rt, asset_id, CALLER.key_id)
    thumbnail = asset.picture("thumbnail")
    assert thumbnail is not None
    link = assets.link(world.rt, thumbnail, "https://gateway.example")
    given = Given(Role.IMAGE, "image", text=link)
    async with uploads.received(world.rt, OTHER, [given], len) as (upload,):
        # The thumbnail is a lossy WebP, which becomes a JPEG.
        assert (asset.media_type, upload.media_type) == ("image/png", "image/jpeg")


async def test_nobody_elses_media_is_found(make_world: MakeWorld) -> None:
    """Another key's id names nothing, and a link that we did not sign is an address like any other."""
    world = make_world(editing())
    asset_id, link = await made(world)
    for text, code in ((asset_id, "media_not_found"), (link[:-1] + "-", "invalid_image")):
        with pytest.raises(GatewayError) as caught:
            async with uploads.received(world.rt, OTHER, [Given(Role.IMAGE, "image", text=text)], len):
                pass
        assert caught.value.code == code


async def made(world: World) -> tuple[str, str]:
    """A picture that we made, by its id and by a link to it."""
    task_id = await world.create()
    await world.finish(task_id)
    asset = (await world.get(task_id)).assets[0]
    return asset.id, assets.link(world.rt, asset, "http://127.0.0.1:1")
