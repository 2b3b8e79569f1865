"""Demo: its pictures."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from providers.contract import Done, Generation, Input, Kind, Operation, Order, Progress, Refused, Role
from providers.registry import Registry

REGISTRY = Registry.load()
CARD = REGISTRY.cards["demo"]


async def draw(key: str = "attempt-1", *, reports: list[Progress] | None = None, **members: Any) -> Done:
    """What the demo makes of a generation with these members."""

    async def report(progress: Progress) -> None:
        if reports is not None:
            reports.append(progress)

    wanted = Generation(Kind.IMAGE, Operation.GENERATION, "demo-image", **{"prompt": "a sun", **members})
    result = await REGISTRY.build("demo", CARD, secrets={}).submit(Order(wanted, "demo-image", key, report=report))
    assert isinstance(result, Done)
    return result


def decoded(done: Done, index: int = 0) -> Image.Image:
    """The picture of an output, decoded."""
    data = done.outputs[index].data
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize("size", CARD.models[0].sizes)
async def test_every_size_is_drawn(size: str) -> None:
    """Each size on the card gives a picture of exactly that size."""
    done = await draw(size=size)
    assert "x".join(map(str, decoded(done).size)) == size
    assert (done.outputs[0].width, done.outputs[0].height) == decoded(done).size


@pytest.mark.parametrize("ratio", CARD.models[0].aspect_ratios)
async def test_every_aspect_ratio_is_drawn(ratio: str) -> None:
    """Each aspect ratio on the card gives one of the card's sizes, close to that ratio."""
    width, height = decoded(await draw(aspect_ratio=ratio)).size
    across, down = map(int, ratio.split(":"))
    assert f"{width}x{height}" in CARD.models[0].sizes
    assert abs(width / height - across / down) < 0.05


async def test_without_a_size_it_is_the_cards_default() -> None:
    """A generation that names no size gets the default of the card, and so does `auto`."""
    for size in (None, "auto"):
        width, height = decoded(await draw(size=size)).size
        assert f"{width}x{height}" == CARD.models[0].default_size


@pytest.mark.parametrize("members", [{"size": "big"}, {"size": "1x2x3"}, {"aspect_ratio": "7:1"}])
async def test_sizes_that_are_none_are_refused(members: dict[str, Any]) -> None:
    """Nothing else is drawn instead of a size that makes no sense; the member is named."""
    with pytest.raises(Refused) as caught:
        await draw(**members)
    assert [caught.value.param] == list(members)


async def test_the_same_order_gives_the_same_bytes() -> None:
    """An attempt that is run again yields what it yielded before, with or without a seed."""
    for parameters in ({}, {"seed": 7}):
        first, again = [await draw(size="256x256", n=2, parameters=parameters) for _ in range(2)]
        assert [output.data for output in first.outputs] == [output.data for output in again.outputs]
        assert first.usage == again.usage


async def test_everything_that_should_change_the_picture_does() -> None:
    """Prompt, seed, attempt and index each give another picture."""
    several = await draw(size="256x256", n=4)
    others = [
        await draw(size="256x256", prompt="a moon"),
        await draw(size="256x256", parameters={"seed": 1}),
        await draw(size="256x256", parameters={"seed": 2}),
        await draw(size="256x256", key="attempt-2"),
    ]
    pictures = [output.data for done in (several, *others) for output in done.outputs]
    assert len(set(pictures)) == 8


async def test_a_seed_counts_more_than_the_attempt() -> None:
    """With a seed the picture is the same whichever attempt draws it, and the seed is told."""
    first, second = [await draw(key, size="256x256", parameters={"seed": 5}) for key in ("one", "two")]
    assert first.outputs[0].data == second.outputs[0].data
    assert first.usage == {"seed": 5}


async def test_the_seed_that_was_chosen_can_be_used() -> None:
    """The seed that is told draws the same picture again when it is given."""
    chosen = await draw(size="256x256")
    assert chosen.usage is not None
    again = await draw("another attempt", size="256x256", parameters={"seed": chosen.usage["seed"]})
    assert again.outputs[0].data == chosen.outputs[0].data


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_formats(kind: str) -> None:
    """The picture is in the format that was asked for, and says so."""
    done = await draw(size="256x256", parameters={"output_format": kind})
    assert decoded(done).format == kind.upper()
    assert done.outputs[0].media_type == f"image/{kind}"


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_compression_makes_it_smaller(kind: str) -> None:
    """A lower output_compression gives fewer bytes."""
    large, small = [
        await draw(size="256x256", parameters={"output_format": kind, "output_compression": quality, "seed": 1})
        for quality in (100, 20)
    ]
    assert len(small.outputs[0].data or b"") < len(large.outputs[0].data or b"")


async def test_png_takes_no_compression() -> None:
    """A parameter that PNG cannot honour is refused and not dropped."""
    with pytest.raises(Refused) as caught:
        await draw(parameters={"output_compression": 50})
    assert caught.value.param == "output_compression"


