"""Streams over HTTP: previews while a picture is made, then the picture, as the official client reads them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from openai import APIError, OpenAI
from openai.types import ImageGenCompletedEvent
from PIL import Image

from gateway.core.hub import Hub
from gateway.core.runtime import Runtime
from gateway.dialects.streaming import follow
from gateway.web.sse import stream
from tests.http.replies import refused
from tests.http.server import Heliograph

PATH = "/v1/images/generations"


@pytest.fixture
def sdk(heliograph: Heliograph) -> Iterator[OpenAI]:
    """The official client."""
    with OpenAI(base_url=f"{heliograph.url}/v1", api_key=heliograph.key, max_retries=0) as client:
        yield client


def size(text: str) -> tuple[int, int]:
    """Width and height of a picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text))).size


def events(reply: httpx.Response) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event."""
    found = []
    for block in reply.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines["event"], lines["id"], json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_sdk_streams_a_generation(sdk: OpenAI, count: int) -> None:
    """So many previews, then the whole picture, in the types of the SDK."""
    stream = sdk.images.generate(model="demo-image", prompt="a", size="256x256", stream=True, partial_images=count)
    heard = list(stream)
    assert [one.type for one in heard] == ["image_generation.partial_image"] * count + ["image_generation.completed"]
    assert [one.partial_image_index for one in heard[:-1]] == list(range(count))  # type: ignore[union-attr]  # see types
    assert {size(one.b64_json) for one in heard} == {(256, 256)}
    assert (heard[-1].output_format, heard[-1].size) == ("png", "256x256")


def test_the_sdk_streams_an_edit(sdk: OpenAI) -> None:
    """An edit has events of its own names."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "blue").save(file, "PNG")
    stream = sdk.images.edit(
        model="demo-image", image=("a.png", file.getvalue()), prompt="x", stream=True, partial_images=1
    )
    assert [one.type for one in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_the_last_event_has_the_tokens_of_the_sdk(sdk: OpenAI) -> None:
    """Where nobody counts tokens there are none, in all the members that the SDK's type has."""
    stream = sdk.images.generate(model="demo-image", prompt="a", size="256x256", stream=True, partial_images=0)
    (last,) = list(stream)
    assert isinstance(last, ImageGenCompletedEvent)
    assert ImageGenCompletedEvent.model_validate(last.to_dict()).usage.total_tokens == 0
    assert (last.usage.input_tokens, last.usage.output_tokens) == (0, 0)
    assert (last.usage.input_tokens_details.image_tokens, last.usage.input_tokens_details.text_tokens) == (0, 0)


@pytest.mark.parametrize("full", [True, False], ids=["while sending", "while waiting"])
async def test_whoever_goes_away_closes_the_events(full: bool) -> None:
    """The source of a stream is closed at once, whether its event is on the way or it has none to send."""
    under_way, closed = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            if full:
                yield b"event: a\n\n"
            under_way.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def receive() -> Any:
        await under_way.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            under_way.set()
            await asyncio.Event().wait()

    events: Any = source()
    reply: Any = stream(events).to_asgi_response(None, cast(Any, None))
    await asyncio.wait_for(reply({"type": "http"}, receive, send), 20)
    assert closed.is_set()
    # Held here, it was not the garbage collector's doing.
    assert events.ag_frame is None


def test_every_picture_comes_as_an_event(client: httpx.Client) -> None:
    """With several there are as many final events; each event has an id, and the task is named in the headers."""
    body = {"model": "demo-image", "prompt": "a", "size": "256x256", "n": 2, "stream": True, "partial_images": 1}
    reply = client.post(PATH, json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    task = client.get(f"/v1/tasks/{reply.headers['x-heliograph-task-id']}").json()
    assert task["status"] == "completed"
    heard = events(reply)
    assert [name.rpartition(".")[2] for name, _, _ in heard] == ["partial_image"] * 2 + ["completed"] * 2
    assert len({id for _, id, _ in heard}) == 4
    assert all(name == data["type"] for name, _, data in heard)


def test_what_goes_wrong_in_a_stream_is_an_error_of_the_sdk(sdk: OpenAI, client: httpx.Client) -> None:
    """A task that is not done in time ends the stream with an error that names it, and goes on."""
    stream = sdk.images.generate(
        model="patient-image", prompt="a", stream=True, partial_images=0, extra_body={"timeout": 1}
    )
    with pytest.raises(APIError) as caught:
        list(stream)
    body: Any = caught.value.body
    assert body["code"] == "timeout"
    assert client.get(f"/v1/tasks/{body['task_id']}").status_code == 200


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": "patient-image", "stream": True}, "stream"),
        ({"model": "patient-image", "stream": True, "partial_images": 2}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"partial_images": 1}, "partial_images"),
        ({"stream": True, "async": True}, "stream"),
    ],
)
def test_what_cannot_be_streamed_is_refused(client: httpx.Client, members: dict[str, Any], param: str) -> None:
    """Before anything is made, with the member that is wrong."""
    reply = client.post(PATH, json={"model": "demo-image", "prompt": "a", **members})
    assert reply.json()["error"]["param"] == param
    refused(reply, 400, reply.json()["error"]["code"], param)


def test_a_repeated_stream_tells_of_the_same_task(client: httpx.Client) -> None:
    """The same request again gets the result of the first, and nothing is made twice."""
    body = {"model": "demo-image", "prompt": "a", "size": "256x256", "stream": True, "partial_images": 1}
    first, second = (client.post(PATH, json=body, headers={"Idempotency-Key": "stream-1"}) for _ in range(2))
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-heliograph-task-id"] == second.headers["x-heliograph-task-id"]
    assert [data for name, _, data in events(second)] == [data for name, _, data in events(first)][1:]


async def test_whoever_stops_following_leaves_nothing_behind() -> None:
    """A client that goes away while nothing comes: nobody listens any more, and no work is left that waits for news."""

    async def never(_task_id: str, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    rt = cast(Runtime, SimpleNamespace(hub=Hub(), waiter=SimpleNamespace(final=never)))

    async def listen() -> None:
        async for _ in follow(rt, "task", 60):
            pass

    before = asyncio.all_tasks()
    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.01)
    listening.cancel()
    await asyncio.wait({listening})
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
    assert rt.hub._listeners == {}
