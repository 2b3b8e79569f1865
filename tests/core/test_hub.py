"""The hub on a bus: which previews other processes get, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.hub import LARGEST_PREVIEW, MOST_SHRINKING, Hub
from gateway.core.ports import Hear, Note
from providers.contract import Preview

SECONDS = 20


class Line:
    """A bus that leads nowhere and remembers what was sent, and a slow way to make previews smaller."""

    def __init__(self) -> None:
        self.sent: list[Note] = []
        self.begun = asyncio.Queue[Preview]()
        self.may_end = asyncio.Event()

    @property
    def previews(self) -> list[tuple[str, int]]:
        """The previews that were sent: of which task, and how far it was."""
        return [(note.task_id, note.progress) for note in self.sent if note.preview]

    def send(self, note: Note) -> None:
        self.sent.append(note)

    async def listen(self, hear: Hear) -> None:
        """Nobody else is there."""

    async def close(self) -> None:
        """Holds nothing."""

    async def shrink(self, preview: Preview) -> Preview:
        self.begun.put_nowait(preview)
        await self.may_end.wait()
        return Preview("image/jpeg", b"small", preview.index)


def seen(progress: int, task_id: str = "task_1", *, size: int = LARGEST_PREVIEW + 1) -> Note:
    """A note with a preview."""
    return Note(task_id, "key_1", progress, None, Preview("image/png", bytes(size)))


async def finished(hub: Hub, line: Line) -> None:
    """Lets all previews be made smaller."""
    line.may_end.set()
    async with asyncio.timeout(SECONDS):
        while hub.shrinking:
            await asyncio.wait(hub.shrinking)


@pytest.mark.parametrize("size", [LARGEST_PREVIEW + 1, 10])
async def test_previews_of_a_task_do_not_overtake_each_other(size: int) -> None:
    """One is made smaller at a time; what comes meanwhile waits, small or large, and only the newest of it goes."""
    line = Line()
    hub = Hub(line, line.shrink)
    hub.tell(seen(30))
    await asyncio.wait_for(line.begun.get(), SECONDS)
    hub.tell(seen(40, size=size))
    hub.tell(seen(60, size=size))
    assert [(note.progress, note.preview) for note in line.sent] == [(30, None), (40, None), (60, None)]
    assert line.begun.empty()
    await finished(hub, line)
    assert line.previews == [("task_1", 30), ("task_1", 60)]
    hub.tell(seen(70, size=10))
    assert line.sent[-1] == seen(70, size=10)


async def test_previews_of_so_many_tasks_are_made_smaller() -> None:
    """Tasks do not wait for each other; the previews of more than that stay at home, until there is room again."""
    line = Line()
    hub = Hub(line, line.shrink)
    for number in range(MOST_SHRINKING + 1):
        hub.tell(seen(number, f"task_{number}"))
    await finished(hub, line)
    assert line.previews == [(f"task_{number}", number) for number in range(MOST_SHRINKING)]
    hub.tell(seen(50, f"task_{MOST_SHRINKING}"))
    await finished(hub, line)
    assert line.previews[-1] == (f"task_{MOST_SHRINKING}", 50)


async def test_a_preview_that_is_none_makes_room_for_the_next() -> None:
    """What cannot be made smaller is not sent, and stands in nobody's way."""
    line = Line()

    async def shrink(preview: Preview) -> Preview:
        if preview.index:
            raise ValueError
        return await line.shrink(preview)

    hub = Hub(line, shrink)
    hub.tell(Note("task_1", "key_1", 10, None, Preview("image/png", bytes(LARGEST_PREVIEW + 1), 1)))
    await finished(hub, line)
    hub.tell(seen(20))
    await finished(hub, line)
    assert line.previews == [("task_1", 20)]
