"""Demo: draws a picture or a film here, at once, without a key or a network.

A heliograph signals with a mirror and the sun; each picture shows one in hills of its own, and each film wanders over
such a picture, or over one that it is given. The prompt, the seed, the size and the index decide everything in it, so
the same order gives the same bytes. Pictures that come along are worked on for real, by plain means.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import av
import msgspec
from PIL import Image, ImageOps

from providers.contract import (
    Done,
    Generation,
    Kind,
    Operation,
    Order,
    Output,
    Preview,
    Progress,
    Provider,
    Refused,
    Role,
)
from providers.painting import caption, chances, colour, paint, scene
from providers.rescaling import rescale
from providers.retouching import blur, cut_out, edit, opened, styled, vary

if TYPE_CHECKING:
    from providers.card import Card
    from providers.http import Http

Inputs = TypeVarTuple("Inputs")
Result = TypeVar("Result")

ASPECT_SIZES: Mapping[str, str] = {
    "1:1": "1024x1024",
    "3:2": "1536x1024",
    "2:3": "1024x1536",
    "16:9": "1792x1024",
    "9:16": "1024x1792",
}
DEFAULT_SIZE = "1024x1024"
MARK = "demo"
"""What stands in every picture, so that none is taken for a model's."""
THREADS = 2
PAINTING_SHARE = 0.7
"""The part of the work on one picture that is done when it is painted and not yet encoded."""


# Of films: the frame's size for a resolution and a shape; how much larger the picture is that they wander over; how
# many parts of the work progress is reported for.
LONG_EDGES: Mapping[str, int] = {"144p": 256, "360p": 640, "720p": 1280}
DEFAULT_RESOLUTION, DEFAULT_SECONDS, DEFAULT_FPS = "360p", 4, 24
MARGIN, PARTS = 1.3, 8


class Demo(Provider):
    """Pictures and films that cost nothing; made in threads, so the event loop stays free."""

    def __init__(self, card: Card, http: Http) -> None:
        super().__init__(card, http)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="demo")

    async def submit(self, order: Order) -> Done:
        """Makes all outputs of the order, one after the other; `usage` tells the seed that was used."""
        seed = order.generation.parameters.get("seed")
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(order.idempotency_key.encode()).digest()[:4])
        make_one = self._film if order.generation.kind is Kind.VIDEO else self._picture
        outputs = [await make_one(order, seed, index) for index in range(order.generation.n)]
        return Done(tuple(outputs), cost=0, usage={"seed": seed})

    async def _picture(self, order: Order, seed: int, index: int) -> Output:
        wanted, save = order.generation, _saving(order.generation.parameters)
        note = f"picture {index + 1} of {wanted.n}"
        picture = await self._in_thread(make, order, seed, index)
        await order.report(Progress((index + PAINTING_SHARE) / wanted.n, note))
        await self._preview(order, picture, save, index)
        # What is seen through stays so: only PNG and WebP can say it.
        plain = picture.convert("RGB") if save["format"] == "jpeg" else picture
        data = await self._in_thread(encode, plain, save)
        await order.report(Progress((index + 1) / wanted.n, note))
        return Output(f"image/{save['format']}", data=data, width=picture.width, height=picture.height)

    async def _preview(self, order: Order, picture: Image.Image, save: Mapping[str, Any], index: int) -> None:
        """Shows the picture on its way, less blurred each time, as a model that clears up noise would."""
        count, n = order.generation.partial_images, order.generation.n
        for step in range(count):
            blurred = await self._in_thread(blur, picture.convert("RGB"), count - step)
            data = await self._in_thread(encode, blurred, save)
            share = PAINTING_SHARE + (1 - PAINTING_SHARE) * (step + 1) / (count + 1)
            preview = Preview(f"image/{save['format']}", data, index * count + step)
            await order.report(Progress((index + share) / n, f"preview {step + 1} of {count}", preview))

    async def _film(self, order: Order, seed: int, index: int) -> Output:
        wanted = order.generation
        if wanted.operation is Operation.UPSCALE:
            output = await self._in_thread(rescale, order.of(Role.VIDEO)[0], wanted.parameters)
            await order.report(Progress(1.0, "rescaled"))
            return output
        size = _film_size(wanted)
        seconds = wanted.parameters.get("seconds", DEFAULT_SECONDS)
        fps = wanted.parameters.get("fps", DEFAULT_FPS)
        first = next((one.data for one in order.of(Role.FIRST_FRAME)), None)
        with tempfile.TemporaryDirectory(prefix="heliograph-demo-") as folder:
            film = await self._in_thread(Film, Path(folder) / "film.mp4", wanted.prompt, seed, index, size, fps, first)
            for part in range(PARTS):
                await self._in_thread(film.shoot, seconds * fps * (part + 1) // PARTS, seconds * fps)
                done = (index + (part + 1) / PARTS) / wanted.n
                await order.report(Progress(done, f"film {index + 1} of {wanted.n}"))
            data = await self._in_thread(film.cut)
        return Output("video/mp4", data=data, width=size[0], height=size[1], seconds=seconds)

    async def _in_thread(self, work: Callable[[*Inputs], Result], *inputs: *Inputs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *inputs)


class Film:
    """A film in the making: a window that wanders over one large picture, the first frame of a film or a drawn one."""

    def __init__(
        self,
        file: Path,
        prompt: str,
        seed: int,
        index: int,
        size: tuple[int, int],
        fps: int,
        first: bytes | None,
    ) -> None:
        self.file, self.size, self.shot = file, size, 0
        chance = chances(prompt, seed, index)
        large = round(size[0] * MARGIN), round(size[1] * MARGIN)
        # Drawn or given, the film begins in one corner of the picture and ends in another.
        self.picture = scene(prompt, seed, large, index) if first is None else _covering(first, large)
        self.bar = colour(chance.random(), 0.7, 0.9)
        corners = chance.sample([(0, 0), (0, 1), (1, 0), (1, 1)], 2)
        room = large[0] - size[0], large[1] - size[1]
        self.begin, self.end = [(x * room[0], y * room[1]) for x, y in corners]
        self.caption = Image.new("RGBA", size)
        caption(self.caption, prompt, MARK)
        self.container = av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"})
        # A constant quantiser: with rate control the same frames give other bytes each time.
        self.stream: Any = self.container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "qp": "26"})
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt = "yuv420p"
        # The bytes depend on how many threads encode.
        self.stream.codec_context.thread_count = 1

    def shoot(self, until: int, number: int) -> None:
        """Makes the frames up to `until`, of `number` in all."""
        for place in range(self.shot, until):
            frame: Any = av.VideoFrame
            self.container.mux(self.stream.encode(frame.from_image(self._frame(place / max(number - 1, 1)))))
        self.shot = until

    def cut(self) -> bytes:
        """Ends the film: its bytes, MP4 with H.264."""
        self.container.mux(self.stream.encode())
        self.container.close()
        return self.file.read_bytes()

    def _frame(self, done: float) -> Image.Image:
        """What is seen when so much of the film is over, and how much that is."""
        smooth = done * done * (3 - 2 * done)
        left, top = (round(a + (b - a) * smooth) for a, b in zip(self.begin, self.end, strict=True))
        frame = self.picture.crop((left, top, left + self.size[0], top + self.size[1]))
        frame.paste(self.caption, (0, 0), self.caption)
        height = max(2, self.size[1] // 90)
        bar = (0, self.size[1] - height, max(1, round(self.size[0] * done)), self.size[1])
        frame.paste(self.bar, bar)
        return frame


def _film_size(wanted: Generation) -> tuple[int, int]:
    """Width and height in pixels; a size counts more than a resolution and a shape."""
    if wanted.size not in (None, "auto"):
        return _size(wanted)
    edge = LONG_EDGES.get(wanted.parameters.get("resolution", DEFAULT_RESOLUTION))
    if edge is None:
        raise Refused("there is no such resolution", param="resolution")
    across, down = _size(msgspec.structs.replace(wanted, size=None, aspect_ratio=wanted.aspect_ratio or "16:9"))
    if wanted.aspect_ratio == "1:1":
        return edge * 9 // 16, edge * 9 // 16
    return (edge, edge * 9 // 16) if across > down else (edge * 9 // 16, edge)


def _covering(data: bytes, size: tuple[int, int]) -> Image.Image:
    """A given picture, upright, cut to that size."""
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), size)


