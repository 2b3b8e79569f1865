"""Formats: asked of the provider where its card offers them, and made here of what it delivers where not."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import msgspec
import pytest
from PIL import Image
from sqlalchemy import RowMapping

from gateway.core.admission import admit
from gateway.core.errors import GatewayError
from gateway.core.formats import MADE_HERE, offered
from providers.card import ModelCard, Parameter
from providers.contract import Done, Kind, Operation, Output
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, png, serving, words
from tests.core.world import World

QUALITY = Parameter("integer", min=0, max=100)
NOTHING: dict[str, Parameter] = {}
TWO = {"output_format": words("jpeg", "png", default="jpeg")}
THREE = {"output_format": words("png", "jpeg", "webp", default="png"), "output_compression": QUALITY}
WEBP_50 = {"output_format": "webp", "output_compression": 50}


@cache
def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (48, 32), **options: Any) -> bytes:
    """A picture in a format: noise, so that its quality shows, and half of it transparent where that can be."""
    image = Image.effect_noise(size, 60).convert(mode)
    if mode == "RGBA":
        image.paste((255, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def world_of(make_world: MakeWorld, parameters: dict[str, Parameter], *answers: Done) -> tuple[World, ScriptedProvider]:
    """A world whose one model takes these parameters."""
    provider = ScriptedProvider(card_of(model={"parameters": parameters}), submit=answers)
    return make_world(provider), provider


async def delivered(world: World, **asked: Any) -> tuple[RowMapping, RowMapping, Image.Image]:
    """The task, its asset and its picture, once it was made with these parameters."""
    task_id = await world.create(parameters=asked)
    row = await world.finish(task_id)
    (asset,) = await world.assets(task_id)
    image = Image.open(io.BytesIO(await world.bytes_of(asset)))
    image.load()
    return row, asset, image


@pytest.mark.parametrize("parameters", [NOTHING, TWO, THREE], ids=["nothing", "two", "three"])
@pytest.mark.parametrize("asked", MADE_HERE)
async def test_every_format_is_delivered(make_world: MakeWorld, asked: str, parameters: dict[str, Parameter]) -> None:
    """Whatever the provider offers, the caller gets what was asked for, measured, and nothing is said of it."""
    world, _ = world_of(make_world, parameters, done(png()))
    row, asset, image = await delivered(world, output_format=asked)
    assert (row["state"], row["adjusted"]) == ("completed", {})
    assert (asset["media_type"], image.format) == (f"image/{asked}", asked.upper())
    assert (asset["width"], asset["height"], asset["size"]) == (64, 64, len(await world.bytes_of(asset)))


@pytest.mark.parametrize(
    ("parameters", "asked", "sent"),
    [
        (NOTHING, WEBP_50, {}),
        (NOTHING, {"output_format": "png"}, {}),
        (TWO, {"output_format": "jpeg"}, {"output_format": "jpeg"}),
        (TWO, {"output_format": "webp"}, {"output_format": "png"}),
        (TWO, {"output_format": "jpeg", "output_compression": 50}, {"output_format": "png"}),
        (THREE, {"output_format": "avif"}, {"output_format": "png"}),
        (THREE, WEBP_50, WEBP_50),
        (THREE, {"output_format": "auto"}, {}),
        (THREE, {}, {}),
    ],
    ids=str,
)  # fmt: skip
async def test_the_provider_is_asked_for_what_it_makes(
    make_world: MakeWorld, parameters: dict[str, Parameter], asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    """A card's own formats are sent; for another one PNG is, where the provider has a choice, else nothing."""
    world, provider = world_of(make_world, parameters, done(png()))
    await delivered(world, **asked)
    assert provider.orders[0].generation.parameters == sent


async def test_a_file_that_is_as_wanted_stays_as_it_came(make_world: MakeWorld) -> None:
    """Byte for byte, with whatever else is in it, such as where it is from."""
    for parameters, kind in ((NOTHING, "JPEG"), (TWO, "JPEG"), (THREE, "WEBP")):
        data = picture(kind, comment=b"made by the vendor") if kind == "JPEG" else picture(kind)
        world, _ = world_of(make_world, parameters, done(data))
        _, asset, _ = await delivered(world, output_format=kind.lower())
        assert await world.bytes_of(asset) == data


async def test_a_provider_that_makes_another_format_than_it_was_asked_for(make_world: MakeWorld) -> None:
    """The picture is converted all the same."""
    world, _ = world_of(make_world, THREE, done(png()))
    row, asset, _ = await delivered(world, output_format="webp", output_compression=80)
    assert (asset["media_type"], row["adjusted"]) == ("image/webp", {})


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
async def test_a_lower_quality_makes_a_smaller_file(make_world: MakeWorld, kind: str) -> None:
    """Also where the provider delivers the very format, and takes no quality."""
    world, _ = world_of(make_world, NOTHING, *(done(picture(kind.upper(), size=(200, 200))) for _ in range(2)))
    sizes = [(await delivered(world, output_format=kind, output_compression=one))[1]["size"] for one in (90, 10)]
    assert sizes[1] < sizes[0] / 2


async def test_what_is_transparent_becomes_white_in_jpeg(make_world: MakeWorld) -> None:
    """And stays transparent wherever it can."""
    world, _ = world_of(make_world, NOTHING, *(done(picture(mode="RGBA")) for _ in range(4)))
    _, _, image = await delivered(world, output_format="jpeg")
    pixel = image.getpixel((2, 2))
    assert isinstance(pixel, tuple)
    assert min(pixel) > 245
    for kind in ("webp", "avif", "gif"):
        _, _, image = await delivered(world, output_format=kind)
        assert image.convert("RGBA").getpixel((2, 2))[3] == 0  # type: ignore[index]  # RGBA has four channels


