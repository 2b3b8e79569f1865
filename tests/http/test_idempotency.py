"""Idempotency-Key over HTTP: as clients write it, and as they get it wrong."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openai import OpenAI

from tests.http.replies import refused
from tests.http.server import Heliograph

PATH = "/v1/images/generations"
BODY = {"model": "demo-image", "prompt": "a", "size": "256x256"}


def post(client: httpx.Client, key: str, path: str = PATH, **changes: Any) -> httpx.Response:
    """One request under a key."""
    return client.post(path, json=BODY | changes, headers={"Idempotency-Key": key})


def task_of(reply: httpx.Response) -> str:
    """The id of the reply's task."""
    return reply.headers["x-heliograph-task-id"]


def test_a_repeated_request_is_a_replay(client: httpx.Client) -> None:
    """The same picture of the same task, and a header that says so; in quotes it is the same key."""
    key = str(uuid4())
    first, second, quoted = post(client, key), post(client, key), post(client, f'"{key}"')
    assert [one.status_code for one in (first, second, quoted)] == [200, 200, 200]
    assert len({task_of(one) for one in (first, second, quoted)}) == 1
    assert [one.headers.get("idempotent-replayed") for one in (first, second, quoted)] == [None, "true", "true"]


def test_an_asynchronous_request_is_replayed_as_one(client: httpx.Client) -> None:
    """202 with the task as it stands, also when it has ended meanwhile."""
    key = str(uuid4())
    first = post(client, key, PATH, **{"async": True})
    client.get(f"/v1/tasks/{task_of(first)}", params={"wait": 30})
    second = post(client, key, PATH, **{"async": True})
    assert (first.status_code, second.status_code) == (202, 202)
    assert (second.json()["id"], second.json()["status"]) == (first.json()["id"], "completed")
    assert second.headers["idempotent-replayed"] == "true"


def test_many_at_once_make_one_task(heliograph: Heliograph) -> None:
    """Fifty clients send the same request at the same moment: all get the one picture."""
    key = str(uuid4())
    with heliograph.client() as client, ThreadPoolExecutor(50) as threads:
        replies = list(threads.map(lambda _: post(client, key), range(50)))
    assert {one.status_code for one in replies} == {200}
    assert len({task_of(one) for one in replies}) == 1
    assert sum("idempotent-replayed" not in one.headers for one in replies) == 1


def test_order_and_spaces_do_not_count(client: httpx.Client) -> None:
    """The same JSON, written differently, is the same request; another number is not."""
    headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
    first = client.post(PATH, content=json.dumps(BODY | {"n": 1}), headers=headers)
    turned = json.dumps(dict(reversed((BODY | {"n": 1}).items())), indent=3)
    second = client.post(PATH, content=turned, headers=headers)
    assert task_of(first) == task_of(second)
    assert client.post(PATH, content=json.dumps(BODY | {"n": 1.0}), headers=headers).status_code in (400, 422)


@pytest.mark.parametrize(("path", "changes"), [(PATH, {"prompt": "b"}), (PATH, {"async": True}), (f"{PATH}/async", {})])
def test_another_request_is_refused(client: httpx.Client, path: str, changes: dict[str, Any]) -> None:
    """Another body or route under the same key is 422, and no SDK sends it again."""
    key = str(uuid4())
    post(client, key)
    reply = post(client, key, path, **changes)
    refused(reply, 422, "idempotency_key_reused")
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "a\tb", "\u00e9".encode().decode("latin-1"), '""'])
def test_what_is_no_key_is_refused(client: httpx.Client, key: str) -> None:
    """1 to 255 printable characters of ASCII, without spaces."""
    reply = client.post(PATH, json=BODY, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    refused(reply, 400, "invalid_header")


def test_two_keys_are_refused(client: httpx.Client) -> None:
    """Nobody could say which of them counts."""
    reply = client.post(PATH, json=BODY, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    refused(reply, 400, "invalid_header")


def test_a_refused_request_does_not_burn_the_key(client: httpx.Client) -> None:
    """After a 400 the mended request is new under the same key."""
    key = str(uuid4())
    assert post(client, key, n=99).status_code == 400
    reply = post(client, key)
    assert (reply.status_code, "idempotent-replayed" in reply.headers) == (200, False)


def test_the_official_sdk_sends_it(heliograph: Heliograph) -> None:
    """`extra_headers` is enough: called twice, the SDK gets one task."""
    key = str(uuid4())
    with OpenAI(base_url=f"{heliograph.url}/v1", api_key=heliograph.key) as sdk:
        raw = [
            sdk.images.with_raw_response.generate(
                model="demo-image", prompt="a", size="256x256", extra_headers={"Idempotency-Key": key}
            )
            for _ in range(2)
        ]
    assert len({one.headers["x-heliograph-task-id"] for one in raw}) == 1
