"""Pictures: those that vendors make, no two of which are the same file, and those that are sent to them."""

from __future__ import annotations

import io
import secrets

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def picture(size: str = "64x64") -> bytes:
    """A PNG that no other is like."""
    width, height = (int(edge) for edge in size.split("x"))
    note, file = PngInfo(), io.BytesIO()
    note.add_text("Comment", secrets.token_hex(16))
    Image.new("RGB", (width, height), (30, 120, 200)).save(file, "PNG", pnginfo=note)
    return file.getvalue()


def drawn(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture that is told from others by its pixels; with mode RGBA its left half may be seen through."""
    image = Image.new(mode, size, (200, 30, 90))
    image.paste((10, 220, 40), (8, 8, 24, 40))
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    return image


def png(image: Image.Image) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def upload(field: str, image: Image.Image) -> tuple[str, tuple[str, bytes, str]]:
    """The picture as a file of a form."""
    return field, (f"{field}.png", png(image), "image/png")


def shows(data: bytes, image: Image.Image) -> bool:
    """Whether a file that has arrived is that picture, pixel by pixel."""
    arrived = Image.open(io.BytesIO(data))
    return arrived.size == image.size and arrived.convert(image.mode).tobytes() == image.tobytes()
