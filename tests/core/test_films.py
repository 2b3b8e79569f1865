"""Films: what is one, what it measures, and that nothing else gets through, or does harm."""

from __future__ import annotations

import asyncio
import io
import random
import resource
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from gateway.core import films, inspection
from gateway.core.films import frames_between, measure
from gateway.core.inspection import Facts, Inspector, NotMedia
from gateway.core.thumbnails import SPRITESHEET, THUMBNAIL
from tests.core.vendors import film, png

MOST = 1_000_000


@pytest.fixture
async def inspector() -> AsyncIterator[Inspector]:
    """An inspector that takes films of at most a million pixels a frame."""
    made = Inspector(MOST)
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test puts what it looks at."""
    return tmp_path / "film"


def measured(file: Path, data: bytes) -> Facts:
    """The facts of these bytes, measured in this process."""
    file.write_bytes(data)
    return measure(file, MOST)


KINDS = [
    ("mp4", "libx264", "video/mp4"), ("mp4", "libx265", "video/mp4"), ("mp4", "libsvtav1", "video/mp4"),
    ("mp4", "mpeg4", "video/mp4"), ("webm", "libvpx-vp9", "video/webm"), ("webm", "libvpx", "video/webm"),
    ("mov", "libx264", "video/quicktime"), ("mov", "prores_ks", "video/quicktime"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "media_type"), KINDS)
def test_every_kind_of_film_is_measured(file: Path, kind: str, codec: str, media_type: str) -> None:
    """Each container and codec that we take is recognised by its bytes, and measured."""
    facts = measured(file, film(36, kind=kind, codec=codec))
    assert (facts.media_type, facts.width, facts.height, facts.fps) == (media_type, 64, 48, 24.0)
    assert facts.seconds == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(("frames", "fps"), [(1, 24), (25, 8), (50, 25), (30, 60)])
def test_length_and_rate_are_what_is_really_there(file: Path, frames: int, fps: int) -> None:
    """Seconds are the frames that were read, each as long as it is shown."""
    assert measured(file, film(frames, fps=fps)) == Facts("video/mp4", 64, 48, round(frames / fps, 3), fps)


async def test_a_film_is_looked_at_in_a_process_of_its_own(inspector: Inspector, file: Path) -> None:
    """From bytes and from a file come the same facts, a first frame, a sheet of frames and a blur."""
    await asyncio.to_thread(file.write_bytes, film(50))
    seen = await inspector.see("video", film(50))
    assert seen == await inspector.see("video", file)
    assert seen.facts == Facts("video/mp4", 64, 48, 2.083, 24.0)
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in seen.pictures.items()}
    assert sizes == {THUMBNAIL: (64, 48), SPRITESHEET: (5 * 64, 5 * 48)}
    assert seen.blurhash


@pytest.mark.parametrize(("number", "wanted"), [(1, 1), (7, 7), (26, 25), (100, 25)])
def test_the_frames_of_a_sheet_are_spread_over_the_film(file: Path, number: int, wanted: int) -> None:
    """As many as there are, at most 25, from the first on, each later than the one before."""
    frames = frames_between(file, measured(file, film(number)))
    shades = [shade(frame) for frame in frames]
    assert len(shades) == wanted
    assert shades[0] < 50
    assert number == 1 or shades[-1] > 40 + 160 * 0.8
    assert shades == sorted(shades)


def test_of_a_very_long_film_only_key_frames_are_decoded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all its frames would be too many pixels, fewer are shown, and the first one is among them."""
    facts = measured(file, film(100))
    monkeypatch.setattr(films, "MOST_DECODED", 64 * 48 * 99)
    (first, *others) = frames_between(file, facts)
    assert shade(first) < 50
    assert len(others) < 24


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"garbage" * 9, b"<html>error 500</html>", b"\0\0\0\x18ftypmp42", b"\x1a\x45\xdf\xa3 webm",
     b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"GIF89a",
     png(), b"\0\0\0\x18ftypisom#EXTM3U\nfile:///etc/passwd"],
    ids=lambda data: repr(data[:16]),
)  # fmt: skip
def test_what_is_no_film_is_refused(file: Path, data: bytes) -> None:
    """Texts, pictures, mere beginnings, and lists of other files that a player would open."""
    with pytest.raises(NotMedia):
        measured(file, data)


@pytest.mark.parametrize("kind", ["matroska", "avi", "mpegts"])
def test_other_containers_are_refused(file: Path, kind: str) -> None:
    """What the decoder could open, but we do not take, is no media."""
    with pytest.raises(NotMedia, match="no film in a format that is taken: MP4, QuickTime or WebM"):
        measured(file, film(kind=kind))


@pytest.mark.parametrize("part", [0.7, 0.9, 0.999])
def test_a_truncated_film_is_refused(file: Path, part: float) -> None:
    """A film that promises more frames than there are is none: half of it is not what was bought."""
    whole = fast_start(film(48))
    assert measured(file, whole).seconds == 2.0
    with pytest.raises(NotMedia, match="it ends"):
        measured(file, whole[: int(len(whole) * part)])


