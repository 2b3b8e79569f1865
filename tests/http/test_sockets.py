"""Socket.IO: what a connection hears, what it may call, and what becomes of those who may not, or misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from socketio.exceptions import ConnectionError as NotConnected

from gateway.dialects import hubs, packets, sockets
from tests.http.ear import ALL, IMAGES, SECONDS, VIDEOS, listening
from tests.http.server import NOBODYS, Heliograph
from tests.http.test_events import ended, made

PAGE = Path(__file__).parents[2] / "docs/realtime.md"
ENDS = ("Started", "Completed", "Failed", "Cancelled")


@pytest.fixture
def heliograph(heliograph: Heliograph) -> Heliograph:
    """With keys of the test's own: nobody tells it of what an earlier test has begun."""
    return heliograph.with_new_keys()


async def run(heliograph: Heliograph, **members: Any) -> str:
    """The id of a task that was made."""
    with heliograph.client() as client:
        return await asyncio.to_thread(made, client, **members)


async def token(heliograph: Heliograph, key: str | None = None, **members: Any) -> str:
    """A realtime token."""
    with heliograph.client(key) as client:
        reply = await asyncio.to_thread(client.post, "/v1/realtime/tokens", json=members)
        return str(reply.json()["token"])


@pytest.mark.parametrize("transports", [("websocket",), ("polling",), ("polling", "websocket")])
async def test_a_connection_hears_of_its_keys_tasks_unasked(
    heliograph: Heliograph, transports: tuple[str, ...]
) -> None:
    """In order, each once, in each namespace that it has joined, over every transport."""
    auth = {"token": heliograph.key}
    async with listening(heliograph.url, auth, IMAGES, VIDEOS, ALL, transports=transports) as ear:
        task_id = await run(heliograph, metadata={"user": "7"})
        heard = await ear.until("Completed")
        await ear.until("Completed", ALL)
    assert ear.heard[ALL] == heard
    assert ear.heard[VIDEOS] == []
    assert [name.removeprefix("ImageGeneration") for name, _ in heard if name.endswith(ENDS)] == [
        "Started",
        "Completed",
    ]
    assert {data["taskId"] for _, data in heard} == {data["task_id"] for _, data in heard} == {task_id}
    steps = [(data["sequence"], data["progress"]) for name, data in heard if name != "Preview"]
    assert steps == sorted(set(steps))
    assert all(data["progress"] == data["progressPercentage"] for _, data in heard)
    _, last = heard[-1]
    assert (last["status"], last["progress"], last["imageUrls"], last["metadata"]) == (
        "completed", 100, [last["imageUrl"]], {"user": "7"},
    )  # fmt: skip
    assert (await asyncio.to_thread(httpx.get, last["imageUrl"])).status_code == 200


