"""Real time: who follows tasks hears of them, on every deployment, by every client, through whichever process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.acceptance.deployments import Deployment, Distributed, Vendor
from tests.http.ear import ALL, IMAGES, Ear, listening
from tests.node import Node
from tests.proxy import Proxy

SECONDS = 40
ENDS = ("Started", "Completed", "Failed", "Cancelled")
SOCKETS = 12


def accept(client: httpx.Client, script: str, **members: Any) -> str:
    """The id of a new task that does what the script says."""
    body = {"model": "scripted-image", "prompt": f"followed {time.time()}", "script": script, "async": True, **members}
    reply = client.post("/v1/images/generations", json=body)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def draw(client: httpx.Client, **members: Any) -> str:
    """The id of a new task that shows how its picture looks on its way."""
    body = {"model": "demo-image", "prompt": "previewed", "size": "1024x1024", "partial_images": 3, "async": True}
    reply = client.post("/v1/images/generations", json={**body, **members})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def story(heard: list[tuple[str, dict[str, Any]]], task_id: str) -> list[str]:
    """What was heard of a task, without progress and previews; which must have risen, before the end."""
    told = [(name, members) for name, members in heard if name not in ("connected", "answer")]
    mine = [(name, members) for name, members in told if members["task_id"] == task_id]
    places = [(members["sequence"], members["progress"]) for name, members in mine if name != "Preview"]
    assert places == sorted(set(places)), places
    return [name.removeprefix("ImageGeneration") for name, _ in mine if name.endswith(ENDS)]


def streamed(client: httpx.Client, task_id: str, after: str = "0") -> Generator[tuple[str, str]]:
    """Word and id of each event of a stream."""
    with client.stream("GET", f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": after}) as reply:
        assert reply.status_code == 200, reply.read()
        name = ""
        for line in reply.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value.rpartition(".")[2]
            elif field == "id":
                yield name, value


@pytest.mark.parametrize("protocol", ["socketio", "signalr"])
def test_javascript_clients_hear_of_their_tasks(deployment: Deployment, key: str, node: Node, protocol: str) -> None:
    """The official clients, with a token of one user: of that user's tasks alone, unasked, to the end."""
    with deployment.client(key) as client:
        body = {"metadata": {"user": protocol}}
        token = client.post("/v1/realtime/tokens", json=body).json()["token"]
        with node.listening("hear.mjs", protocol, deployment.url, token, "image-generation") as listener:
            assert listener.hear() == ("connected", None)
            accept(client, "bytes")
            task_id = accept(client, "job:3", metadata={"user": protocol})
            heard = listener.rest()
        assert {members["taskId"] for _, members in heard} == {task_id}
        assert story(heard, task_id) == ["Started", "Completed"]
        assert any(name == "ImageGenerationProgress" for name, _ in heard)
        assert client.get(heard[-1][1]["imageUrl"]).headers["content-type"] == "image/png"


@pytest.mark.parametrize("protocol", ["socketio", "signalr"])
def test_javascript_clients_hear_unasked_of_what_fails(
    deployment: Deployment, key: str, node: Node, protocol: str
) -> None:
    """With a code for programs and words for people, under names of its own."""
    with (
        deployment.client(key) as client,
        node.listening("hear.mjs", protocol, deployment.url, key, "image-generation") as listener,
    ):
        assert listener.hear() == ("connected", None)
        task_id = accept(client, "fails")
        heard = listener.rest()
    assert story(heard, task_id) == ["Started", "Failed"]
    _, last = heard[-1]
    assert (last["status"], last["errorCode"], bool(last["error"])) == ("failed", "provider_error", True)


@pytest.mark.parametrize("protocol", ["socketio", "signalr"])
def test_javascript_clients_see_previews(deployment: Deployment, key: str, node: Node, protocol: str) -> None:
    """Each a picture by itself, between the beginning and the end."""
    with (
        deployment.client(key) as client,
        node.listening("hear.mjs", protocol, deployment.url, key, "image-generation") as listener,
    ):
        assert listener.hear() == ("connected", None)
        task_id = draw(client)
        heard = listener.rest()
    assert story(heard, task_id) == ["Started", "Completed"]
    previews = [members for name, members in heard[1:-1] if name == "Preview"]
    assert previews
    for preview in previews:
        head, _, data = preview["image"].partition(",")
        assert head == f"data:{preview['mediaType']};base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (1024, 1024)


@pytest.mark.parametrize("protocol", ["socketio", "signalr"])
def test_javascript_clients_ask_for_what_they_missed(
    deployment: Deployment, key: str, node: Node, protocol: str
) -> None:
    """The answer is the task as it stands; then comes what happened after the event that was seen."""
    with deployment.client(key) as client:
        task_id = accept(client, "bytes")
        client.get(f"/v1/tasks/{task_id}", params={"wait": SECONDS})
        with node.listening("hear.mjs", protocol, deployment.url, key, "image-generation", task_id, "1") as listener:
            heard = listener.rest()
    answers = [value for name, value in heard if name == "answer"]
    assert [answer["status"] for answer in answers] in ([], ["completed"])
    assert story(heard, task_id) == ["Started", "Completed"]


@pytest.mark.parametrize("protocol", ["socketio", "signalr"])
def test_javascript_clients_are_told_that_a_key_is_wrong(deployment: Deployment, node: Node, protocol: str) -> None:
    """In words that a program can read."""
    with node.listening("hear.mjs", protocol, deployment.url, "hg_wrong", "image-generation") as listener:
        ((name, reason),) = listener.rest()
    assert name == "refused"
    assert "invalid_api_key" in json.dumps(reason) or "401" in json.dumps(reason)