async def test_a_turned_picture_is_delivered_upright(make_world: MakeWorld) -> None:
    """What the metadata say of it is done to it, and the measures are those of what is delivered."""
    exif = Image.Exif()
    exif[0x0112] = 6
    world, _ = world_of(make_world, NOTHING, done(picture("JPEG", exif=exif.tobytes())))
    _, asset, image = await delivered(world, output_format="png")
    assert (asset["width"], asset["height"], image.size) == (32, 48, (32, 48))


async def test_linked_pictures_are_converted_too(make_world: MakeWorld) -> None:
    """Several of them, each from its URL."""
    async with serving(a=[(200, png(64, 64))], b=[(200, picture("WEBP"))]) as files:
        linked = Done((Output(url=files.url("a")), Output(url=files.url("b"))))
        world, _ = world_of(make_world, NOTHING, linked)
        task_id = await world.create(n=2, parameters={"output_format": "webp"})
        await world.finish(task_id)
        first, second = await world.assets(task_id)
        assert (first["media_type"], await world.bytes_of(second)) == ("image/webp", picture("WEBP"))
        assert Image.open(io.BytesIO(await world.bytes_of(first))).format == "WEBP"


async def test_what_cannot_be_converted_is_delivered_and_said(make_world: MakeWorld) -> None:
    """A picture that is too long for WebP was bought all the same: it comes as it is, and `adjusted` says so."""
    world, _ = world_of(make_world, NOTHING, done(png(20_000, 8)))
    row, asset, _ = await delivered(world, output_format="webp")
    assert (row["state"], asset["media_type"]) == ("completed", "image/png")
    assert row["adjusted"] == {"delivered_format": ["webp", "png"]}


@pytest.mark.parametrize("kind", MADE_HERE)
async def test_the_same_picture_becomes_the_same_file(make_world: MakeWorld, kind: str) -> None:
    """Whoever stores an output again, after a crash, must write the very same object."""
    inspector = make_world(ScriptedProvider()).rt.inspector
    made = [await inspector.convert(picture(mode="RGBA"), f"image/{kind}") for _ in range(3)]
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", MADE_HERE)
async def test_every_kind_of_picture_becomes_every_format(make_world: MakeWorld, kind: str, mode: str) -> None:
    """Greys, palettes, sixteen bits and inks."""
    inspector = make_world(ScriptedProvider()).rt.inspector
    source = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, source)
    made = await inspector.convert(file.getvalue(), f"image/{kind}")
    assert Image.open(io.BytesIO(made.data)).format == kind.upper()


@pytest.mark.parametrize(
    ("parameters", "asked", "param", "said"),
    [
        (NOTHING, {"output_format": "bmp"}, "output_format", "Allowed: png, jpeg, webp, avif, gif"),
        (TWO, {"output_format": "JPEG"}, "output_format", "Allowed: png, jpeg, webp, avif, gif"),
        (NOTHING, {"output_format": ["png"]}, "output_format", "Allowed"),
        (NOTHING, {"output_compression": 50}, "output_compression", "jpeg, webp, avif"),
        (NOTHING, {"output_format": "png", "output_compression": 50}, "output_compression", "jpeg, webp, avif"),
        (THREE, {"output_compression": 50}, "output_compression", "jpeg, webp, avif"),
        (THREE, {"output_format": "png", "output_compression": 50}, "output_compression", "jpeg, webp, avif"),
        (THREE, {"output_format": "gif", "output_compression": 50}, "output_compression", "jpeg, webp, avif"),
        (THREE, {"output_format": "jpeg", "output_compression": 101}, "output_compression", "0 to 100"),
        (NOTHING, {"output_format": "jpeg", "output_compression": 101}, "output_compression", "0 to 100"),
        (NOTHING, {"output_format": "jpeg", "output_compression": True}, "output_compression", "0 to 100"),
        (THREE, {"output_format": "jpeg", "background": "transparent"}, "background", "jpeg"),
        (TWO, {"background": "transparent"}, "background", "jpeg"),
    ],
    ids=str,
)
def test_what_is_no_format_is_refused(
    make_world: MakeWorld, parameters: dict[str, Parameter], asked: dict[str, Any], param: str, said: str
) -> None:
    """By the field's name, and with what is allowed."""
    world, _ = world_of(make_world, {**parameters, "background": words("transparent", "opaque")})
    with pytest.raises(GatewayError) as caught:
        admit(world.rt.catalog, generation(parameters=asked))
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", param)
    assert said in caught.value.message


def test_a_transparent_background_goes_with_other_formats(make_world: MakeWorld) -> None:
    """Where the format can show it, nothing is refused."""
    world, _ = world_of(make_world, {**THREE, "background": words("transparent")})
    for kind in (None, "png", "webp", "avif"):
        asked = {"background": "transparent"} | ({"output_format": kind} if kind else {})
        assert admit(world.rt.catalog, generation(parameters=asked)).generation.parameters == asked


def test_films_are_not_converted() -> None:
    """What a film comes as is its model's own business."""
    card = ModelCard("film", Kind.VIDEO, (Operation.GENERATION,), formats=("mp4",))
    assert offered(card) == ("mp4",)
    assert offered(msgspec.structs.replace(card, kind=Kind.IMAGE)) == ("mp4", *MADE_HERE)
