"""Jobs: how a ComfyUI server tells of them, in the words of its newer routes and of its older ones, and their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

OVER = ("completed", "failed", "cancelled")
MEDIA_TYPES: Mapping[str, str] = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "avif": "image/avif", "mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime",
    "mkv": "video/x-matroska",
}  # fmt: skip
"""What a file is, by the end of its name. Others, such as sound, are no outputs."""


class Failure(msgspec.Struct, frozen=True):
    """The exception that stopped a node."""

    node_type: str = ""
    exception_message: str = ""
    exception_type: str = ""


class Kept(msgspec.Struct, frozen=True):
    """What we leave with a job for its poll: the kind of its outputs, and the nodes that make them, none for all."""

    kind: str | None = None
    outputs: tuple[str, ...] = ()


class Extra(msgspec.Struct, frozen=True):
    """What the server keeps with a job, of ours."""

    heliograph: Kept = Kept()


class Sent(msgspec.Struct, frozen=True):
    """What a job was made of."""

    prompt: dict[str, Any] = {}
    extra_data: Extra = Extra()


class File(msgspec.Struct, frozen=True):
    """A file that a node has saved, or with the type `temp` only shown."""

    filename: str
    subfolder: str | None = None
    type: str | None = None

    @property
    def media_type(self) -> str | None:
        """What it is by its name; None when it is neither picture nor film."""
        return MEDIA_TYPES.get(self.filename.rpartition(".")[2].lower())


class Job(msgspec.Struct, frozen=True):
    """How a prompt stands."""

    id: str
    status: str
    outputs: dict[str, dict[str, Any]] = {}
    execution_error: Failure | None = None
    workflow: Sent | None = None


class Ending(msgspec.Struct, frozen=True):
    """How a prompt ended, as the history has it."""

    status_str: str = ""
    messages: list[tuple[str, Failure]] = []


class Item(msgspec.Struct, frozen=True, array_like=True):
    """A prompt of the queue or the history."""

    number: float
    id: str
    prompt: dict[str, Any]
    extra_data: Extra


class Entry(msgspec.Struct, frozen=True):
    """A prompt that ended."""

    prompt: Item
    outputs: dict[str, dict[str, Any]] = {}
    status: Ending | None = None

    def job(self) -> Job:
        """The same as newer servers tell it."""
        job, ending = self.prompt.id, self.status or Ending()
        last, failure = ending.messages[-1] if ending.messages else ("", None)
        if last == "execution_interrupted":
            return Job(job, "cancelled")
        if ending.status_str == "error":
            return Job(job, "failed", execution_error=failure)
        return Job(job, "completed", self.outputs, workflow=Sent(self.prompt.prompt, self.prompt.extra_data))


class Queue(msgspec.Struct, frozen=True):
    """The prompts that run and wait."""

    queue_running: list[Item]
    queue_pending: list[Item]


def files_of(job: Job) -> list[File]:
    """The files of a job, in the order of its nodes and each once, though some nodes name one under several keys.

    Those that are only shown count when there are no others, and so do those that are not of the order's kind.
    """
    sent = job.workflow or Sent()
    kept = sent.extra_data.heliograph
    order = kept.outputs or (*sent.prompt, *job.outputs)
    nodes = [job.outputs[node] for node in dict.fromkeys(order) if node in job.outputs]
    files = list(dict.fromkeys(file for node in nodes for values in node.values() for file in _files(values)))
    files = [file for file in files if file.type == "output"] or files
    return [file for file in files if (file.media_type or "").partition("/")[0] == kept.kind] or files


def _files(values: Any) -> Iterator[File]:
    """The entries that are pictures or films, whatever a node calls them: images, gifs, video."""
    for value in values if isinstance(values, list) else ():
        with suppress(msgspec.ValidationError):
            file = msgspec.convert(value, File)
            if file.media_type is not None:
                yield file
