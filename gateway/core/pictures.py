"""Pictures: what a picture becomes that is written anew, a caller's or a provider's. Blocking: it belongs in a thread.

The first frame, upright, in sRGB, eight bits a channel, without metadata, and without whatever else was in the file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image, ImageCms, ImageOps

ORIENTATION = 0x0112
# What is written has at most one channel for transparency, and colours or greys.
PLAIN_MODES = ("L", "RGB", "RGBA")
QUALITY = 95


class Cleaned(msgspec.Struct, frozen=True):
    """What was written: media type, width and height in pixels, bytes, whether some of it may be transparent."""

    media_type: str
    width: int
    height: int
    size: int
    transparent: bool


class Converted(msgspec.Struct, frozen=True):
    """A picture in another format: its bytes, width and height in pixels."""

    data: bytes
    width: int
    height: int


def clean(image: Image.Image, target: Path) -> Cleaned:
    """Writes the opened picture anew. What decoders raise for broken bytes differs from one to the next."""
    lossy = image.format in ("JPEG", "MPO", "WEBP", "AVIF")
    # Its colours are kept as they are where nothing else has to change.
    as_it_is = image.format == "JPEG" and image.mode in PLAIN_MODES and not _has_more(image)
    if as_it_is:
        # What is left there, Pillow would write again.
        image.info = {}
        _write(image, target, "JPEG", quality="keep", exif=b"", comment=b"")
        return Cleaned("image/jpeg", *image.size, target.stat().st_size, False)
    plain = _plain(_in_srgb(ImageOps.exif_transpose(image)))
    plain.info = {}
    if lossy and plain.mode != "RGBA":
        _write(plain, target, "JPEG", quality=QUALITY)
        return Cleaned("image/jpeg", *plain.size, target.stat().st_size, False)
    _write(plain, target, "PNG", compress_level=1)
    return Cleaned("image/png", *plain.size, target.stat().st_size, plain.mode == "RGBA")


class _Numberless(io.FileIO):
    """A file that keeps its number to itself: given that, Pillow writes past Python, and forgets why it could not."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _write(image: Image.Image, target: Path, kind: str, **options: Any) -> None:
    """Writes the picture; raises OSError with its number when the machine has no room."""
    with io.BufferedWriter(_Numberless(target, "wb")) as file:
        image.save(file, kind, **options)


def convert(image: Image.Image, media_type: str, quality: int = QUALITY) -> Converted:
    """The opened picture in another format, upright and plain.

    What is transparent becomes white where the format has no transparency.
    """
    kind = media_type.removeprefix("image/").upper()
    plain = _plain(_in_srgb(ImageOps.exif_transpose(image)))
    plain.info = {}
    if kind == "JPEG" and plain.mode == "RGBA":
        ground = Image.new("RGBA", plain.size, "white")
        plain = Image.alpha_composite(ground, plain).convert("RGB")
    written = io.BytesIO()
    plain.save(written, kind, **_saving(kind, quality))
    return Converted(written.getvalue(), *plain.size)


def _saving(kind: str, quality: int) -> dict[str, int]:
    """How a format is written: what is fast and hardly larger."""
    if kind == "PNG":
        return {"compress_level": 1}
    if kind == "AVIF":
        return {"quality": quality, "speed": 8}
    return {} if kind == "GIF" else {"quality": quality}


def upright(image: Image.Image) -> tuple[int, int]:
    """Width and height as they will be when the picture is upright, without decoding it."""
    # Of a PNG what stands behind the pixels could only be read by decoding them.
    known = image.format != "PNG" or "exif" in image.info
    turned = known and image.getexif().get(ORIENTATION, 1) >= 5
    return (image.height, image.width) if turned else (image.width, image.height)


def _has_more(image: Image.Image) -> bool:
    """Whether it is turned, or has colours of its own."""
    return image.getexif().get(ORIENTATION, 1) != 1 or "icc_profile" in image.info


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture in the colours that everybody assumes; one whose profile makes no sense, as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        own, usual = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        mode = "RGB" if image.mode == "CMYK" else image.mode
        turned = ImageCms.profileToProfile(image, own, usual, outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return turned or image


def _plain(image: Image.Image) -> Image.Image:
    """The picture in eight bits a channel: grey, coloured, or coloured and transparent."""
    if image.mode != "RGBA" and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in PLAIN_MODES:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Sixteen bits of grey: cut to eight, which a plain conversion would clip to white.
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("L" if image.mode == "1" else "RGB")
