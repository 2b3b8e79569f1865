"""Demo: its films."""

from __future__ import annotations

import io
import itertools
from typing import Any

import av
import pytest
from PIL import Image, ImageChops, ImageStat

from providers.contract import Done, Generation, Input, Kind, Operation, Order, Output, Progress, Refused, Role
from providers.registry import Registry
from tests.core.vendors import film

REGISTRY = Registry.load()
CARD = REGISTRY.cards["demo"]
MODEL = CARD.models[1]
SMALL: dict[str, Any] = {"size": "144x144", "parameters": {"seconds": 1, "fps": 8}}


async def shoot(
    key: str = "attempt-1", *, reports: list[Progress] | None = None, first: Image.Image | None = None, **members: Any
) -> Done:
    """What the demo makes of a generation with these members, from a first frame if there is one."""

    async def report(progress: Progress) -> None:
        if reports is not None:
            reports.append(progress)

    wanted = Generation(Kind.VIDEO, Operation.GENERATION, MODEL.name, **{"prompt": "a sun", **SMALL, **members})
    inputs = () if first is None else (_input(first),)
    order = Order(wanted, MODEL.name, key, report=report, inputs=inputs)
    done = await REGISTRY.build("demo", CARD, secrets={}).submit(order)
    assert isinstance(done, Done)
    return done


def frames(done: Done, index: int = 0) -> list[Image.Image]:
    """The frames of an output, decoded."""
    with av.open(io.BytesIO(done.outputs[index].data or b""), "r") as container:
        decoded: list[Any] = list(container.decode(video=0))
        return [frame.to_image() for frame in decoded]


def apart(one: Image.Image, other: Image.Image) -> float:
    """How different two frames are, from 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def _input(picture: Image.Image) -> Input:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Input(Role.FIRST_FRAME, "image/png", file.getvalue(), *picture.size)


@pytest.mark.parametrize("size", MODEL.sizes)
async def test_every_size_is_shot(size: str) -> None:
    """Each size on the card gives H.264 in MP4 of exactly that size."""
    done = await shoot(size=size)
    with av.open(io.BytesIO(done.outputs[0].data or b"")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, f"{context.width}x{context.height}") == ("h264", size)
    assert (done.outputs[0].media_type, f"{done.outputs[0].width}x{done.outputs[0].height}") == ("video/mp4", size)


@pytest.mark.parametrize("ratio", MODEL.aspect_ratios)
@pytest.mark.parametrize("resolution", MODEL.parameters["resolution"].values)
async def test_resolution_and_shape_give_a_size(ratio: str, resolution: str) -> None:
    """Where no size is named they decide: one of the card's sizes, close to that shape, and as fine as was asked."""
    parameters = {**SMALL["parameters"], "resolution": resolution}
    done = await shoot(size=None, aspect_ratio=ratio, parameters=parameters)
    width, height = done.outputs[0].width or 0, done.outputs[0].height or 0
    assert f"{width}x{height}" in MODEL.sizes
    assert f"{min(width, height)}p" == resolution
    across, down = map(int, ratio.split(":"))
    assert abs(width / height - across / down) < 0.05


async def test_what_is_left_out_is_as_the_card_says() -> None:
    """Size, length and rate are then those that the card names."""
    done = await shoot(size=None, parameters={})
    assert (MODEL.default_size, done.outputs[0].seconds) == ("640x360", MODEL.parameters["seconds"].default)
    assert frames(done)[0].size == (640, 360)
    assert len(frames(done)) == 4 * 24


@pytest.mark.parametrize("seconds", [1, 3])
@pytest.mark.parametrize("fps", [8, 30])
async def test_length_and_rate_are_as_asked(seconds: int, fps: int) -> None:
    """There are as many frames as length and rate make."""
    done = await shoot(parameters={"seconds": seconds, "fps": fps})
    assert (len(frames(done)), done.outputs[0].seconds) == (seconds * fps, seconds)


@pytest.mark.parametrize(
    ("members", "param"),
    [({"size": "big"}, "size"), ({"size": None, "aspect_ratio": "7:1"}, "aspect_ratio"),
     ({"size": None, "parameters": {"resolution": "8k"}}, "resolution")],
)  # fmt: skip
async def test_sizes_that_are_none_are_refused(members: dict[str, Any], param: str) -> None:
    """Nothing else is shot instead; the member is named."""
    with pytest.raises(Refused) as caught:
        await shoot(**members)
    assert caught.value.param == param


