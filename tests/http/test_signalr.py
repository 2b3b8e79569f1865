"""SignalR: its JSON protocol, frame by frame, and what becomes of those who do not keep it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest

from gateway.dialects import signalr
from tests.http.ear import SECONDS
from tests.http.replies import refused
from tests.http.server import Heliograph
from tests.http.test_sockets import run, token

END = "\x1e"
HANDSHAKE: dict[str, Any] = {"protocol": "json", "version": 1}


@pytest.fixture
def heliograph(heliograph: Heliograph) -> Heliograph:
    """With keys of the test's own: nobody tells it of what an earlier test has begun."""
    return heliograph.with_new_keys()


class Line:
    """A connection, record by record."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.records: list[dict[str, Any]] = []

    async def say(self, *records: dict[str, Any]) -> None:
        """Sends records in one message."""
        await self.socket.send_str("".join(json.dumps(record) + END for record in records))

    async def hear(self) -> dict[str, Any] | None:
        """The next record but for pings; None at the end."""
        while not self.records:
            message = await self.socket.receive(SECONDS)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return None
            records = [json.loads(record) for record in message.data.split(END)[:-1]]
            self.records = [record for record in records if record.get("type") != 6]
        return self.records.pop(0)


@asynccontextmanager
async def connected(
    heliograph: Heliograph, key: str | None = None, hub: str = "image-generation"
) -> AsyncIterator[Line]:
    """A connection whose hands are shaken."""
    headers = {"Authorization": f"Bearer {key or heliograph.key}"}
    async with (
        aiohttp.ClientSession(heliograph.url) as session,
        session.ws_connect(f"/hubs/{hub}?id=x", headers=headers) as socket,
    ):
        line = Line(socket)
        await line.say(HANDSHAKE)
        assert await line.hear() == {}
        yield line


async def until(line: Line, word: str) -> list[tuple[str, dict[str, Any]]]:
    """The events up to the one that ends with the word."""
    heard: list[tuple[str, dict[str, Any]]] = []
    while not heard or not heard[-1][0].endswith(word):
        record = await line.hear()
        assert record is not None, heard
        if record["type"] == 1:
            (members,) = record["arguments"]
            heard.append((record["target"], members))
    return heard


@pytest.mark.parametrize("hub", ["image-generation", "media-generation"])
async def test_a_connection_hears_of_its_keys_tasks_unasked(heliograph: Heliograph, hub: str) -> None:
    """As invocations of the events' names with one object each, the same that Socket.IO has."""
    async with connected(heliograph, hub=hub) as line, connected(heliograph, hub="video-generation") as films:
        task_id = await run(heliograph)
        heard = await until(line, "Completed")
        await films.say({"type": 1, "target": "SubscribeToTask", "arguments": [task_id], "invocationId": "1"})
        answer = await films.hear()
    names = [name for name, _ in heard if not name.endswith(("Progress", "Preview"))]
    assert names == ["ImageGenerationStarted", "ImageGenerationCompleted"]
    assert {members["taskId"] for _, members in heard} == {task_id}
    assert heard[-1][1]["imageUrl"].startswith(heliograph.url)
    assert answer is not None
    assert answer["error"].startswith("task_not_found")


async def test_methods_answer(heliograph: Heliograph) -> None:
    """With the task, with an error in words, or not at all where no answer is wanted."""
    task_id = await run(heliograph, model="patient-image", size="64x64")
    async with connected(heliograph) as line:
        await line.say(
            {"type": 1, "target": "SubscribeToTask", "arguments": ["x"]},
            {"type": 1, "target": "SubscribeToTask", "arguments": [task_id], "invocationId": "1"},
            {"type": 6},
            {"type": 1, "target": "Nonsense", "arguments": [], "invocationId": "2"},
            {"type": 1, "target": "ImageGenerationCompleted", "arguments": [{}], "invocationId": "3"},
            {"type": 99},
            {"type": 1, "target": "UnsubscribeFromTask", "arguments": [task_id], "invocationId": "4"},
        )
        answers: list[Any] = []
        while len(answers) < 4:
            record = await line.hear()
            assert record is not None, answers
            # What happens to the task meanwhile is told too.
            answers += [record] if record["type"] == 3 else []
    assert [answer["type"] for answer in answers] == [3] * 4
    assert [answer["invocationId"] for answer in answers] == ["1", "2", "3", "4"]
    assert [answers[0]["result"]["id"], answers[3]["result"]["id"]] == [task_id, task_id]
    assert answers[1]["error"] == answers[2]["error"]
    assert "This hub has no such method" in answers[1]["error"]