async def test_progress_is_reported_while_it_draws() -> None:
    """Progress rises from picture to picture and ends at the whole."""
    reports: list[Progress] = []
    await draw(size="256x256", n=2, reports=reports)
    fractions = [report.fraction for report in reports]
    assert len(fractions) == 4
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("prompt", ["", "\x00\n\t", "x" * 32_000, "Grüße, 世界 🌍", "{}%s<b>"])
async def test_any_prompt_can_be_drawn(prompt: str) -> None:
    """No prompt, an endless one and one in other scripts all give a picture."""
    assert decoded(await draw(size="256x256", prompt=prompt)).size == (256, 256)


async def test_it_costs_nothing() -> None:
    """It bills nothing, and the card has a price that says so: free is not unknown."""
    price = CARD.models[0].price
    assert price is not None
    assert [row.usd for row in price.rows] == ["0"]
    assert (await draw(size="256x256")).cost == 0


def given(role: Role = Role.IMAGE, colour: str = "blue", mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Input:
    """A picture of one colour; a mask is transparent in its left half."""
    image = Image.new(mode, size, colour)
    if role is Role.MASK:
        image.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Input(role, "image/png", file.getvalue(), *size)


async def rework(operation: Operation, *inputs: Input, **members: Any) -> Image.Image:
    """The first picture that the demo makes of these."""
    wanted = Generation(Kind.IMAGE, operation, "demo-image", **{"prompt": "a sun", **members})
    order = Order(wanted, "demo-image", "attempt-1", inputs=inputs)
    result = await REGISTRY.build("demo", CARD, secrets={}).submit(order)
    assert isinstance(result, Done)
    return decoded(result)


async def test_a_mask_says_where_to_paint() -> None:
    """What the mask keeps is the caller's picture to the pixel; where it is transparent there is something new."""
    made = await rework(Operation.EDIT, given(), given(Role.MASK, mode="RGBA"))
    assert made.size == (64, 48)
    assert set(made.crop((32, 0, 64, 48)).get_flattened_data()) == {(0, 0, 255)}
    assert (0, 0, 255) not in made.crop((0, 0, 30, 40)).get_flattened_data()


async def test_strength_says_how_much_is_new() -> None:
    """Without a mask all of the picture changes, from not at all to wholly."""
    assert set((await rework(Operation.EDIT, given(), parameters={"strength": 0.0})).get_flattened_data()) == {
        (0, 0, 255)
    }
    assert (0, 0, 255) not in (await rework(Operation.EDIT, given(), parameters={"strength": 1.0})).get_flattened_data()


async def test_further_pictures_are_seen() -> None:
    """A second picture lies in the corner."""
    made = await rework(Operation.EDIT, given(), given(colour="red"), parameters={"strength": 0.0})
    assert made.getpixel((1, 46)) == (255, 0, 0)


async def test_a_style_gives_its_colours() -> None:
    """The result has no colour that the style has not."""
    made = await rework(Operation.EDIT, given(), given(Role.STYLE, "green"))
    assert set(made.get_flattened_data()) == {(0, 128, 0)}


async def test_an_edit_has_the_size_that_is_asked_for() -> None:
    """Else that of the picture."""
    assert (await rework(Operation.EDIT, given(), size="256x256")).size == (256, 256)
    wide = await rework(Operation.VARIATION, given(), aspect_ratio="16:9")
    assert wide.size == (await rework(Operation.GENERATION, aspect_ratio="16:9")).size


async def test_a_variation_is_another_picture() -> None:
    """Of the same size, other colours, and different for each seed."""
    first = await rework(Operation.VARIATION, given(), parameters={"seed": 1})
    second = await rework(Operation.VARIATION, given(), parameters={"seed": 2})
    assert first.size == (64, 48)
    assert len({first.getpixel((0, 0)), second.getpixel((0, 0)), (0, 0, 255)}) == 3


async def test_a_picture_is_enlarged() -> None:
    """By the scale, and doubled without one."""
    assert (await rework(Operation.UPSCALE, given())).size == (128, 96)
    assert (await rework(Operation.UPSCALE, given(), parameters={"scale": 1.5})).size == (96, 72)


async def test_the_background_is_removed() -> None:
    """What has the colour of the corners is transparent, the rest is not."""
    image = Image.new("RGB", (64, 48), "white")
    image.paste("red", (20, 20, 40, 40))
    file = io.BytesIO()
    image.save(file, "PNG")
    made = await rework(Operation.REMOVE_BACKGROUND, Input(Role.IMAGE, "image/png", file.getvalue(), 64, 48))
    assert [made.getpixel(place) for place in ((0, 0), (30, 30))] == [(255, 255, 255, 0), (255, 0, 0, 255)]


async def test_previews_clear_up() -> None:
    """As many as asked for, of each picture, numbered through, each nearer to the result than the one before."""
    reports: list[Progress] = []
    done = await draw(reports=reports, n=2, size="256x256", partial_images=3)
    previews = [one.preview for one in reports if one.preview]
    assert [one.index for one in previews] == list(range(6))
    shown = [Image.open(io.BytesIO(one.data)) for one in previews[:3]]
    far = [sum(ImageStat.Stat(ImageChops.difference(one, decoded(done))).sum) for one in shown]
    assert far == sorted(far, reverse=True)
    fractions = [one.fraction for one in reports]
    assert fractions == sorted(fractions)
