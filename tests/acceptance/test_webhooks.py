"""Webhooks on both deployments: told in order, signed, tried again, and sent once more when their owner wishes."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.acceptance.deployments import Deployment, Distributed, Embedded, Vendor
from tests.core.receivers import Heard, Hook
from tests.node import Node

WORDS = ("started", "completed", "failed", "cancelled")
SECONDS = 40


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    """A receiver."""
    with Hook() as made:
        yield made


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def deployment(
    request: pytest.FixtureRequest, vendor: Vendor, hook: Hook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A deployment that may send to the receiver, once of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    environ = {"HELIOGRAPH_ALLOW_HOSTS": f"127.0.0.1:{hook.receiver.port}"}
    made: Deployment
    if request.param == "embedded":
        made = Embedded(folder, vendor, environ)
    else:
        made = Distributed(folder, vendor, request.getfixturevalue("services")() | environ)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def until(found: Callable[[], list[dict[str, Any]] | None]) -> list[dict[str, Any]]:
    """What is found, as soon as it is."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if (result := found()) is not None:
            return result
        time.sleep(0.05)
    raise AssertionError("it did not come about in time")


def test_every_task_is_heard_of_in_order(deployment: Deployment, hook: Hook) -> None:
    """Of thirty tasks at once each tells that it began and how it ended, though two webhooks fail on their way."""
    key = deployment.new_key()
    hook.receiver.heard, hook.receiver.answers = [], [200, 500, 200, 503]
    types: Any = [f"image.generation.{word}" for word in WORDS]
    with OpenAI(base_url=f"{deployment.url}/v1", api_key=key) as sdk, deployment.client(key) as http:
        made = sdk.webhooks.create(name="all", url=hook.url(), event_types=types)
        for number in range(30):
            body = {"model": "scripted-image", "prompt": str(number), "script": "job:1", "async": True}
            assert http.post("/v1/images/generations", json=body).status_code == 202
        path = f"/v1/webhook_endpoints/{made.id}/deliveries"

        def ended() -> list[dict[str, Any]] | None:
            page = http.get(path, params={"limit": 100}).json()["data"]
            return page if len(page) == 60 and all(one["ended_at"] for one in page) else None

        found = until(ended)
        heard = hook.wait(62)
        for one in heard:
            assert sdk.webhooks.unwrap(one.body, one.headers, secret=made.signing_secret).id == one.id
        again = http.post(f"{path}/{found[0]['id']}/redeliver")
        assert again.status_code == 202
        assert hook.wait(1)[0].id == found[0]["event_id"]
    assert {one["status"] for one in found} == {"delivered"}
    assert sorted(len(one["attempts"]) for one in found)[-3:] == [1, 2, 2]
    by_task = defaultdict(list)
    for one in {one.id: one for one in heard}.values():
        by_task[one.json["data"]["task_id"]].append((one.json["data"]["sequence"], one.word))
    assert len(by_task) == 30
    assert all(words == [(2, "started"), (3, "completed")] for words in by_task.values())


def test_javascript_verifies_what_comes(deployment: Deployment, hook: Hook, node: Node, folder: Path) -> None:
    """OpenAI's SDK and the library of the Standard Webhooks agree; while a secret is replaced, either one is good."""
    key, types = deployment.new_key(), ["image.generation.completed"]
    hook.receiver.heard, hook.receiver.answers = [], []
    with deployment.client(key) as http:
        made = http.post("/v1/webhook_endpoints", json={"url": hook.url(), "event_types": types}).json()
        path = f"/v1/webhook_endpoints/{made['id']}/rotate_secret"

        def told() -> Heard:
            body = {"model": "scripted-image", "prompt": "told", "metadata": {"10": "\u00fc", "9": "\u2028"}}
            assert http.post("/v1/images/generations", json=body).status_code == 200
            (heard,) = hook.wait(1)
            return heard

        before = told()
        second = http.post(path, json={"keep_old_secret_active_for_24_hours": True}).json()["signing_secret"]
        during = told()
        third = http.post(path, json={}).json()["signing_secret"]
        after = told()
    first = made["signing_secret"]
    good = ((before, [first]), (during, [first, second]), (after, [third]))
    heard = [
        {"headers": one.headers, "body": one.body.decode(), "secret": secret, "good": secret in secrets}
        for one, secrets in good
        for secret in (first, second, third)
    ]
    heard.append({**heard[0], "body": heard[0]["body"].replace("completed", "cancelled"), "good": False})
    (folder / "webhooks.json").write_text(json.dumps(heard), encoding="utf-8")
    said = node.run("webhooks.mjs", {}, folder)
    assert re.findall(r"^# (?:pass|fail|skipped) (\d+)$", said, re.MULTILINE) == ["1", "0", "0"], said


def test_what_a_key_has_to_tell(deployment: Deployment, hook: Hook) -> None:
    """Its budget tells once that it is used up; an endpoint that is gone is disabled, and comes back for a replay."""
    hook.receiver.heard, hook.receiver.answers = [], []
    with deployment.client(deployment.environ["HELIOGRAPH_ADMIN_KEY"]) as admin:
        budget = {"limit": "0.08", "period": "day", "thresholds": [50]}
        made = admin.post("/admin/v1/keys", json={"name": "small", "budget": budget}).json()
        with deployment.client(made["key"]) as http:
            types = ["key.budget.threshold", "key.budget.exceeded", "key.disabled"]
            endpoint = http.post("/v1/webhook_endpoints", json={"url": hook.url(), "event_types": types}).json()
            path = f"/v1/webhook_endpoints/{endpoint['id']}"
            for number in range(2):
                body = {"model": "scripted-image", "prompt": f"budget {number}"}
                assert http.post("/v1/images/generations", json=body).status_code == 200
            heard = hook.wait(2)
            told = sorted((one.json["type"], one.json["data"]["threshold"]) for one in heard)
            assert told == [("key.budget.exceeded", 100), ("key.budget.threshold", 50)]
            hook.receiver.answers = [410]
            since = {"since": endpoint["created_at"]}
            first = http.get(f"{path}/deliveries").json()["data"][0]["id"]
            http.post(f"{path}/deliveries/{first}/redeliver")
            hook.wait(1)
            until(lambda: [{}] if http.get(path).json()["status"] == "disabled" else None)
            assert http.post(f"{path}/replay", json=since).json()["error"]["code"] == "endpoint_disabled"
            http.post(path, json={"status": "enabled", "url": hook.url("elsewhere")})
            assert http.post(f"{path}/replay", json=since).json()["count"] == 1
            hook.wait(1)
            assert http.delete(f"/v1/webhook_endpoints/{endpoint['id']}").json()["deleted"]
