"""Inspection: what is a picture, what it measures, and that nothing else gets through or breaks it."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from gateway.core.inspection import EXTENSIONS, FORMATS, Facts, Inspector, NotMedia
from providers.contract import Preview
from tests.core.vendors import png


@pytest.fixture
async def inspector() -> AsyncIterator[Inspector]:
    """An inspector that takes pictures of at most a million pixels."""
    made = Inspector(1_000_000)
    yield made
    made.close()


def encoded(kind: str, width: int = 40, height: int = 30, mode: str = "RGB") -> bytes:
    """A noisy picture in a format."""
    file = io.BytesIO()
    picture = Image.effect_noise((width, height), 60).convert(mode)
    picture.save(file, kind, **({"save_all": True, "append_images": [picture]} if kind == "MPO" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", sorted(FORMATS))
async def test_every_format_is_measured(inspector: Inspector, kind: str) -> None:
    """Each format that we take is recognised by its bytes, and measured."""
    assert await inspector.image(encoded(kind)) == Facts(FORMATS[kind], 40, 30)
    assert FORMATS[kind] in EXTENSIONS


async def test_a_jpeg_of_several_pictures_is_a_jpeg(inspector: Inspector) -> None:
    """Cameras put a second picture behind the first (MPO): still a JPEG to everybody who shows it."""
    assert await inspector.image(encoded("MPO")) == Facts("image/jpeg", 40, 30)


async def test_files_are_measured_like_bytes(inspector: Inspector, tmp_path: Path) -> None:
    """A file gives the same facts as its bytes."""
    file = tmp_path / "picture"
    file.write_bytes(encoded("WEBP"))
    assert await inspector.image(file) == Facts("image/webp", 40, 30)


async def test_results_do_not_wait_for_previews() -> None:
    """However many previews are to be made smaller: a picture that was paid for is looked at meanwhile."""
    inspector = Inspector(10_000_000, threads=1)
    large = Preview("image/png", encoded("PNG", 2000, 2000))
    async with asyncio.TaskGroup() as group:
        previews = [group.create_task(inspector.smaller(large)) for _ in range(8)]
        await asyncio.sleep(0)
        await inspector.image(encoded("PNG"))
        assert not all(one.done() for one in previews)
    inspector.close()


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "EPS", "JPEG2000"])
async def test_other_formats_are_refused(inspector: Inspector, kind: str) -> None:
    """What the decoder could open, but we do not take, is no media."""
    with pytest.raises(NotMedia):
        await inspector.image(encoded(kind))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"garbage", b"<html><body>error 500</body></html>", b'{"error": "no"}', b"<svg onload='alert(1)'/>",
     b"%PDF-1.7", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 "],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_picture_is_refused(inspector: Inspector, data: bytes) -> None:
    """Texts, other files and mere beginnings of pictures are no media."""
    with pytest.raises(NotMedia):
        await inspector.image(data)


@pytest.mark.parametrize("kind", sorted(FORMATS))
async def test_a_truncated_picture_is_refused(inspector: Inspector, kind: str) -> None:
    """Half a picture is no picture: it is decoded whole before it counts."""
    whole = encoded(kind)
    with pytest.raises(NotMedia):
        await inspector.image(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", sorted(FORMATS))
async def test_no_damage_breaks_the_inspector(inspector: Inspector, kind: str) -> None:
    """Three hundred damaged copies are each either decoded or refused; nothing else is ever raised."""
    whole, chance = encoded(kind), random.Random(kind)  # noqa: S311 - no secret - damage, no secret
    copies = [_damaged(whole, chance) for _ in range(300)]
    results = await asyncio.gather(*(inspector.image(copy) for copy in copies), return_exceptions=True)
    assert {type(result) for result in results} <= {Facts, NotMedia}


async def test_more_pixels_than_allowed_are_not_decoded(inspector: Inspector) -> None:
    """The bound is exact, and a tiny file that promises a huge picture is refused by its header."""
    assert await inspector.image(png(1000, 1000)) == Facts("image/png", 1000, 1000)
    for data in (png(1001, 1000), _promising(60_000, 60_000), _promising(30_000, 5_000), _promising(1, 2**31 - 1)):
        with pytest.raises(NotMedia):
            await inspector.image(data)


async def test_a_glance_decodes_nothing(inspector: Inspector, tmp_path: Path) -> None:
    """What a header says is seen without the pixels, and upright; beyond the bound nothing is looked at."""
    file = io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (640, 480)).save(file, "JPEG", exif=turned)
    path = tmp_path / "picture"
    path.write_bytes(file.getvalue()[:700])
    assert await inspector.glance(path) == Facts("image/jpeg", 480, 640)
    path.write_bytes(png(5000, 5000)[:64])
    with pytest.raises(NotMedia, match="it is 5000x5000, and may have at most"):
        await inspector.glance(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_full_disk_is_not_the_fault_of_a_picture(inspector: Inspector, tmp_path: Path, kind: str) -> None:
    """A picture that is whole and cannot be written anew for want of room is not called a bad one."""
    path = tmp_path / "picture"
    Image.effect_noise((512, 512), 90).save(path, kind)
    with pytest.raises(OSError, match="No space left"):
        await inspector.clean(path, Path("/dev/full"))


async def test_what_stands_behind_a_picture_does_not_matter(inspector: Inspector) -> None:
    """A page that hides behind a picture leaves it a picture, whose type we say, not the bytes."""
    assert await inspector.image(png() + b"<script>alert(1)</script>") == Facts("image/png", 64, 64)


async def test_only_the_first_frame_is_decoded(inspector: Inspector) -> None:
    """A film of many frames costs no more than its first."""
    file = io.BytesIO()
    frames = [Image.new("L", (50, 20), shade) for shade in range(60)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert await inspector.image(file.getvalue()) == Facts("image/gif", 50, 20)


async def test_a_missing_file_is_refused(inspector: Inspector, tmp_path: Path) -> None:
    """A file that is gone is no media, rather than a defect."""
    with pytest.raises(NotMedia):
        await inspector.image(tmp_path / "gone")


def _damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them changed, most often near the beginning, and perhaps with an end missing."""
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 2, 5, 20))):
        spoiled[chance.randrange(chance.choice((60, len(spoiled))))] = chance.randrange(256)
    return bytes(spoiled[: chance.randrange(len(spoiled))] if chance.random() < 0.3 else spoiled)


def _promising(width: int, height: int) -> bytes:
    """A PNG whose header says that it is so large, with nothing behind it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
