"""Small pictures: their sizes, their orientation, and that every mode of picture has them."""

from __future__ import annotations

import io

import blurhash  # type: ignore[import-untyped]  # it has no types
import pytest
from PIL import Image

from gateway.core.thumbnails import THUMBNAIL_EDGE, blur, preview, spritesheet, thumbnail

MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "YCbCr"]


def opened(data: bytes) -> Image.Image:
    """The picture, decoded."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize(
    ("size", "small"),
    [((2000, 1000), (512, 256)), ((300, 900), (171, 512)), ((40, 30), (40, 30)), ((5000, 1), (512, 1))],
)
def test_a_thumbnail_keeps_the_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    """Its longer edge is the constant at most, its shape that of the picture; what is small stays as it is."""
    made = opened(thumbnail(Image.new("RGB", size)))
    assert (made.format, made.size, max(small) <= THUMBNAIL_EDGE) == ("WEBP", small, True)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_picture_has_them(mode: str) -> None:
    """Whatever a decoder yields can be made small and blurred."""
    picture = Image.new(mode, (90, 60))
    assert opened(thumbnail(picture)).size == (90, 60)
    assert len(blur(picture)) == 28


def test_a_thumbnail_stays_transparent() -> None:
    """What one can see through in the picture, one can see through in its thumbnail."""
    assert opened(thumbnail(Image.new("RGBA", (90, 60), (255, 0, 0, 0)))).getchannel("A").getextrema() == (0, 0)
    assert opened(thumbnail(Image.new("RGB", (90, 60)))).mode == "RGB"


@pytest.mark.parametrize(("alpha", "seen"), [(0, (255, 255, 255)), (128, (255, 127, 127)), (255, (255, 0, 0))])
def test_a_preview_shows_no_hidden_colours(alpha: int, seen: tuple[int, int, int]) -> None:
    """JPEG knows no transparency: what one can see through becomes white, as much as one can."""
    made = opened(preview(Image.new("RGBA", (64, 64), (255, 0, 0, alpha))))
    dot = made.getpixel((32, 32))
    assert isinstance(dot, tuple)
    assert max(abs(one - other) for one, other in zip(dot, seen, strict=True)) <= 3


def test_a_thumbnail_is_upright() -> None:
    """A camera's note that the picture lies on its side is followed, for the thumbnail does not carry it."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60)).save(file, "JPEG", exif=exif)
    assert opened(thumbnail(opened(file.getvalue()))).size == (60, 90)


def test_a_blur_shows_the_colours_where_they_are() -> None:
    """Decoded, the blur is red on the left and blue on the right; what is transparent is white."""
    picture = Image.new("RGB", (200, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    row = blurhash.decode(blur(picture), 8, 4)[1]
    assert row[0][0] - row[0][2] > 100
    assert row[-1][2] - row[-1][0] > 100
    clear = blurhash.decode(blur(Image.new("RGBA", (10, 10), (0, 0, 0, 0))), 1, 1)
    assert min(clear[0][0]) > 250


@pytest.mark.parametrize(("number", "size"), [(1, (192, 108)), (5, (960, 108)), (6, (960, 216)), (25, (960, 540))])
def test_a_sheet_has_rows_of_five(number: int, size: tuple[int, int]) -> None:
    """Frames stand from left to right in rows; the last one may be short."""
    made = opened(spritesheet([Image.new("RGB", (1920, 1080), (number, 0, 0))] * number))
    assert (made.format, made.size) == ("JPEG", size)
