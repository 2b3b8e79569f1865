"""Streams of events: a task's whole story, from wherever a client left off, to who may hear it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.http.replies import refused
from tests.http.server import NOBODYS, Heliograph

PICTURE = {"model": "demo-image", "prompt": "a", "size": "256x256", "async": True}
Event = tuple[str, str, dict[str, Any]]


def made(client: httpx.Client, **members: Any) -> str:
    """The id of a new task."""
    reply = client.post("/v1/images/generations", json={**PICTURE, **members})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def ended(client: httpx.Client, **members: Any) -> str:
    """The id of a task that has ended."""
    task_id = made(client, **members)
    assert client.get(f"/v1/tasks/{task_id}", params={"wait": "20"}).json()["status"] in ("completed", "failed")
    return task_id


def read(lines: Iterator[str]) -> Iterator[Event]:
    """Name, id and data of each event, as they come; comments are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}


@contextmanager
def following(client: httpx.Client, task_id: str, **given: Any) -> Iterator[Iterator[Event]]:
    """The events of a task as they come."""
    with client.stream("GET", f"/v1/tasks/{task_id}/events", **given) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield read(reply.iter_lines())


def test_a_stream_tells_the_whole_story(client: httpx.Client) -> None:
    """Each event in the shape of a webhook, progress that rises between, and then it ends."""
    with following(client, made(client, metadata={"user": "7"})) as stream:
        events = list(stream)
    names = [name.rpartition(".")[2] for name, _, _ in events]
    assert [names[0], names[1], names[-1]] == ["queued", "started", "completed"]
    assert set(names[2:-1]) <= {"progress", "preview"}
    assert all(name == data["type"] and data["object"] == "event" for name, _, data in events)
    progress = [data["data"]["progress"] for _, _, data in events]
    assert progress == sorted(progress)
    assert len({id for _, id, _ in events}) == len(events)
    last = events[-1][2]["data"]
    assert (last["status"], last["progress"], last["metadata"]) == ("completed", 100, {"user": "7"})
    assert client.get(last["image_url"]).headers["content-type"] == "image/png"


def test_previews_are_for_who_follows_a_task(client: httpx.Client) -> None:
    """Each a picture by itself, between the beginning and the end, and not more than were asked for."""
    with following(client, made(client, size="1024x1024", partial_images=3)) as stream:
        events = [(name.rpartition(".")[2], data["data"]) for name, _, data in stream]
    assert [name for name, _ in events if name not in ("progress", "preview")] == ["queued", "started", "completed"]
    previews = [data["preview"] for name, data in events[2:-1] if name == "preview"]
    assert 1 <= len(previews) <= 3
    for preview in previews:
        with Image.open(io.BytesIO(base64.b64decode(preview["b64_json"]))) as picture:
            assert (picture.size, Image.MIME[str(picture.format)]) == ((1024, 1024), preview["media_type"])


def test_who_comes_back_goes_on_where_he_left_off(client: httpx.Client) -> None:
    """By header or query, the header first; after the last event there is no stream, which ends an EventSource."""
    task_id = ended(client)
    path = f"/v1/tasks/{task_id}/events"

    def ids(**given: Any) -> list[str]:
        with following(client, task_id, **given) as stream:
            return [id for _, id, _ in stream]

    assert ids() == ["1", "2", "3"]
    assert ids(params={"after": "1"}) == ids(headers={"Last-Event-ID": "1"}) == ["2", "3"]
    assert ids(params={"after": "0"}, headers={"Last-Event-ID": "2-40"}) == ["3"]
    assert client.get(path, headers={"Last-Event-ID": "3"}).status_code == 204
    assert client.get(path, params={"after": "9"}).status_code == 204