def test_a_film_that_lacks_its_last_frame_is_refused(file: Path) -> None:
    """Also where it ends between two frames, so that none of those that are there is broken."""
    whole = fast_start(film(48))
    with av.open(io.BytesIO(whole), "r") as container:
        last = max(packet.pos for packet in container.demux(video=0) if packet.pos)
    with pytest.raises(NotMedia, match="after 47 of 48 frames"):
        measured(file, whole[:last])


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_no_damage_breaks_the_look(file: Path, kind: str) -> None:
    """A hundred damaged copies are each either decoded or refused; nothing else is ever raised."""
    whole, chance = film(kind=kind, codec="libx264" if kind == "mp4" else "libvpx"), random.Random(kind)  # noqa: S311 - no secret
    for _ in range(100):
        spoiled = bytearray(whole)
        for _ in range(chance.choice((1, 5, 30))):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        try:
            facts = measured(file, bytes(spoiled))
        except NotMedia:
            continue
        assert facts.width * facts.height <= MOST


def test_more_than_is_allowed_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, frames, seconds and streams are bounded, whatever the header says."""
    file.write_bytes(film())
    with pytest.raises(NotMedia, match="pixels"):
        measure(file, 64 * 48 - 1)
    assert measure(file, 64 * 48).width == 64
    for name, most in (("MOST_FRAMES", 23), ("MOST_SECONDS", 0.9), ("MOST_STREAMS", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(films, name, most)
            with pytest.raises(NotMedia):
                measure(file, MOST)


def test_a_length_that_the_header_makes_up_is_not_believed(file: Path) -> None:
    """A film header that speaks of a thousand hours changes nothing of what is there."""
    data = bytearray(film())
    place = data.index(b"mvhd") + 4 + 16
    data[place : place + 4] = struct.pack(">I", 2**31)
    assert measured(file, bytes(data)).seconds == 1.0


async def test_a_film_that_its_decoder_dies_of_is_no_film(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A crash and an endless loop of the looking process end as NotMedia; a fault of ours ends as one to try again."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    look = tmp_path / "dies.py"
    monkeypatch.setattr(inspection, "LOOK", "dies")
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    endless = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 2))\nwhile True: pass"
    for code, raised in ((crash, NotMedia), (endless, NotMedia), ("import nothing", OSError), ("", OSError)):
        look.write_text(code)
        with pytest.raises(raised) as caught:
            await inspector.see("video", film())
        assert isinstance(caught.value, NotMedia) == (raised is NotMedia)
    look.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(inspection, "LOOK_SECONDS", 0.2)
    with pytest.raises(TimeoutError):
        await inspector.see("video", film())


async def test_a_film_without_its_small_pictures_is_a_film(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When the process dies over the pictures, the facts that it had found before stand."""
    (tmp_path / "tires.py").write_text(
        "import sys\nfrom gateway.core import films\n"
        "def none(*_): raise RuntimeError('no')\nfilms.first_frame = none\nfilms.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(inspection, "LOOK", "tires")
    seen = await inspector.see("video", film())
    assert (seen.facts.seconds, seen.pictures, seen.blurhash) == (1.0, {}, None)


async def test_a_picture_is_no_film_and_a_film_no_picture(inspector: Inspector) -> None:
    """Each kind takes only its own."""
    for kind, data in (("video", png()), ("image", film())):
        with pytest.raises(NotMedia):
            await inspector.see(kind, data)


async def test_many_films_do_not_keep_pictures_waiting(inspector: Inspector) -> None:
    """Pictures are decoded beside films, not behind them."""
    looks = [asyncio.create_task(inspector.see("video", film())) for _ in range(4)]
    await inspector.image(png())
    assert not all(look.done() for look in looks)
    await asyncio.gather(*looks)


def test_it_says_why_it_refuses(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a command it ends with the status of a refusal, and the reason on standard error."""
    file.write_bytes(b"garbage")
    monkeypatch.setattr(sys, "argv", ["films", str(file), str(file.parent), "100"])
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        films.main()
    assert caught.value.code == inspection.REFUSED
    assert "no film in a format that is taken" in capsys.readouterr().err


def shade(frame: Image.Image) -> int:
    """How bright the film is at this frame."""
    dot: Any = frame.getpixel((5, 5))
    return int(dot[0])


def fast_start(data: bytes) -> bytes:
    """The film with its index before its frames, as it is served for playing while it loads."""
    boxes, place = {}, 0
    while place < len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        boxes[name] = data[place : place + size]
        place += size
    moved, moov = len(boxes[b"moov"]), bytearray(boxes[b"moov"])
    table = moov.index(b"stco") + 8
    for entry in range(struct.unpack(">I", moov[table : table + 4])[0]):
        at = table + 4 + entry * 4
        moov[at : at + 4] = struct.pack(">I", struct.unpack(">I", moov[at : at + 4])[0] + moved)
    rest = b"".join(box for name, box in boxes.items() if name not in (b"ftyp", b"moov"))
    return boxes[b"ftyp"] + bytes(moov) + rest