def _size(wanted: Generation) -> tuple[int, int]:
    """Width and height in pixels; a size counts more than an aspect ratio."""
    text = wanted.size if wanted.size not in (None, "auto") else ASPECT_SIZES.get(wanted.aspect_ratio or "1:1")
    try:
        width, height = map(int, (text or "").split("x"))
    except ValueError as error:
        raise Refused("there is no such size", param="size" if wanted.size else "aspect_ratio") from error
    return width, height


def _saving(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """How Pillow is to save: output_compression is the quality, as OpenAI has it; PNG has none."""
    kind, quality = parameters.get("output_format", "png"), parameters.get("output_compression", 100)
    if kind == "png":
        if "output_compression" in parameters:
            raise Refused("output_compression is for jpeg and webp", param="output_compression")
        return {"format": kind, "compress_level": 1}
    return {"format": kind, "quality": quality} | ({"method": 1} if kind == "webp" else {})


def make(order: Order, seed: int, index: int) -> Image.Image:
    """The picture number `index` of an order: painted, or worked out of the pictures that came with it."""
    wanted = order.generation
    pictures = [opened(one) for one in order.of(Role.IMAGE)]
    if not pictures:
        return styled(order, paint(wanted.prompt, seed, _size(wanted), index, MARK))
    first, parameters = pictures[0], wanted.parameters
    if wanted.operation is Operation.UPSCALE:
        scale = parameters.get("scale", 2)
        return first.resize((round(first.width * scale), round(first.height * scale)), Image.Resampling.LANCZOS)
    if wanted.operation is Operation.REMOVE_BACKGROUND:
        return cut_out(first)
    if wanted.operation is Operation.VARIATION:
        made = vary(first, seed + index)
    else:
        made = edit(order, pictures, paint(wanted.prompt, seed, first.size, index, MARK))
    asked = {wanted.size, wanted.aspect_ratio} - {None, "auto"}
    return ImageOps.fit(made, _size(wanted), Image.Resampling.LANCZOS) if asked else made


def encode(picture: Image.Image, save: Mapping[str, Any]) -> bytes:
    """The bytes of a picture, saved as told."""
    file = io.BytesIO()
    picture.save(file, **save)
    return file.getvalue()