def test_a_stream_goes_on_where_it_broke_off(deployment: Deployment, key: str) -> None:
    """With nothing lost and nothing repeated, however often it breaks."""
    with deployment.client(key) as client:
        task_id = accept(client, "job:2")
        seen: list[str] = []
        while not seen or seen[-1] != "3":
            stream = streamed(client, task_id, seen[-1] if seen else "0")
            seen.append(next(stream)[1])
            stream.close()
    assert [id for id in seen if "-" not in id] == ["1", "2", "3"]
    assert seen == sorted(set(seen), key=lambda id: [int(part) for part in id.split("-")])
    assert len(seen) > 3


async def test_who_loses_the_key_is_sent_away(deployment: Deployment) -> None:
    """Within five seconds, whichever process took it away, and streams end."""
    key = deployment.new_key()
    with deployment.client(key) as client:
        task_id = accept(client, "never")
        listed = deployment.command("keys", "list").strip().splitlines()
        (mine,) = [line.split()[0] for line in listed if key[-4:] in line.split()[1]]
        stream = streamed(client, task_id)
        assert [next(stream), next(stream)] == [("queued", "1"), ("started", "2")]
        async with listening(deployment.url, {"token": key}, IMAGES) as ear:
            await asyncio.to_thread(deployment.command, "keys", "revoke", mine)
            async with asyncio.timeout(5):
                await ear.gone.wait()
                assert await asyncio.to_thread(lambda: [name for name, _ in stream if name != "progress"]) == []


@pytest.fixture
def proxy(broker: str) -> Iterator[Proxy]:
    """A line to the broker that the test can cut."""
    address = urlsplit(broker)
    made = Proxy(address.hostname or "", address.port or 5672)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path, vendor: Vendor, services: Callable[[], dict[str, str]], proxy: Proxy) -> Iterator[Distributed]:
    """A deployment with two web processes, whose line to the broker can be cut."""
    environ = services() | {"HELIOGRAPH_PROCESSES": "2"}
    address = urlsplit(environ["HELIOGRAPH_BROKER_URL"])
    netloc = f"{address.username}:{address.password}@127.0.0.1:{proxy.port}"
    made = Distributed(tmp_path, vendor, environ | {"HELIOGRAPH_BROKER_URL": address._replace(netloc=netloc).geturl()})
    try:
        made.start()
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def crowd(deployment: Distributed, key: str) -> AsyncIterator[list[Ear]]:
    """Sockets, so many that each of the web processes has some of them."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(listening(deployment.url, {"token": key}, IMAGES, ALL))
            for _ in range(SOCKETS)
        ]


async def test_every_process_tells_of_what_any_process_does(pair: Distributed, proxy: Proxy) -> None:
    """All sockets hear the same of every task, whichever process has which."""
    key = pair.new_key()
    with pair.client(key) as client:
        async with crowd(pair, key) as ears:
            for script in ("job:2", "bytes"):
                task_id = await asyncio.to_thread(accept, client, script)
                for ear in ears:
                    await ear.until("Completed", count=1)
                    await ear.until("Completed", ALL)
                    assert (
                        story(ear.heard[IMAGES], task_id) == story(ear.heard[ALL], task_id) == ["Started", "Completed"]
                    )
                    ear.heard = {namespace: [] for namespace in ear.heard}


async def test_a_broker_that_is_restarted_costs_nobody_anything(pair: Distributed, proxy: Proxy) -> None:
    """Who stays hears the end of what runs and the whole of what begins meanwhile, and who comes gets it too.

    When the broker is back every process hears of the others again: only so can it have previews.
    """
    key = pair.new_key()
    with pair.client(key) as client:
        async with crowd(pair, key) as ears:
            running = await asyncio.to_thread(accept, client, "job:3")
            for ear in ears:
                await ear.until("Started")
            await asyncio.to_thread(proxy.cut)
            begun = await asyncio.to_thread(accept, client, "job:1")
            async with listening(pair.url, {"token": key}) as late:
                for task_id in (running, begun):
                    assert (await late.call("SubscribeToTask", task_id, {"after": 0}))["id"] == task_id
                for ear in (*ears, late):
                    await ear.until("Completed", count=2)
                for task_id, follower in product((running, begun), (*ears, late)):
                    assert story(follower.heard[IMAGES], task_id) == ["Started", "Completed"]
            await asyncio.to_thread(proxy.mend)
            async with asyncio.timeout(SECONDS):
                while not all(any(name == "Preview" for name, _ in ear.heard[IMAGES]) for ear in ears):
                    drawn = await asyncio.to_thread(draw, client)
                    await asyncio.to_thread(client.get, f"/v1/tasks/{drawn}", params={"wait": SECONDS})


async def test_who_comes_back_in_the_middle_misses_nothing(pair: Distributed) -> None:
    """A socket that breaks while a task runs, and another one, on any process, asks from the last event on."""
    key = pair.new_key()
    with pair.client(key) as client:
        async with listening(pair.url, {"token": key}) as ear:
            task_id = await asyncio.to_thread(accept, client, "job:3")
            before = list(await ear.until("Started"))
        for _ in range(6):
            async with listening(pair.url, {"token": key}) as ear:
                task = await ear.call("SubscribeToTask", task_id, {"after": before[-1][1]["sequence"]})
                assert task["id"] == task_id
        async with listening(pair.url, {"token": key}) as ear:
            await ear.call("SubscribeToTask", task_id, {"after": before[-1][1]["sequence"]})
            after = await ear.until("Completed")
    assert story(before, task_id) + story(after, task_id) == ["Started", "Completed"]


def test_several_processes_take_websockets_only(pair: Distributed) -> None:
    """The requests of one poller would find different processes."""
    reply = httpx.get(f"{pair.url}/socket.io/", params={"EIO": "4", "transport": "polling"})
    assert (reply.status_code, "transport" in reply.text) == (400, True)
