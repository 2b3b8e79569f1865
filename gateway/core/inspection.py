"""Inspection: what bytes really are. A result counts once it was decoded, and is described by what was measured."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec
from PIL import Image, UnidentifiedImageError

from gateway.core import pictures, thumbnails
from gateway.core.pictures import Cleaned
from gateway.core.thumbnails import MEDIA_TYPES, THUMBNAIL, blur, thumbnail
from providers.contract import Preview

log = logging.getLogger(__name__)
Given = TypeVarTuple("Given")
Result = TypeVar("Result")

# An allow-list: Pillow can open more than forty formats, and most of its past holes were in the rare ones.
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "AVIF": "image/avif"}
TAKEN = "PNG, JPEG, WEBP, GIF or AVIF"
EXTENSIONS = {
    "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/avif": "avif",
    "video/mp4": "mp4", "video/webm": "webm", "video/quicktime": "mov",
}  # fmt: skip
# What looks at films, as a process of its own, how long that may take in all, and what it leaves beside the pictures.
LOOK, LOOK_SECONDS = "gateway.core.films", 300
FACTS, BLUR = "facts.json", "blurhash"
# How it ends when a film is none, and how when a film was too much for it. All else is no fault of the film.
REFUSED = 3
DEADLY = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGXCPU}


# What the machine lacks, and no bytes are at fault for: room, and files.
LACKING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class NotMedia(Exception):
    """The bytes are no image or film that can be decoded, or one that is larger than allowed."""


class Facts(msgspec.Struct, frozen=True):
    """What was measured: media type, width and height in pixels, and of a film its length and frames per second."""

    media_type: str
    width: int
    height: int
    seconds: float | None = None
    fps: float | None = None


class Seen(msgspec.Struct, frozen=True):
    """The facts of an image or film, and what was made of it: a blur, and small pictures by their names.

    Those are left out that could not be made: nothing depends on them.
    """

    facts: Facts
    blurhash: str | None = None
    pictures: dict[str, bytes] = {}


class Inspector:
    """Decodes in a few threads of its own, and films in processes, so that neither event loop nor memory gives way."""

    def __init__(self, max_pixels: int, threads: int = 2) -> None:
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="inspect")
        # These only wait for their processes, and no image is to wait behind them.
        self._films = ThreadPoolExecutor(threads, thread_name_prefix="films")
        # Nor behind previews, which nothing depends on.
        self._previews = ThreadPoolExecutor(1, thread_name_prefix="previews")

    async def image(self, source: bytes | Path) -> Facts:
        """Decodes the whole image; raises NotMedia when that does not work."""
        return (await self._run(self._threads, _decode, source, self.max_pixels)).facts

    async def see(self, kind: str, source: bytes | Path) -> Seen:
        """Decodes what should be of that kind, and makes small pictures of it. Raises NotMedia when it is none.

        Of a film the first frame is decoded, and the rest is read through. Raises OSError when a film could not be
        looked at: the machine has no room, or no time.
        """
        if kind == "video":
            return await self._run(self._films, _look, source, self.max_pixels)
        return await self._run(self._threads, _decode, source, self.max_pixels, True)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[*Given], Result], *given: *Given) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *given)

    async def glance(self, source: Path) -> Facts:
        """What a caller's picture says of itself, upright, without decoding it; raises NotMedia for what is none."""
        return await self._run(self._threads, _glance, source, self.max_pixels)

    async def clean(self, source: Path, target: Path) -> Cleaned:
        """Writes a caller's picture anew, see `pictures.clean`.

        Raises NotMedia for what is none, and OSError when the machine has no room.
        """
        return await self._run(self._threads, _clean, source, target, self.max_pixels)

    async def convert(
        self, source: bytes | Path, media_type: str, quality: int = pictures.QUALITY
    ) -> pictures.Converted:
        """The image in another format, see `pictures.convert`; raises NotMedia when that does not work."""
        return await self._run(self._threads, _convert, source, media_type, quality, self.max_pixels)

    async def smaller(self, preview: Preview) -> Preview:
        """A preview as a small JPEG; raises NotMedia when it is none."""
        data = await self._run(self._previews, _smaller, preview.data, self.max_pixels)
        return Preview("image/jpeg", data, preview.index)

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._films.shutdown(wait=False, cancel_futures=True)
        self._previews.shutdown(wait=False, cancel_futures=True)