async def test_the_same_order_gives_the_same_bytes() -> None:
    """An attempt that is run again yields what it yielded before; a seed counts more than the attempt."""
    first, *others = [await shoot(n=2) for _ in range(6)]
    for again in others:
        assert [one.data for one in first.outputs] == [one.data for one in again.outputs]
        assert first.usage == again.usage
    seeded = {**SMALL["parameters"], "seed": 7}
    one, other = await shoot("one", parameters=seeded), await shoot("two", parameters=seeded)
    assert one.outputs[0].data == other.outputs[0].data
    assert one.usage == {"seed": 7}


async def test_everything_that_should_change_the_film_does() -> None:
    """Prompt, attempt and index each give another film, and one can see that."""
    several = await shoot(n=2)
    others = [await shoot(prompt="a moon"), await shoot("attempt-2")]
    shown = [frames(several, 0)[4], frames(several, 1)[4], *(frames(one)[4] for one in others)]
    differences = [apart(one, other) for place, one in enumerate(shown) for other in shown[:place]]
    assert min(differences) > 8


async def test_the_film_moves() -> None:
    """Each frame differs from the one before, and the last one most from the first."""
    shown = frames(await shoot(size="256x144"))
    assert all(apart(one, other) > 0.5 for one, other in itertools.pairwise(shown))
    assert apart(shown[0], shown[-1]) > apart(shown[0], shown[1])


async def test_a_first_frame_is_what_the_film_wanders_over() -> None:
    """The given picture is seen, and moves; another one gives another film."""
    left = Image.new("RGB", (300, 200), "red")
    left.paste("blue", (150, 0, 300, 200))
    shown = frames(await shoot(first=left))
    red, green, blue = ImageStat.Stat(shown[3]).mean
    assert red > 60 < blue
    assert green < 30
    assert apart(shown[0], shown[-1]) > 3
    assert apart(shown[0], frames(await shoot(first=Image.new("L", (90, 90), 128)))[0]) > 50


async def test_progress_is_reported_while_it_shoots() -> None:
    """Progress rises from part to part, over all films, and ends at the whole."""
    reports: list[Progress] = []
    await shoot(n=2, reports=reports)
    fractions = [report.fraction for report in reports]
    assert len(fractions) == 16
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("prompt", ["", "\x00\n\t", "x" * 32_000, "Grüße, 世界 🌍"])
async def test_any_prompt_can_be_shot(prompt: str) -> None:
    """No prompt, an endless one and one in other scripts all give a film."""
    assert len(frames(await shoot(prompt=prompt))) == 8


async def test_it_plays_while_it_loads() -> None:
    """The index stands before the frames."""
    data = (await shoot()).outputs[0].data or b""
    assert data.index(b"moov") < data.index(b"mdat")


async def test_it_costs_nothing() -> None:
    """It bills nothing, and the card has a price that says so."""
    assert MODEL.price is not None
    assert [row.usd for row in MODEL.price.rows] == ["0"]
    assert (await shoot()).cost == 0


async def enhance(data: bytes, **parameters: Any) -> tuple[Output, list[Image.Image]]:
    """What the demo makes of a film, and its frames."""
    wanted = Generation(Kind.VIDEO, Operation.UPSCALE, "demo-enhance", parameters=parameters)
    order = Order(wanted, "demo-enhance", "attempt-1", inputs=(Input(Role.VIDEO, "video/mp4", data, 64, 48),))
    done = await REGISTRY.build("demo", CARD, secrets={}).submit(order)
    assert isinstance(done, Done)
    return done.outputs[0], frames(done)


@pytest.mark.parametrize(
    ("parameters", "size", "count"),
    [({}, (128, 96), 24), ({"scale": 1.5}, (96, 72), 24), ({"resolution": "360p"}, (640, 480), 24),
     ({"scale": 1, "fps": 12}, (64, 48), 12), ({"scale": 1, "fps": 60}, (64, 48), 60)],
)  # fmt: skip
async def test_a_film_is_rescaled(parameters: dict[str, Any], size: tuple[int, int], count: int) -> None:
    """To the size and rate that were asked for; it lasts as long as before, and shows the same."""
    output, made = await enhance(film(24, (64, 48)), **parameters)
    assert (output.width, output.height) == made[0].size == size
    assert len(made) == count
    first, last = (sum(ImageStat.Stat(one).mean) for one in (made[0], made[-1]))
    assert last > first


async def test_a_film_is_not_made_larger_than_a_demo_should_be() -> None:
    """What would take minutes is refused."""
    with pytest.raises(Refused, match="larger than 1920 pixels"):
        await enhance(film(4, (640, 480)), scale=40)
