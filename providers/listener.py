"""Listener: what ComfyUI's socket tells of one job, as progress and previews.

A text is JSON, `{type, data}`. Bytes begin with their kind, a number of four bytes with the highest first. Kind 1 is a
preview, whose picture begins at byte 8. Kind 4 is one that says whose it is: the length of its JSON stands in bytes 4
to 7, then come the JSON and the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from providers.contract import Preview, Progress

HELLO = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'
"""Sent before all else, it makes the previews be of kind 4, where the server knows that."""
LAST_FRAMES = ("execution_success", "execution_error", "execution_interrupted")
SAMPLING_FROM, SAMPLING_SHARE = 0.05, 0.9
"""The part of a job's progress that is made of the sampler's steps."""
PREVIEW, PREVIEW_WITH_OWNER = 1, 4
PREVIEW_BYTES = 1 << 20
"""Larger previews are passed over. A server makes them of 512 pixels unless it was told otherwise, which is 80 kB."""
_SIGNATURES: Mapping[str, bytes] = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n"}


class Frame(msgspec.Struct, frozen=True):
    """A text that the socket sends."""

    type: str
    data: dict[str, Any] = {}


class Owner(msgspec.Struct, frozen=True):
    """Whose preview it is."""

    prompt_id: str | None = None


class Steps(msgspec.Struct, frozen=True):
    """How far a node has come. One that has no steps counts from 0 to 1."""

    value: float
    max: float
    state: str = "running"


class Nodes(msgspec.Struct, frozen=True):
    """How far all nodes of a job have come that were begun."""

    nodes: dict[str, Steps]


class Listener:
    """Follows one job, whose whole is `share` of an order from `start` on; `numbers` count the order's previews.

    `over` is whether nothing more will come of the job.
    """

    def __init__(self, job: str, start: float, share: float, numbers: Iterator[int]) -> None:
        self.job = job
        self.over = False
        self._start, self._share, self._numbers = start, share, numbers
        self._begun = False
        self._furthest = Progress(0.0)

    def hear(self, told: Any) -> Progress | None:
        """What is new in a message; None when that is nothing: it is about others, or of some node's own kind."""
        if isinstance(told, str):
            return self._text(told)
        return self._preview(told) if isinstance(told, bytes) else None

    def _text(self, told: str) -> Progress | None:
        try:
            frame = msgspec.json.decode(told, type=Frame)
        except msgspec.MsgspecError:
            return None
        if frame.data.get("prompt_id") != self.job:
            return None
        self._begun, self.over = True, frame.type in LAST_FRAMES
        progress = _progress(frame)
        if progress is None or progress.fraction <= self._furthest.fraction:
            return None
        self._furthest = progress
        return self._part(None)

    def _preview(self, told: bytes) -> Progress | None:
        kind, length = int.from_bytes(told[:4]), int.from_bytes(told[4:8])
        # Kind 1 does not say whose it is. The server works on one job at a time: once ours has begun, it is ours.
        if kind == PREVIEW and self._begun:
            picture = told[8:]
        elif kind == PREVIEW_WITH_OWNER and _owner(told[8 : 8 + length]) == self.job:
            picture = told[8 + length :]
        else:
            return None
        media_type = next((one for one, begin in _SIGNATURES.items() if picture.startswith(begin)), None)
        if media_type is None or len(picture) > PREVIEW_BYTES:
            return None
        return self._part(Preview(media_type, picture, next(self._numbers)))

    def _part(self, preview: Preview | None) -> Progress:
        """How far the order is."""
        return Progress(self._start + self._share * self._furthest.fraction, self._furthest.note, preview)


def _owner(text: bytes) -> str | None:
    try:
        return msgspec.json.decode(text, type=Owner).prompt_id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _progress(frame: Frame) -> Progress | None:
    """How far the job is, when that is what a text says."""
    if frame.type == "execution_start":
        return Progress(SAMPLING_FROM, "started")
    steps = _steps(frame)
    if steps is None:
        return None
    share = min(max(steps.value / steps.max, 0.0), 1.0)
    return Progress(SAMPLING_FROM + SAMPLING_SHARE * share, f"step {steps.value:g} of {steps.max:g}")


def _steps(frame: Frame) -> Steps | None:
    """The steps of the node that is at work. `progress_state` says it before the step's preview comes."""
    try:
        if frame.type == "progress":
            steps = msgspec.convert(frame.data, Steps)
            return steps if steps.max > 0 else None
        if frame.type == "progress_state":
            nodes = msgspec.convert(frame.data, Nodes).nodes.values()
            return next((one for one in nodes if one.state == "running" and one.max > 1), None)
    except msgspec.ValidationError:
        pass
    return None