def _decode(source: bytes | Path, max_pixels: int, more: bool = False) -> Seen:
    with _opened(source, max_pixels) as image:
        # A JPEG with further pictures behind the first, as cameras make them, is called MPO.
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        seen = Seen(Facts(FORMATS[kind], *image.size))
        return _with_small(seen, image) if more else seen


def _glance(source: Path, max_pixels: int) -> Facts:
    if not source.stat().st_size:
        raise NotMedia("it is empty")
    with _headed(source, max_pixels) as image:
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        return Facts(FORMATS[kind], *pictures.upright(image))


def _clean(source: Path, target: Path, max_pixels: int) -> Cleaned:
    with _opened(source, max_pixels) as image:
        return pictures.clean(image, target)


def _convert(source: bytes | Path, media_type: str, quality: int, max_pixels: int) -> pictures.Converted:
    with _opened(source, max_pixels) as image:
        return pictures.convert(image, media_type, quality)


def _smaller(source: bytes, max_pixels: int) -> bytes:
    with _opened(source, max_pixels) as image:
        return thumbnails.preview(image)


@contextmanager
def _opened(source: bytes | Path, max_pixels: int) -> Iterator[Image.Image]:
    """As `_headed`, with the image decoded."""
    with _headed(source, max_pixels) as image:
        image.load()
        yield image


@contextmanager
def _headed(source: bytes | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The image by its header; what goes wrong inside the block is the fault of the bytes.

    Raises OSError when the machine lacks something.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit, checked before decoding, is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=tuple(FORMATS)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise NotMedia(f"it is {width}x{height}, and may have at most {max_pixels} pixels")
                yield image
    except (NotMedia, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise NotMedia(f"it is no picture in a format that is taken: {TAKEN}") from error
    except Image.DecompressionBombError as error:
        raise NotMedia(f"it may have at most {max_pixels} pixels, and has far more") from error
    # What decoders raise for broken bytes differs from one to the next.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LACKING:
            raise
        raise NotMedia(f"it is damaged or incomplete. Formats that are taken: {TAKEN}") from error


def _with_small(seen: Seen, image: Image.Image) -> Seen:
    try:
        return Seen(seen.facts, blur(image), {THUMBNAIL: thumbnail(image)})
    # A picture that was paid for is not lost because it cannot be made smaller.
    except Exception:
        log.warning("no thumbnail could be made of a picture", exc_info=True)
        return seen


def _look(source: bytes | Path, max_pixels: int) -> Seen:
    with tempfile.TemporaryDirectory(prefix="heliograph-") as name:
        folder = Path(name)
        if isinstance(source, bytes):
            (folder / "film").write_bytes(source)
            source = folder / "film"
        command = [sys.executable, "-m", LOOK, str(source), name, str(max_pixels)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=LOOK_SECONDS, check=False)  # noqa: S603 - ours
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("the film was not looked at in time") from error
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        if (folder / FACTS).exists():
            if done.returncode:
                log.warning("not every small picture could be made of a film: %s %s", done.returncode, said)
            return _seen(folder)
        if done.returncode == REFUSED or -done.returncode in DEADLY:
            raise NotMedia(said or "it cannot be decoded")
        raise OSError(f"the film could not be looked at: {done.returncode} {said}")


def _seen(folder: Path) -> Seen:
    """What lies in the folder after a look."""
    facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    blurhash = folder / BLUR
    return Seen(
        facts,
        blurhash.read_text(encoding="ascii") if blurhash.exists() else None,
        {name: (folder / name).read_bytes() for name in MEDIA_TYPES if (folder / name).exists()},
    )
