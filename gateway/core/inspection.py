"""Inspection: what bytes really are. A result counts once it was decoded, and is described by what was measured."""

from __future__ import annotations

import asyncio
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from PIL import Image

# An allow-list: Pillow can open more than forty formats, and most of its past holes were in the rare ones.
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "AVIF": "image/avif"}
EXTENSIONS = {
    "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/avif": "avif",
}  # fmt: skip


class NotMedia(Exception):
    """The bytes are no image that can be decoded, or one that is larger than allowed."""


class Facts(msgspec.Struct, frozen=True):
    """What was measured: media type, and width and height in pixels."""

    media_type: str
    width: int
    height: int


class Inspector:
    """Decodes images in a few threads of its own, so that neither the event loop nor memory gives way."""

    def __init__(self, max_pixels: int, threads: int = 2) -> None:
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="inspect")

    async def image(self, source: bytes | Path) -> Facts:
        """Decodes the whole image; raises NotMedia when that does not work."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _decode, source, self.max_pixels)

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _decode(source: bytes | Path, max_pixels: int) -> Facts:
    try:
        with warnings.catch_warnings():
            # Our own limit, checked before decoding, is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=tuple(FORMATS)
            ) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise NotMedia(f"{width}x{height} is more than {max_pixels} pixels")
                image.load()
                # A JPEG with further pictures behind the first, as cameras make them, is called MPO.
                kind = "JPEG" if image.format == "MPO" else image.format or ""
                return Facts(FORMATS[kind], width, height)
    except (NotMedia, MemoryError):
        raise
    # What decoders raise for broken bytes differs from one to the next.
    except Exception as error:
        raise NotMedia(f"not an image that can be decoded: {type(error).__name__}") from error
