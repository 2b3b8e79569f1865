"""Rescaling: a film made larger or smoother by plain means, without a model. Blocking."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from providers.contract import Input, Output, Refused

LONG_EDGES: Mapping[str, int] = {"360p": 640, "720p": 1280, "1080p": 1920}
LARGEST = 1920


def rescale(film: Input, parameters: Mapping[str, Any]) -> Output:
    """The film as H.264 in MP4, without sound: by `scale`, or up to a `resolution`, at so many `fps`.

    Raises Refused for what would be larger than 1920 pixels.
    """
    width, height = _size(film, parameters)
    with tempfile.TemporaryDirectory(prefix="heliograph-rescale-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out.mp4")
        source.write_bytes(film.data)
        with av.open(str(source)) as opened, av.open(str(target), "w", options={"movflags": "+faststart"}) as made:
            read: Any = opened.streams.video[0]
            was = Fraction(read.average_rate or 24)
            rate = Fraction(parameters.get("fps") or was)
            written: Any = made.add_stream("libx264", rate=rate, options={"preset": "veryfast", "qp": "26"})
            written.width, written.height, written.pix_fmt = width, height, "yuv420p"
            written.codec_context.thread_count = 1
            films: Any = av.VideoFrame
            for frame in _at(opened.decode(read), was, rate):
                made.mux(written.encode(films.from_image(frame.to_image(width=width, height=height))))
            made.mux(written.encode())
        return Output("video/mp4", data=target.read_bytes(), width=width, height=height)


def _size(film: Input, parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height, both even, as the encoder wants them."""
    long = max(film.width, film.height)
    scale = parameters.get("scale", 2.0)
    if "resolution" in parameters:
        scale = LONG_EDGES[parameters["resolution"]] / long
    if long * scale > LARGEST:
        raise Refused(f"the film would be larger than {LARGEST} pixels", param="scale")
    return round(film.width * scale / 2) * 2, round(film.height * scale / 2) * 2


def _at(frames: Iterator[Any], was: Fraction, rate: Fraction) -> Iterator[Any]:
    """The frames that are seen at that rate, of a film of another one: some twice, some not at all."""
    start, end, number, last = None, Fraction(), 0, None
    for frame in frames:
        # A float would be a little more than what it stands for, and some frames would be seen twice.
        time = frame.pts * frame.time_base
        start = time if start is None else start
        while last is not None and number / rate < time - start:
            yield last
            number += 1
        last, end = frame, time - start + 1 / was
    while last is not None and number / rate < end:
        yield last
        number += 1
