"""The bus on a real RabbitMQ: notes reach every other process, and a broker that is away costs notes, nothing else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from gateway.core.hub import LARGEST_PREVIEW, Hub
from gateway.core.inspection import Inspector
from gateway.core.ports import Note
from providers.contract import Preview
from workers.rabbit_bus import RabbitBus

NOTE = Note("task_1", "key_1", 40, "drawing", Preview("image/png", b"\x89PNG\0\xff", 2))
SECONDS = 20


@pytest.fixture
async def hubs(broker: str) -> AsyncIterator[list[Hub]]:
    """The hubs of three processes, all of which hear."""
    inspector = Inspector(max_pixels=4_000_000)
    hubs = [Hub(RabbitBus(broker), inspector.smaller) for _ in range(3)]
    async with asyncio.timeout(SECONDS):
        for hub in hubs:
            await hub.open()
    yield hubs
    for hub in hubs:
        await hub.close()
    inspector.close()


async def test_a_note_reaches_every_process_once(hubs: list[Hub]) -> None:
    """Also the one that sends it, whole, in order, and with its picture."""
    with hubs[0].listening("task_1") as here, hubs[1].listening("task_1") as there, hubs[2].listening("task_2") as no:
        last = Note("task_1", "key_1", sequence=3)
        hubs[0].tell(NOTE)
        hubs[0].tell(last)
        async with asyncio.timeout(SECONDS):
            assert [await there.get(), await there.get()] == [NOTE, last]
            # What was sent back would have come before this.
            hubs[1].tell(last)
            assert [await here.get() for _ in range(3)] == [NOTE, last, last]
        assert no.empty()


async def test_a_large_preview_leaves_home_as_a_small_one(hubs: list[Hub]) -> None:
    """The broker is no place for large pictures: how far the task is goes out at once, then the preview as a JPEG."""
    file = io.BytesIO()
    Image.effect_noise((1500, 1200), 99).save(file, "PNG")
    assert len(file.getvalue()) > LARGEST_PREVIEW
    large = Note("task_1", "key_1", 40, None, Preview("image/png", file.getvalue(), 1))
    with hubs[0].listening("task_1") as here, hubs[1].listening("task_1") as there:
        hubs[0].tell(large)
        async with asyncio.timeout(SECONDS):
            assert await here.get() == large
            assert await there.get() == Note("task_1", "key_1", 40)
            small = await there.get()
    assert small.preview is not None
    assert (small.progress, small.preview.media_type, small.preview.index) == (40, "image/jpeg", 1)
    assert len(small.preview.data) < LARGEST_PREVIEW
    assert Image.open(io.BytesIO(small.preview.data)).size == (1024, 819)


async def test_a_large_preview_that_is_none_stays_at_home(hubs: list[Hub]) -> None:
    """What a vendor calls a preview may be anything: what cannot be made smaller is not sent, and harms nothing."""
    junk = Note("task_1", "key_1", 40, None, Preview("image/png", bytes(LARGEST_PREVIEW + 1)))
    with hubs[0].listening("task_1") as here, hubs[1].listening("task_1") as there:
        hubs[0].tell(junk)
        async with asyncio.timeout(SECONDS):
            assert await here.get() == junk
            assert await there.get() == Note("task_1", "key_1", 40)
            while hubs[0].shrinking:
                await asyncio.wait(hubs[0].shrinking)
        hubs[0].tell(NOTE)
        async with asyncio.timeout(SECONDS):
            assert await there.get() == NOTE


async def test_without_a_broker_notes_stay_here() -> None:
    """Telling never waits and never fails; whoever listens in the process hears it, the newest at least."""
    hub = Hub(RabbitBus("amqp://guest:guest@127.0.0.1:1/none"))
    with hub.listening("task_1") as heard:
        for number in range(1000):
            hub.tell(Note("task_1", "key_1", number))
        assert heard.get_nowait().progress > 900
    await hub.close()


async def test_everything_may_be_overheard() -> None:
    """Whoever serves many at once hears the notes of all tasks, until it has had enough."""
    hub, heard = Hub(), list[Note]()
    with hub.overhearing(heard.append):
        hub.tell(NOTE)
    hub.tell(NOTE)
    assert heard == [NOTE]


async def test_a_broker_that_does_not_answer_holds_nobody_up() -> None:
    """Who stops while the bus still tries to listen has stopped, with all that it had begun."""
    called = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    others = asyncio.all_tasks()
    listening = asyncio.create_task(Hub(RabbitBus(f"amqp://guest:guest@127.0.0.1:{port}/none")).open())
    async with asyncio.timeout(SECONDS):
        await called.wait()
        listening.cancel()
        await asyncio.wait([listening])
        silent.close()
        await silent.wait_closed()
        while left := asyncio.all_tasks() - others:
            await asyncio.wait(left)