def test_nothing_is_lost_or_repeated_when_a_stream_breaks(client: httpx.Client) -> None:
    """Whichever event was the last that came, the rest follows on it."""
    task_id = made(client)
    with following(client, task_id) as stream:
        whole = [id for _, id, _ in stream]
    again = made(client)
    seen: list[str] = []
    while not seen or seen[-1] != "3":
        with following(client, again, headers={"Last-Event-ID": seen[-1]} if seen else {}) as stream:
            seen.append(next(stream)[1])
    assert seen[:2] == ["1", "2"]
    assert seen == sorted(set(seen), key=lambda id: [int(part) for part in id.split("-")])
    assert whole[0] == "1"


def test_a_stream_waits_for_what_comes(client: httpx.Client, task: str) -> None:
    """A task that never ends is followed until it is cancelled, which ends the stream."""
    with following(client, task) as stream:
        assert [next(stream)[1], next(stream)[1]] == ["1", "2"]
        cancel = threading.Timer(0.1, client.post, [f"/v1/tasks/{task}/cancel"])
        cancel.start()
        rest = list(stream)
        cancel.join()
    assert [(name, id) for name, id, _ in rest] == [("image.generation.cancelled", "3")]


@pytest.mark.parametrize("place", ["x", "-1", "1-2-3", "1-", "1" * 20, "²", "1 "])
def test_a_place_that_is_none_is_refused(client: httpx.Client, task: str, place: str) -> None:
    """Naming where it was given."""
    path = f"/v1/tasks/{task}/events"
    refused(client.get(path, params={"after": place}), 400, "invalid_parameter", "after")
    if place.isascii() and place.strip() == place:
        refused(client.get(path, headers={"Last-Event-ID": place}), 400, "invalid_parameter", "Last-Event-ID")


def test_nobody_else_hears_of_a_task(heliograph: Heliograph, client: httpx.Client, task: str) -> None:
    """Another key's task is no task, and without a key there are none."""
    with heliograph.client(heliograph.other_key) as other:
        refused(other.get(f"/v1/tasks/{task}/events"), 404, "task_not_found")
    refused(client.get(f"/v1/tasks/{NOBODYS}/events"), 404, "task_not_found")
    refused(httpx.get(f"{heliograph.url}/v1/tasks/{task}/events"), 401, "invalid_api_key")
    # An address is logged on its way: a key has no business there.
    reply = httpx.get(f"{heliograph.url}/v1/tasks/{task}/events", params={"access_token": heliograph.key})
    refused(reply, 401, "invalid_api_key")


def test_a_token_follows_what_it_is_for(heliograph: Heliograph, client: httpx.Client) -> None:
    """In the address or as a bearer, one task or those of some metadata, and nothing else at all."""
    mine, other = ended(client, metadata={"user": "7"}), ended(client)

    def statuses(**body: Any) -> list[int]:
        reply = client.post("/v1/realtime/tokens", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["expires_at"] > 0
        token = reply.json()["token"]
        assert httpx.get(f"{heliograph.url}/v1/tasks", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        ways: list[dict[str, Any]] = [
            {"params": {"access_token": token}}, {"headers": {"Authorization": f"Bearer {token}"}},
        ]  # fmt: skip
        found = [
            [httpx.get(f"{heliograph.url}/v1/tasks/{id}/events", **way).status_code for id in (mine, other)]
            for way in ways
        ]
        assert found[0] == found[1]
        return found[0]

    assert statuses() == [200, 200]
    assert statuses(task_id=mine) == [200, 404]
    assert statuses(metadata={"user": "7"}) == [200, 404]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"task_id": NOBODYS}, None, "task_not_found"),
        ({"expires_in": 9}, "expires_in", "invalid_parameter"),
        ({"expires_in": 86_401}, "expires_in", "invalid_parameter"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_parameter"),
        ({"tag": "x"}, "tag", "unsupported_parameter"),
    ],
)
def test_tokens_are_for_something_that_makes_sense(
    client: httpx.Client, body: dict[str, Any], param: str | None, code: str
) -> None:
    """What makes none is refused by its name."""
    refused(client.post("/v1/realtime/tokens", json=body), 404 if param is None else 400, code, param)