async def test_the_page_on_real_time_explains_every_member(heliograph: Heliograph) -> None:
    """realtime.md has a row for whatever an event carries."""
    async with listening(heliograph.url, {"token": heliograph.key}, ALL) as ear:
        await run(heliograph, metadata={"user": "7"}, size="1024x1024", partial_images=3)
        await run(heliograph, model="patient-image", prompt="refuse", size="64x64")
        await ear.until("Completed", ALL)
        await ear.until("Failed", ALL)
    carried = {name for _, members in ear.heard[ALL] for name in members}
    explained = re.findall(r"^\| (`[a-z].*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert carried >= {"image", "imageUrls", "thumbnailUrl", "errorCode", "metadata", "cost"}
    assert carried - set(re.findall(r"\w+", " ".join(explained))) == set()


async def test_films_are_heard_where_films_are_told_of(heliograph: Heliograph) -> None:
    """Under their own names, also that one was cancelled."""
    async with listening(heliograph.url, {"token": heliograph.key}, IMAGES, VIDEOS, ALL) as ear:
        with heliograph.client() as client:
            body = {"model": "patient-video", "prompt": "a", "seconds": "5"}
            task_id = (await asyncio.to_thread(client.post, "/v1/video/generations", json=body)).json()["id"]
            await ear.until("Started", VIDEOS)
            await asyncio.to_thread(client.post, f"/v1/tasks/{task_id}/cancel")
        heard = await ear.until("Cancelled", VIDEOS)
        await ear.until("Cancelled", ALL)
    assert [name for name, _ in heard] == ["VideoGenerationStarted", "VideoGenerationCancelled"]
    assert (ear.heard[ALL], ear.heard[IMAGES]) == (heard, [])


async def test_keys_do_not_hear_each_other(heliograph: Heliograph) -> None:
    """Each connection has its own key's tasks alone, also when it names one of the other's."""
    async with (
        listening(heliograph.url, {"token": heliograph.key}) as mine,
        listening(heliograph.url, {"token": heliograph.other_key}) as theirs,
    ):
        task_id = await run(heliograph)
        await mine.until("Completed")
        answer = await theirs.call("SubscribeToTask", task_id, {"after": 0})
        assert answer["error"]["code"] == "task_not_found"
        assert answer == await theirs.call("SubscribeToTask", NOBODYS)
        for twin in (f"task:{task_id}", f" {task_id}", f"{task_id}\u200b", task_id.upper(), [task_id], {"id": task_id}):
            assert "error" in await theirs.call("SubscribeToTask", twin, {"after": 0})
        with heliograph.client(heliograph.other_key) as client:
            other = await asyncio.to_thread(made, client)
        heard = await theirs.until("Completed")
    assert {data["task_id"] for _, data in heard} == {other}
    assert {data["task_id"] for _, data in mine.heard[IMAGES]} == {task_id}


async def test_who_comes_back_asks_for_what_was_missed(heliograph: Heliograph) -> None:
    """The answer is the task as it stands; then come the events after the one that was seen, each once."""
    with heliograph.client() as client:
        task_id = await asyncio.to_thread(ended, client)
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        task = await ear.call("SubscribeToTask", task_id, {"after": 2})
        assert (task["id"], task["status"], task["progress"]) == (task_id, "completed", 100)
        heard = list(await ear.until("Completed"))
        assert [data["sequence"] for _, data in heard] == [3]
        # On one connection nothing is told twice, or backwards.
        await ear.call("SubscribeToTask", task_id, {"after": 0})
        await ear.call("SubscribeToTask", task_id)
        assert ear.heard[IMAGES] == heard
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        await ear.call("SubscribeToTask", task_id, {"after": 0})
        assert [name for name, _ in await ear.until("Completed")] == [
            "ImageGenerationStarted",
            "ImageGenerationCompleted",
        ]


async def test_what_comes_first_overtakes_nothing_that_was_missed(
    heliograph: Heliograph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens between coming back and saying where one left off is told after what was missed."""
    monkeypatch.setattr(hubs, "FIRST_SECONDS", 2.0)
    async with listening(heliograph.url, {"token": heliograph.key}) as first:
        task_id = await run(heliograph, model="patient-image", size="64x64")
        await first.until("Started")
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        with heliograph.client() as client:
            await asyncio.to_thread(client.post, f"/v1/tasks/{task_id}/cancel")
        task = await ear.call("SubscribeToTask", task_id, {"after": 1})
        assert task["status"] == "cancelled"
        heard = await ear.until("Cancelled")
    assert [name.removeprefix("ImageGeneration") for name, _ in heard] == ["Started", "Cancelled"]


@pytest.mark.parametrize("method", ["subscribeToTask", "ImageGenerationCompleted", "*", "__proto__"])
async def test_a_call_of_what_is_no_method_is_answered(heliograph: Heliograph, method: str) -> None:
    """With what there is; and it is told to nobody, nor takes the connection away."""
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        error = (await ear.call(method, {"taskId": NOBODYS}))["error"]
        assert (error["code"], error["param"]) == ("invalid_parameter", "method")
        assert "SubscribeToTask, UnsubscribeFromTask" in error["message"]
        assert (await ear.call("SubscribeToTask", NOBODYS))["error"]["code"] == "task_not_found"
    assert ear.heard[IMAGES] == []


async def test_one_may_stop_hearing_of_a_task(heliograph: Heliograph) -> None:
    """Of that one only."""
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        quiet = await run(heliograph, model="patient-image", size="64x64")
        await ear.until("Started")
        assert (await ear.call("UnsubscribeFromTask", quiet))["id"] == quiet
        with heliograph.client() as client:
            await asyncio.to_thread(client.post, f"/v1/tasks/{quiet}/cancel")
        loud = await run(heliograph)
        heard = await ear.until("Completed")
    assert [data["task_id"] for name, data in heard if name.endswith(ENDS)] == [quiet, loud, loud]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ((), "task_id"),
        ((None,), "task_id"),
        (({"id": "x"},), "task_id"),
        ((["task_1"],), "task_id"),
        ((NOBODYS,), None),
        (("task:*",), None),
        (("*",), None),
    ],
)
async def test_calls_that_make_no_sense_are_answered(
    heliograph: Heliograph, arguments: tuple[Any, ...], param: str | None
) -> None:
    """In the shape of all errors; nothing is joined."""
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        for method in ("SubscribeToTask", "UnsubscribeFromTask"):
            error = (await ear.call(method, *arguments))["error"]
            assert (error["param"], error["code"]) == (param, "invalid_parameter" if param else "task_not_found")


@pytest.mark.parametrize("options", ["x", [], {"after": -1}, {"after": "1"}, {"after": True}, {"after": 1e99}])
async def test_places_that_make_no_sense_are_answered(heliograph: Heliograph, options: Any) -> None:
    """With the member that is wrong."""
    task_id = await run(heliograph)
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        error = (await ear.call("SubscribeToTask", task_id, options))["error"]
        assert error["code"] == "invalid_parameter"
        assert error["param"] in ("options", "after")


async def test_too_many_calls_are_refused(heliograph: Heliograph) -> None:
    """A client that hammers is told so, and is still there."""
    async with listening(heliograph.url, {"token": heliograph.key}) as ear:
        answers = await asyncio.gather(*(ear.call("SubscribeToTask", "x") for _ in range(150)))
        codes = [answer["error"]["code"] for answer in answers]
        assert codes.count("task_not_found") >= 100
        assert codes.count("rate_limit_exceeded") > 0


@pytest.mark.parametrize(
    "auth", [None, {}, {"token": ""}, {"token": "hg_wrong"}, {"token": ["x"]}, {"token": "hgrt_x.y"}]
)
async def test_who_has_no_key_is_refused(heliograph: Heliograph, auth: Any) -> None:
    """In the way of the library."""
    with pytest.raises(NotConnected):
        async with listening(heliograph.url, auth):
            pass


@pytest.mark.parametrize("join", ["40/hubs/tasks,", '40/hubs/tasks,{"token":"hg_x"}', "revoked", "token of a revoked"])
async def test_who_is_refused_reads_why(heliograph: Heliograph, admin: httpx.Client, join: str) -> None:
    """A code for programs, also when the key was good before; the connection may try again."""
    if not join.startswith("40"):
        issued = (await asyncio.to_thread(admin.post, "/admin/v1/keys", json={"name": "short"})).json()
        text = issued["key"] if join == "revoked" else await token(heliograph, issued["key"])
        await asyncio.to_thread(admin.delete, f"/admin/v1/keys/{issued['id']}")
        join = f'40/hubs/tasks,{{"token":"{text}"}}'
    async with aiohttp.ClientSession(heliograph.url) as session, session.ws_connect(HANDSHAKE + "websocket") as socket:
        await socket.receive_str()
        for packet in (join, join):
            await socket.send_str(packet)
            answer = await socket.receive_str(timeout=SECONDS)
            assert answer.startswith("44/hubs/tasks,")
            assert json.loads(answer.partition(",")[2])["data"]["code"] == "invalid_api_key"
        await socket.send_str(f'40/hubs/tasks,{{"token":"{heliograph.key}"}}')
        assert (await socket.receive_str(timeout=SECONDS)).startswith("40/hubs/tasks,")


async def test_there_are_no_other_hubs(heliograph: Heliograph) -> None:
    """Who asks for one is told so."""
    for namespace in ("/hubs/nonsense", "/", "/hubs/tasks/"):
        with pytest.raises(NotConnected):
            async with listening(heliograph.url, {"token": heliograph.key}, namespace):
                pass


async def test_a_key_in_the_address_is_not_looked_at(heliograph: Heliograph) -> None:
    """It would be in somebody's log."""
    with pytest.raises(NotConnected):
        async with listening(f"{heliograph.url}?token={heliograph.key}&access_token={heliograph.key}", None):
            pass


async def test_a_key_may_come_in_a_header(heliograph: Heliograph) -> None:
    """For clients that have one to send."""
    async with listening(heliograph.url, None, headers={"Authorization": f"Bearer {heliograph.key}"}) as ear:
        await run(heliograph)
        await ear.until("Completed")


async def test_a_token_hears_what_it_is_for(heliograph: Heliograph) -> None:
    """A token for one user's tasks hears of those and of no others."""
    text = await token(heliograph, metadata={"user": "7"})
    async with listening(heliograph.url, {"token": text}) as ear:
        other = await run(heliograph, metadata={"user": "8"})
        mine = await run(heliograph, metadata={"user": "7"})
        assert {data["task_id"] for _, data in await ear.until("Completed")} == {mine}
        assert (await ear.call("SubscribeToTask", other))["error"]["code"] == "task_not_found"


async def test_who_loses_the_key_is_sent_away(heliograph: Heliograph, admin: httpx.Client) -> None:
    """Once it is looked at, which is every second, and hears nothing more."""
    issued = (await asyncio.to_thread(admin.post, "/admin/v1/keys", json={"name": "short"})).json()
    async with listening(heliograph.url, {"token": issued["key"]}) as ear:
        await asyncio.to_thread(admin.delete, f"/admin/v1/keys/{issued['id']}")
        async with asyncio.timeout(SECONDS):
            await ear.gone.wait()


async def test_a_token_ends_its_connection(heliograph: Heliograph) -> None:
    """When its time is over: whoever still may comes back with a new one."""
    text = await token(heliograph, expires_in=10)
    async with listening(heliograph.url, {"token": text}) as ear:
        async with asyncio.timeout(SECONDS):
            await ear.gone.wait()


async def test_clients_cannot_say_what_only_we_say(heliograph: Heliograph) -> None:
    """Events that a client makes up reach nobody, and do nothing to the connection."""
    async with (
        listening(heliograph.url, {"token": heliograph.key}) as ear,
        listening(heliograph.url, {"token": heliograph.key}) as other,
    ):
        for event in ("ImageGenerationCompleted", "connect", "disconnect", "__proto__", "trigger_event", "*"):
            await ear.client.emit(event, {"taskId": "task_1"}, namespace=IMAGES)
        await run(heliograph)
        await ear.until("Completed")
        heard = await other.until("Completed")
    assert not any(data["task_id"] == "task_1" for _, data in heard)


HANDSHAKE = "/socket.io/?EIO=4&transport="


@pytest.mark.parametrize(
    "frame",
    [
        "x", "9", "", "4", "4x", "44", "45", '451-/hubs/tasks,["SubscribeToTask",{"_placeholder":true,"num":0}]',
        "40/hubs/image-generation,[1]", "40/hubs/image-generation,{", "42/hubs/image-generation," + "[" * 5000,
        "40/hubs/image-generation," + '{"token":"\\ud800"}', "42[1e999]", b"binary", "4" + "0" * 20_000, "4" * 70_000,
    ],
)  # fmt: skip
async def test_what_is_no_packet_ends_the_connection(heliograph: Heliograph, frame: str | bytes) -> None:
    """At once, without a fault of ours, and nobody else notices."""
    async with aiohttp.ClientSession(heliograph.url) as session, session.ws_connect(HANDSHAKE + "websocket") as socket:
        assert (await socket.receive()).data.startswith("0")
        await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
        # Sooner than the library's own time limits, which are 25 seconds and more.
        async with asyncio.timeout(SECONDS):
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    assert (await asyncio.to_thread(httpx.get, f"{heliograph.url}/health")).status_code == 200


@pytest.mark.parametrize("body", [b"a" * 1_000_001, b"\x1e".join([b"3"] * 10_000)])
async def test_polls_that_are_too_large_are_refused(heliograph: Heliograph, body: bytes) -> None:
    """In bytes or in packets; little of them is kept."""
    async with aiohttp.ClientSession(heliograph.url) as session:
        sid = json.loads((await (await session.get(HANDSHAKE + "polling")).text())[1:])["sid"]
        reply = await session.post(f"{HANDSHAKE}polling&sid={sid}", data=body)
        assert reply.status in (400, 413)
        assert (await reply.json())["error"]["code"] in ("invalid_request", "payload_too_large")


async def test_pongs_that_nobody_asked_for_cost_nothing(heliograph: Heliograph) -> None:
    """No timer is started for them."""
    assert heliograph.loop is not None
    async with aiohttp.ClientSession(heliograph.url) as session, session.ws_connect(HANDSHAKE + "websocket") as socket:
        await socket.receive_str()
        before = len(asyncio.all_tasks(heliograph.loop))
        for _ in range(5000):
            await socket.send_str("3")
        await socket.send_str(f'40/hubs/tasks,{{"token":"{heliograph.key}"}}')
        assert (await socket.receive_str(timeout=SECONDS)).startswith("40/hubs/tasks,")
        assert len(asyncio.all_tasks(heliograph.loop)) < before + 50


async def test_who_goes_while_let_in_is_forgotten(
    heliograph: Heliograph, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library does not tell of one that is gone before it was in; nothing is kept of it."""
    monkeypatch.setattr(sockets, "LOOK_SECONDS", 0.5)
    assert heliograph.loop is not None
    feed = heliograph.application.app.state.feed
    issued = (await asyncio.to_thread(admin.post, "/admin/v1/keys", json={"name": "short"})).json()
    asyncio.run_coroutine_threadsafe(feed._lock.acquire(), heliograph.loop).result(SECONDS)
    async with aiohttp.ClientSession(heliograph.url) as session:
        sid = json.loads((await (await session.get(HANDSHAKE + "polling")).text())[1:])["sid"]
        packets = f'40/hubs/tasks,{{"token":"{issued["key"]}"}}', "1"
        posts = [asyncio.create_task(session.post(f"{HANDSHAKE}polling&sid={sid}", data=one)) for one in packets]
        await posts[1]
        heliograph.loop.call_soon_threadsafe(feed._lock.release)
        await posts[0]
        async with asyncio.timeout(SECONDS):
            while issued["id"] in feed._followers:  # noqa: ASYNC110 - the gateway has a loop of its own
                await asyncio.sleep(0.01)


async def test_a_silent_stranger_holds_up_nobody(heliograph: Heliograph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never polls again never takes the word that it is over; others are closed all the same."""
    for name in ("LOOK_SECONDS", "STRANGER_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(sockets, name, 0.2)
    async with aiohttp.ClientSession(heliograph.url) as session:
        for _ in range(2):
            assert (await session.get(HANDSHAKE + "polling")).status == 200
            async with session.ws_connect(HANDSHAKE + "websocket") as socket:
                await socket.receive_str(timeout=SECONDS)
                assert await socket.receive_str(timeout=SECONDS) == "1"


@pytest.mark.parametrize("probe", ["2probe", None])
async def test_an_upgrade_that_never_ends_is_cut(
    heliograph: Heliograph, monkeypatch: pytest.MonkeyPatch, probe: str | None
) -> None:
    """The library would wait for it for ever."""
    monkeypatch.setattr(packets, "SILENCE_SECONDS", 2.0)
    async with aiohttp.ClientSession(heliograph.url) as session:
        sid = json.loads((await (await session.get(HANDSHAKE + "polling")).text())[1:])["sid"]
        async with session.ws_connect(f"{HANDSHAKE}websocket&sid={sid}") as socket:
            if probe:
                await socket.send_str(probe)
                assert await socket.receive_str(timeout=SECONDS) == "3probe"
            assert (await socket.receive(SECONDS)).type is not aiohttp.WSMsgType.TEXT


@pytest.mark.parametrize("body", [b"\xff", b"x", b"2", b"\x1e".join([b"3"] * 17), b"40" + b"{" * 9, b"bAAAA", b"d=4"])
async def test_what_is_no_packet_is_refused_in_polls(heliograph: Heliograph, body: bytes) -> None:
    """As over a WebSocket."""
    async with aiohttp.ClientSession(heliograph.url) as session:
        opened = (await (await session.get(HANDSHAKE + "polling")).text())[1:]
        sid = json.loads(opened)["sid"]
        reply = await session.post(f"{HANDSHAKE}polling&sid={sid}", data=body)
        assert reply.status == 400
        assert (await reply.json())["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    "query",
    [
        "EIO=3&transport=websocket", "EIO=3&transport=polling", "EIO=999&transport=polling", "EIO=4&transport=foo",
        "transport=polling", "EIO=4&transport=polling&sid=none", "EIO=4&transport=websocket&sid=none",
    ],
)  # fmt: skip
def test_what_is_no_handshake_is_refused(heliograph: Heliograph, query: str) -> None:
    """Other versions, other transports, and the connections of others."""
    reply = httpx.get(f"{heliograph.url}/socket.io/?{query}")
    assert (reply.status_code, type(reply.json())) == (400, str)


def test_a_session_that_was_closed_is_over(heliograph: Heliograph) -> None:
    """Its id is good for nothing more."""
    path = f"{heliograph.url}{HANDSHAKE}polling"
    sid = json.loads(httpx.get(path).text[1:])["sid"]
    assert httpx.post(f"{path}&sid={sid}", content=b"1").status_code == 200
    assert [httpx.get(f"{path}&sid={sid}").status_code, httpx.post(f"{path}&sid={sid}").status_code] == [400, 400]


async def test_a_page_of_another_origin_is_refused(heliograph: Heliograph) -> None:
    """Unless the settings name it; this gateway's own pages may, and so may what is no browser."""
    own = {"Origin": heliograph.url}
    async with listening(heliograph.url, {"token": heliograph.key}, headers=own):
        pass
    for origin in ("https://evil.example", "null", heliograph.url + ".evil.example"):
        for transport in ("websocket", "polling"):
            with pytest.raises(NotConnected):
                async with listening(
                    heliograph.url, {"token": heliograph.key}, headers={"Origin": origin}, transports=[transport]
                ):
                    pass


async def test_joining_twice_is_joining_once(heliograph: Heliograph) -> None:
    """A second packet that joins the same hub changes nothing, and leaves nothing behind."""
    join = f'40{IMAGES},{{"token":"{heliograph.key}"}}'
    async with aiohttp.ClientSession(heliograph.url) as session, session.ws_connect(HANDSHAKE + "websocket") as socket:
        await socket.receive()
        for _ in range(3):
            await socket.send_str(join)
        task_id = await run(heliograph)
        names: list[str] = []
        async with asyncio.timeout(SECONDS):
            while not names or names[-1] != "ImageGenerationCompleted":
                data = str((await socket.receive()).data)
                if data.startswith(f"42{IMAGES},"):
                    name, members = json.loads(data.partition(",")[2])
                    assert members["task_id"] == task_id
                    names.append(name)
    assert [names.count(f"ImageGeneration{end}") for end in ("Started", "Completed")] == [1, 1]


async def test_nothing_secret_is_logged(heliograph: Heliograph, caplog: pytest.LogCaptureFixture) -> None:
    """Not the address of a socket, in which a token may be, at whatever level."""
    text = await token(heliograph)
    with caplog.at_level(logging.DEBUG):
        async with aiohttp.ClientSession(heliograph.url) as session:
            for path in ("/hubs/image-generation", "/socket.io/"):
                query = f"?EIO=4&transport=websocket&access_token={text}"
                async with session.ws_connect(path + query) as socket:
                    await socket.send_str('{"protocol":"json","version":1}\x1e')
                    await socket.receive()
        await asyncio.to_thread(httpx.get, f"{heliograph.url}/v1/tasks/{NOBODYS}/events", params={"access_token": text})
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("/hubs/image-generation" in line for line in ours)
    assert not any(text[-30:] in line for line in ours)