async def test_there_are_no_streams(heliograph: Heliograph) -> None:
    """Who asks for one is told so, and does not wait for ever; who cannot be answered is not."""
    async with connected(heliograph) as line:
        await line.say(
            {"type": 4, "target": "SubscribeToTask", "arguments": ["task_x"]},
            {"type": 4, "target": "SubscribeToTask", "arguments": ["task_x"], "invocationId": "1"},
            {"type": 5, "invocationId": "1"},
            {"type": 1, "target": "SubscribeToTask", "arguments": ["task_x"], "invocationId": "2"},
        )
        stream, call = await line.hear(), await line.hear()
    assert stream is not None
    assert call is not None
    assert (stream["type"], stream["invocationId"], call["invocationId"]) == (3, "1", "2")
    assert stream["error"].startswith("invalid_request: This hub has no streams.")


async def test_a_token_may_stand_in_the_address(heliograph: Heliograph) -> None:
    """Browsers have no other place for it; the client puts there what its factory makes."""
    text = await token(heliograph, metadata={"user": "9"})
    async with (
        aiohttp.ClientSession(heliograph.url) as session,
        session.ws_connect(f"/hubs/image-generation?id=x&access_token={text}") as socket,
    ):
        line = Line(socket)
        await line.say(HANDSHAKE)
        assert await line.hear() == {}
        await run(heliograph)
        mine = await run(heliograph, metadata={"user": "9"})
        assert {members["task_id"] for _, members in await until(line, "Completed")} == {mine}


def test_negotiation_names_the_transport(heliograph: Heliograph, client: httpx.Client) -> None:
    """And asks for a key, which a GET of the hub does not help."""
    reply = client.post("/hubs/media-generation/negotiate", params={"negotiateVersion": "1"})
    body = reply.json()
    assert body["availableTransports"] == [{"transport": "WebSockets", "transferFormats": ["Text"]}]
    assert (body["negotiateVersion"], bool(body["connectionToken"])) == (1, True)
    refused(httpx.post(f"{heliograph.url}/hubs/media-generation/negotiate"), 401, "invalid_api_key")
    assert client.post("/hubs/nonsense/negotiate").status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer hg_wrong"}, {"Authorization": "Basic x"}])
async def test_who_has_no_key_is_refused(heliograph: Heliograph, headers: dict[str, str]) -> None:
    """Before there is a socket."""
    async with aiohttp.ClientSession(heliograph.url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect("/hubs/image-generation", headers=headers)
    assert caught.value.status == 401


async def test_a_page_of_another_origin_is_refused(heliograph: Heliograph) -> None:
    """As at Socket.IO."""
    headers = {"Authorization": f"Bearer {heliograph.key}", "Origin": "https://evil.example"}
    async with aiohttp.ClientSession(heliograph.url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect("/hubs/image-generation", headers=headers)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "{}" + END, "x" + END, '{"protocol":"messagepack","version":1}' + END,
        '{"protocol":"json","version":2}' + END, "[" * 5000 + END, "[1]" + END, "x" * 20_000 + END,
    ],
)  # fmt: skip
async def test_who_does_not_keep_the_protocol_is_sent_away(heliograph: Heliograph, text: str) -> None:
    """With a word, and without a fault of ours."""
    headers = {"Authorization": f"Bearer {heliograph.key}"}
    async with (
        aiohttp.ClientSession(heliograph.url) as session,
        session.ws_connect("/hubs/image-generation", headers=headers) as socket,
    ):
        await socket.send_str(text)
        line = Line(socket)
        async with asyncio.timeout(SECONDS):
            while (record := await line.hear()) is not None:
                assert record.get("type") == 7 or "error" in record
                # For what it said, and not because it said nothing more.
                assert "too long." not in record.get("error", "")


async def test_a_connection_outlives_the_time_for_heads(
    heliograph: Heliograph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's head has one second here; a socket that nobody closes stays, and pings."""
    monkeypatch.setattr(signalr, "PING_SECONDS", 0.25)
    async with connected(heliograph) as line:
        for _ in range(8):
            assert json.loads((await line.socket.receive_str(timeout=SECONDS)).removesuffix(END)) == {"type": 6}


async def test_binary_frames_end_the_connection(heliograph: Heliograph) -> None:
    """The JSON protocol has none."""
    async with connected(heliograph) as line:
        await line.socket.send_bytes(b"{}" + END.encode())
        async with asyncio.timeout(SECONDS):
            while await line.hear() is not None:
                pass


async def test_a_client_that_takes_its_leave_goes(heliograph: Heliograph) -> None:
    """A close is answered with one."""
    async with connected(heliograph) as line:
        await line.say({"type": 7})
        assert await line.hear() == {"type": 7, "allowReconnect": False}
        assert await line.hear() is None


async def test_who_loses_the_key_is_sent_away(heliograph: Heliograph, admin: httpx.Client) -> None:
    """Once it is looked at, which is every second, and is told not to come back."""
    issued = (await asyncio.to_thread(admin.post, "/admin/v1/keys", json={"name": "short"})).json()
    async with connected(heliograph, issued["key"]) as line:
        await asyncio.to_thread(admin.delete, f"/admin/v1/keys/{issued['id']}")
        async with asyncio.timeout(SECONDS):
            assert await line.hear() == {"type": 7, "allowReconnect": False, "error": "The key is no longer valid."}
