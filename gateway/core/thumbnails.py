"""Small pictures of what is kept: a thumbnail, a sheet of a film's frames, and a blur that fits into a line of text."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import blurhash  # type: ignore[import-untyped]  # it has no types
from PIL import Image, ImageOps

THUMBNAIL, SPRITESHEET = "thumbnail", "spritesheet"
# What OpenAI serves of a film: its thumbnail as WebP, its sheet of frames as JPEG.
MEDIA_TYPES = {THUMBNAIL: "image/webp", SPRITESHEET: "image/jpeg"}
# Edges in pixels: the longer one of a thumbnail, of a preview, of a frame on a sheet, and of what a blur is made from.
THUMBNAIL_EDGE, PREVIEW_EDGE, TILE_EDGE, BLUR_EDGE = 512, 1024, 192, 32
TILES, COLUMNS = 25, 5
QUALITY = 80


def thumbnail(picture: Image.Image) -> bytes:
    """The picture with its longer edge at most THUMBNAIL_EDGE, as WebP."""
    small = _small(picture, THUMBNAIL_EDGE, "RGBA" if picture.has_transparency_data else "RGB")
    return _encoded(small, "WEBP", method=2)


def preview(picture: Image.Image) -> bytes:
    """The picture with its longer edge at most PREVIEW_EDGE, as JPEG. What is transparent becomes white."""
    return _encoded(_small_on_white(picture, PREVIEW_EDGE), "JPEG")


def spritesheet(frames: Sequence[Image.Image]) -> bytes:
    """The frames in rows of at most COLUMNS, from left to right, as JPEG. There must be one at least."""
    tiles = [_small(frame, TILE_EDGE, "RGB") for frame in frames]
    width, height = tiles[0].size
    columns = min(len(tiles), COLUMNS)
    sheet = Image.new("RGB", (width * columns, height * math.ceil(len(tiles) / columns)))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return _encoded(sheet, "JPEG")


def blur(picture: Image.Image) -> str:
    """The BlurHash of the picture, with more components along its longer edge. What is transparent counts as white."""
    dots: Any = _small_on_white(picture, BLUR_EDGE)
    width, height = dots.size
    rows = [[dots.getpixel((x, y)) for x in range(width)] for y in range(height)]
    across, down = (4, 3) if width >= height else (3, 4)
    return str(blurhash.encode(rows, across, down))


def _small_on_white(picture: Image.Image, edge: int) -> Image.Image:
    """As `_small`, in RGB: no colour is seen that the picture hides."""
    small = _small(picture, edge, "RGBA")
    return Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")


def _small(picture: Image.Image, edge: int, mode: str) -> Image.Image:
    """A copy in that mode, upright, with its longer edge at most `edge`."""
    small = picture.convert(mode)
    small.thumbnail((edge, edge))
    return ImageOps.exif_transpose(small)


def _encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, quality=QUALITY, **how)
    return file.getvalue()
