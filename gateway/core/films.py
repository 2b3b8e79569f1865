"""Films, looked at in a process of their own: a file made to harm its decoder harms nothing else.

`python -m gateway.core.films FILE FOLDER MAX_PIXELS` writes what it found into the folder: `facts.json` first, and
then, as far as it gets, the small pictures. It ends with REFUSED when the file is no film that can be decoded.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import av.logging
import msgspec
from PIL import Image

from gateway.core.inspection import BLUR, FACTS, REFUSED, Facts, NotMedia
from gateway.core.thumbnails import SPRITESHEET, THUMBNAIL, TILES, blur, spritesheet, thumbnail

# An allow-list, as for pictures: of what FFmpeg can open, what vendors of films deliver.
CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "prores"})
TAKEN = "MP4, QuickTime or WebM"
MOST_STREAMS, MOST_SECONDS, MOST_FRAMES = 16, 3600, 250_000
# More than that many pixels in all its frames, and a sheet is made of its key frames only.
MOST_DECODED = 2_000_000_000
# What the process may use: seconds of CPU time, and bytes of memory.
CPU_SECONDS, MEMORY = 60, 4 << 30


def measure(file: Path, max_pixels: int) -> Facts:
    """Reads the film through and decodes its first frame. Raises NotMedia when that does not work."""
    try:
        with _opened(file) as container:
            film = _checked(container, max_pixels)
            frames, seconds = _read_through(container, film)
            first = next(_frames(container))
            _check_pixels(first.width, first.height, max_pixels)
            fps = _rate(film, frames / seconds)
            return Facts(_media_type(file), first.width, first.height, round(seconds, 3), fps)
    except NotMedia:
        raise
    # What decoders raise for broken bytes differs from one to the next; the memory that they lack, too, is their doing.
    except Exception as error:
        raise NotMedia(f"it is damaged or incomplete. Formats that are taken: {TAKEN}") from error


def first_frame(file: Path) -> Image.Image:
    """The first frame of a film that was measured."""
    with _opened(file) as container:
        return _picture(next(_frames(container)))


def frames_between(file: Path, facts: Facts) -> list[Image.Image]:
    """At most TILES frames of a film that was measured, evenly spread over its time."""
    seconds = facts.seconds or 0.0
    number = round(seconds * (facts.fps or 0.0))
    wanted = min(TILES, number)
    found: list[Image.Image] = []
    with _opened(file) as container:
        film = container.streams.video[0]
        if facts.width * facts.height * number > MOST_DECODED:
            film.codec_context.skip_frame = "NONKEY"
        start = None
        for frame in _frames(container):
            start = frame.time if start is None else start
            if len(found) < wanted and frame.time - start >= seconds * len(found) / wanted - 1e-3:
                found.append(_picture(frame))
    return found


def _opened(file: Path) -> Any:
    """The container, read as what it is by its first bytes: FFmpeg never chooses among its formats by itself.

    Some of these are lists of further files to open.
    """
    kind = "matroska" if _media_type(file) == "video/webm" else "mov"
    return av.open(str(file), format=kind, options={"protocol_whitelist": "file"}, metadata_errors="ignore")


def _media_type(file: Path) -> str:
    with file.open("rb") as opened:
        head = opened.read(64)
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head:
        return "video/webm"
    raise NotMedia(f"it is no film in a format that is taken: {TAKEN}")


def _checked(container: Any, max_pixels: int) -> Any:
    """The stream of pictures, as its header describes it."""
    films = [one for one in container.streams.video if not one.disposition & one.disposition.attached_pic]
    if not films or len(container.streams) > MOST_STREAMS:
        raise NotMedia(f"it has {len(container.streams)} streams, {len(films)} of them of moving pictures")
    # It is the first one that everybody shows, and that the frames are taken from.
    film = films[0]
    if film is not container.streams.video[0]:
        raise NotMedia("its first stream of pictures is a still one")
    if film.codec_context.name not in CODECS and film.codec_context.codec.canonical_name not in CODECS:
        raise NotMedia(f"its codec {film.codec_context.name} is not taken. Allowed: {', '.join(sorted(CODECS))}")
    _check_pixels(film.codec_context.width, film.codec_context.height, max_pixels)
    # The frames may say otherwise than the header.
    film.codec_context.options = {"max_pixels": str(max_pixels)}
    return film


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if not 0 < width * height <= max_pixels:
        raise NotMedia(f"it is {width}x{height}, and may have from 1 to {max_pixels} pixels")


def _read_through(container: Any, film: Any) -> tuple[int, float]:
    """How many frames there are and for how many seconds they last, by the packets that are really there."""
    frames, first, last = 0, None, 0
    for packet in container.demux(film):
        if packet.pts is None:
            continue
        if packet.is_corrupt:
            raise NotMedia("it ends too early")
        frames += 1
        first = packet.pts if first is None else min(first, packet.pts)
        last = max(last, packet.pts + (packet.duration or 0))
        if frames > MOST_FRAMES or (last - first) * film.time_base > MOST_SECONDS:
            raise NotMedia(f"it has more than {MOST_FRAMES} frames or {MOST_SECONDS} seconds")
    if frames < film.frames:
        raise NotMedia(f"it ends after {frames} of {film.frames} frames")
    seconds = float((last - (first or 0)) * film.time_base)
    if not frames or seconds <= 0:
        raise NotMedia("none of its frames lasts any time")
    container.seek(0)
    return frames, seconds


def _rate(film: Any, measured: float) -> float:
    """Frames per second: as its header has them, unless what was measured is another rate."""
    said = float(film.average_rate or 0)
    return round(said if abs(said - measured) < measured / 100 else measured, 3)


def _frames(container: Any) -> Iterator[Any]:
    film = container.streams.video[0]
    film.codec_context.thread_count = 1
    yield from container.decode(film)


def _picture(frame: Any) -> Image.Image:
    picture: Image.Image = frame.to_image()
    return picture


def look(file: Path, folder: Path, max_pixels: int) -> None:
    """Writes the facts of the film into the folder, then its small pictures. Raises NotMedia when it is none."""
    facts = measure(file, max_pixels)
    (folder / FACTS).write_bytes(msgspec.json.encode(facts))
    poster = first_frame(file)
    (folder / THUMBNAIL).write_bytes(thumbnail(poster))
    (folder / BLUR).write_text(blur(poster), encoding="ascii")
    (folder / SPRITESHEET).write_bytes(spritesheet(frames_between(file, facts)))


def main() -> None:
    """Limits the process, then looks."""
    # FFmpeg would write what it thinks of the file to the log of the gateway.
    av.logging.set_level(av.logging.PANIC)
    for what, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        # A system may not know a limit, or have a lower one. At the upper bound it would end without saying why.
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most + 1))
    file, folder, max_pixels = sys.argv[1:]
    try:
        look(Path(file), Path(folder), int(max_pixels))
    except NotMedia as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
