"""Webhooks over HTTP: endpoints as the official client makes them, and what then comes to a receiver of one's own."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from PIL import Image
from standardwebhooks import Webhook

from tests.core.receivers import Heard, Hook
from tests.core.test_outbound import HOSTILE
from tests.core.test_payloads import through_javascript
from tests.http.replies import refusal, refused
from tests.http.server import ADMIN_KEY, CONFIG, ENVIRON, Heliograph, serving

PATH, SECONDS = "/v1/images/generations", 20
TYPE = "image.generation.completed"
BODY = {"model": "demo-image", "prompt": "a canary", "size": "256x256"}


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    """A receiver on loopback."""
    with Hook() as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[Heliograph]:
    """A gateway that may send to that receiver, and to nothing else here."""
    environ = ENVIRON | {"HELIOGRAPH_ALLOW_HOSTS": f"127.0.0.1:{hook.receiver.port}"}
    with serving(tmp_path_factory.mktemp("webhooks"), CONFIG, environ) as heliograph:
        yield heliograph


@pytest.fixture
def sdk(heliograph: Heliograph, hook: Hook) -> Iterator[OpenAI]:
    """The official client, for a key of its own."""
    hook.receiver.heard, hook.receiver.answers = [], []
    with heliograph.client(ADMIN_KEY) as admin:
        key = admin.post("/admin/v1/keys", json={"name": "a key"}).json()["key"]
    with OpenAI(base_url=f"{heliograph.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def http(heliograph: Heliograph, sdk: OpenAI) -> Iterator[httpx.Client]:
    """A plain client with that key."""
    with heliograph.client(sdk.api_key) as client:
        yield client


def unwrapped(sdk: OpenAI, heard: Heard, secret: str) -> Any:
    """The event, once both libraries have verified it."""
    assert Webhook(secret).verify(heard.body, heard.headers) == heard.json
    return sdk.webhooks.unwrap(heard.body, heard.headers, secret=secret)


def settled(http: httpx.Client, endpoint_id: str, count: int) -> list[dict[str, Any]]:
    """The deliveries of an endpoint, as soon as so many have ended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found: list[dict[str, Any]] = http.get(f"/v1/webhook_endpoints/{endpoint_id}/deliveries").json()["data"]
        if sum(one["ended_at"] is not None for one in found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError("the deliveries did not end in time")


def test_the_sdk_keeps_endpoints(sdk: OpenAI) -> None:
    """Each of its methods does what it is documented to do, in its own types."""
    made = sdk.webhooks.create(name="one", url="https://receiver.example/a", event_types=["video.completed"])
    assert (made.object, made.name, made.url) == ("webhook_endpoint", "one", "https://receiver.example/a")
    assert made.event_types == ["video.completed"]
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_…{made.signing_secret[-4:]}"
    found = sdk.webhooks.retrieve(made.id)
    assert found.signing_secret_hint == made.signing_secret_hint
    assert not hasattr(found, "signing_secret")
    changed = sdk.webhooks.update(made.id, name="two", event_types=["video.completed", "video.failed"])
    assert (changed.name, changed.event_types) == ("two", ["video.completed", "video.failed"])
    others = [sdk.webhooks.create(name=str(n), url="https://receiver.example/", event_types=["video.failed"]).id
              for n in range(4)]  # fmt: skip
    assert [one.id for one in sdk.webhooks.list(limit=2)] == [*others[::-1], made.id]
    rotated = sdk.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret
    assert sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True).id == made.id
    gone = sdk.webhooks.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
    with pytest.raises(APIStatusError) as caught:
        sdk.webhooks.retrieve(made.id)
    assert (caught.value.status_code, caught.value.code) == (404, "endpoint_not_found")


def test_the_sdk_lists_event_types(sdk: OpenAI) -> None:
    """Those that there are here."""
    types = sdk.webhooks.event_types.list()
    assert types.object == "list"
    assert {TYPE, "image.edit.failed", "key.budget.threshold", "key.disabled"} <= set(types.data)


def test_the_sdk_sends_a_sample(sdk: OpenAI, hook: Hook) -> None:
    """Once and at once; the receiver's status is the answer, whatever it is."""
    made = sdk.webhooks.create(name="one", url=hook.url(), event_types=["video.completed"])
    hook.receiver.answers = [202, 500]
    result = sdk.webhooks.test(made.id, event_type="video.completed")
    assert (result.status_code, result.success, result.event_type) == (202, True, "video.completed")
    assert sdk.webhooks.test(made.id, event_type="video.failed").status_code == 500
    first, second = hook.wait(2)
    assert unwrapped(sdk, first, made.signing_secret).type == "video.completed"
    assert (first.json["data"], second.json["type"]) == ({"test": True, "sequence": 0}, "video.failed")


def test_a_sample_that_cannot_be_sent_says_why(http: httpx.Client, hook: Hook) -> None:
    """A receiver that hangs up, and a name that does not exist, are refusals with a reason."""
    for url, answer in ((hook.url(), b""), ("https://nobody.invalid/", b"")):
        hook.receiver.answers = [answer]
        made = http.post("/v1/webhook_endpoints", json={"url": url, "event_types": [TYPE]}).json()
        reply = http.post(f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": TYPE})
        assert refused(reply, 400, "endpoint_unreachable").startswith("The webhook endpoint could not be reached: ")
        reply = http.post(f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": "x"})
        refused(reply, 400, "invalid_parameter", "event_type")


def test_an_endpoint_hears_and_the_sdk_unwraps(sdk: OpenAI, http: httpx.Client, hook: Hook) -> None:
    """A finished picture comes signed; while a secret is replaced, either one verifies it."""
    made = sdk.webhooks.create(name="one", url=hook.url(), event_types=[TYPE])  # type: ignore[list-item]  # ours
    image = sdk.images.generate(model="demo-image", prompt="a canary", size="256x256")
    (heard,) = hook.wait(1)
    event = unwrapped(sdk, heard, made.signing_secret)
    assert (event.type, event.object, event.id) == (TYPE, "event", heard.id)
    told = heard.json["data"]
    assert (told["status"], told["sequence"], told["progress"]) == ("completed", 3, 100)
    assert httpx.get(told["image_url"]).content == httpx.get(image.data[0].url or "").content  # type: ignore[index]  # JSON
    assert b"canary" not in heard.body
    renewed = sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    sdk.images.generate(model="demo-image", prompt="a canary", size="256x256")
    (heard,) = hook.wait(1)
    for secret in (made.signing_secret, renewed.signing_secret):
        assert unwrapped(sdk, heard, secret).id == heard.id
    final = sdk.webhooks.rotate_secret(made.id)
    sdk.images.generate(model="demo-image", prompt="a canary", size="256x256")
    (heard,) = hook.wait(1)
    assert unwrapped(sdk, heard, final.signing_secret).id == heard.id
    for secret in (made.signing_secret, renewed.signing_secret):
        with pytest.raises(Exception, match="signature"):
            sdk.webhooks.unwrap(heard.body, heard.headers, secret=secret)
    assert [one["status"] for one in settled(http, made.id, 3)] == ["delivered"] * 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_task_has_a_webhook_of_its_own(sdk: OpenAI, http: httpx.Client, hook: Hook, asynchronous: bool) -> None:
    """Of JSON, with headers and events; the task shows the URL, never the headers."""
    secret = sdk.webhooks.rotate_secret("default").signing_secret
    extras = {
        "webhook_url": hook.url("mine?x=1"), "webhook_headers": {"X-Token": "canary-token"},
        "webhook_events": ["started", TYPE], "metadata": {"order": "7", "2": "b", "1": "é😀"}, "async": asynchronous,
    }  # fmt: skip
    reply = http.post(PATH, json=BODY | extras)
    task_id = reply.headers["x-heliograph-task-id"]
    first, second = hook.wait(2)
    assert [unwrapped(sdk, one, secret).type for one in (first, second)] == ["image.generation.started", TYPE]
    assert {one.headers["x-token"] for one in (first, second)} == {"canary-token"}
    assert second.json["data"]["metadata"] == {"1": "é😀", "2": "b", "order": "7"}
    task = http.get(f"/v1/tasks/{task_id}")
    assert task.json()["webhook_url"] == hook.url("mine?x=1")
    assert second.json["data"]["task_id"] == task_id
    assert "canary-token" not in task.text + http.get("/v1/webhook_endpoints/default/deliveries").text
    listed = settled(http, "default", 2)
    assert [(one["task_id"], one["event_type"]) for one in listed] == [
        (task_id, TYPE), (task_id, "image.generation.started"),
    ]  # fmt: skip
    assert http.get("/v1/webhook_endpoints").json()["data"] == []


def test_a_form_has_a_webhook_as_well(http: httpx.Client, hook: Hook) -> None:
    """Headers as JSON, events as a list, as other members of a form."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "blue").save(file, "PNG")
    fields = {
        "model": "demo-image", "prompt": "x", "webhook_url": hook.url(), "webhook_events[]": ["completed"],
        "webhook_headers": json.dumps({"X-Token": "mine"}),
    }  # fmt: skip
    reply = http.post("/v1/images/edits", data=fields, files={"image": ("a.png", file.getvalue())})
    assert reply.status_code == 200
    (heard,) = hook.wait(1)
    assert (heard.json["type"], heard.headers["x-token"]) == ("image.edit.completed", "mine")


def test_hostile_urls_are_refused_before_anything_is_made(http: httpx.Client, hook: Hook) -> None:
    """For a task and for an endpoint: a refusal that names the member, and nobody connects to this machine."""
    with socket.create_server(("127.0.0.1", 0)) as decoy:
        decoy.setblocking(False)
        port = str(decoy.getsockname()[1])
        for form in HOSTILE:
            url = form.replace("{h}", f"127.0.0.1:{port}").replace("{port}", port)
            for path, members, param in (
                (PATH, {"webhook_url": url} | BODY, "webhook_url"),
                ("/v1/webhook_endpoints", {"url": url, "event_types": [TYPE]}, "url"),
            ):
                reply = http.post(path, content=json.dumps(members), headers={"Content-Type": "application/json"})
                # Half a character is no JSON, whichever member has it.
                assert refusal(reply)["param"] == (None if "\ud800" in url else param), url
        with pytest.raises(BlockingIOError):
            decoy.accept()
    assert http.get("/v1/tasks").json()["data"] == http.get("/v1/webhook_endpoints").json()["data"] == []
    assert hook.receiver.heard == []


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"webhook_url": 5}, "webhook_url"),
        ({"webhook_url": ""}, "webhook_url"),
        ({"webhook_url": "https://receiver.example/", "webhook_headers": {"X-A": 5}}, "webhook_headers"),
        ({"webhook_url": "https://receiver.example/", "webhook_headers": ["X-A"]}, "webhook_headers"),
        ({"webhook_url": "https://receiver.example/", "webhook_headers": {"Host": "x"}}, "webhook_headers"),
        ({"webhook_url": "https://receiver.example/", "webhook_events": ["done"]}, "webhook_events"),
        ({"webhook_url": "https://receiver.example/", "webhook_events": "completed"}, "webhook_events"),
        ({"webhook_headers": {"X-A": "x"}}, "webhook_headers"),
        ({"webhook_events": ["completed"]}, "webhook_events"),
    ],
)
def test_what_makes_no_sense_is_refused(http: httpx.Client, members: dict[str, Any], param: str) -> None:
    """By the name of the member, also in a dry run."""
    for more in ({}, {"dry_run": True}):
        refused(http.post(PATH, json=BODY | members | more), 400, "invalid_parameter", param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_parameter", "url"),
        ({"url": "https://receiver.example/"}, "missing_parameter", "event_types"),
        ({"url": "https://receiver.example/", "event_types": []}, "invalid_parameter", "event_types"),
        ({"url": "https://receiver.example/", "event_types": ["x"]}, "invalid_parameter", "event_types"),
        ({"url": "https://receiver.example/", "event_types": [TYPE], "name": ""}, "invalid_parameter", "name"),
        ({"url": "https://receiver.example/", "event_types": [TYPE], "signing_secret": "whsec_eA=="},
         "unsupported_parameter", "signing_secret"),
    ],
)  # fmt: skip
def test_an_endpoint_that_makes_no_sense_is_refused(
    http: httpx.Client, body: dict[str, Any], code: str, param: str
) -> None:
    """A secret of one's own is none that is taken: ours is never weak."""
    refused(http.post("/v1/webhook_endpoints", json=body), 400, code, param)


def test_another_key_sees_nothing(heliograph: Heliograph, http: httpx.Client) -> None:
    """Neither endpoint nor deliveries: as if there were none."""
    made = http.post("/v1/webhook_endpoints", json={"url": "https://receiver.example/", "event_types": [TYPE]}).json()
    path = f"/v1/webhook_endpoints/{made['id']}"
    with heliograph.client() as other:
        assert other.get("/v1/webhook_endpoints").json()["data"] == []
        for reply in (
            other.get(path), other.post(path, json={"name": "x"}), other.delete(path),
            other.post(f"{path}/rotate_secret", json={}), other.post(f"{path}/test", json={"event_type": TYPE}),
            other.get(f"{path}/deliveries"), other.post(f"{path}/replay", json={"since": 0}),
            other.post(f"{path}/deliveries/del_{'0' * 26}/redeliver"),
        ):  # fmt: skip
            refused(reply, 404, "endpoint_not_found")
    with heliograph.client("hg_" + "0" * 38) as nobody:
        refused(nobody.get("/v1/webhook_endpoints"), 401, "invalid_api_key")


def test_the_log_and_sending_again(http: httpx.Client, hook: Hook) -> None:
    """Every attempt is noted; a delivery is sent again by its id, or all that was missed since a time."""
    made = http.post("/v1/webhook_endpoints", json={"url": hook.url(), "event_types": [TYPE]}).json()
    path = f"/v1/webhook_endpoints/{made['id']}"
    hook.receiver.answers = [404]
    http.post(PATH, json=BODY)
    (first,) = hook.wait(1)
    (failed,) = settled(http, made["id"], 1)
    (tried,) = failed["attempts"]
    assert (failed["status"], failed["event_id"], failed["object"]) == ("failed", first.id, "webhook_delivery")
    assert (tried["number"], tried["status_code"], tried["error"], tried["response"]) == (1, 404, None, "heard")
    assert http.get(f"{path}/deliveries", params={"status": "delivered"}).json()["data"] == []
    again = http.post(f"{path}/deliveries/{failed['id']}/redeliver")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    (second,) = hook.wait(1)
    assert (second.id, second.body) == (first.id, first.body)
    refused(http.post(f"{path}/deliveries/del_{'0' * 26}/redeliver"), 404, "delivery_not_found")
    hook.receiver.answers = [410]
    http.post(PATH, json=BODY)
    hook.wait(1)
    settled(http, made["id"], 2)
    disabled = http.get(path).json()
    assert (disabled["status"], disabled["disabled_reason"]) == ("disabled", "the receiver says that it is gone (410)")
    refused(http.post(f"{path}/replay", json={"since": 0}), 409, "endpoint_disabled")
    assert http.post(path, json={"status": "enabled"}).json()["status"] == "enabled"
    replayed = http.post(f"{path}/replay", json={"since": made["created_at"]})
    assert (replayed.status_code, replayed.json()["count"]) == (202, 1)
    hook.wait(1)
    assert [one["status"] for one in settled(http, made["id"], 2)] == ["delivered"] * 2
    refused(http.get(f"{path}/deliveries", params={"status": "x"}), 400, "invalid_parameter", "status")
    refused(http.get(f"{path}/deliveries", params={"after": "x"}), 400, "invalid_parameter", "after")
    refused(http.post(path, json={"status": "off"}), 400, "invalid_parameter", "status")
    refused(http.post("/v1/webhook_endpoints/default", json={"name": "x"}), 400, "invalid_parameter",
            "webhook_endpoint_id")  # fmt: skip


def test_a_repeated_request_tells_once(http: httpx.Client, hook: Hook) -> None:
    """With an Idempotency-Key there is one task, and so one webhook."""
    body = BODY | {"webhook_url": hook.url(), "async": True}
    for _ in range(3):
        assert http.post(PATH, json=body, headers={"Idempotency-Key": "once"}).status_code == 202
    hook.wait(1)
    assert len(settled(http, "default", 1)) == 1


def test_a_receiver_in_javascript_verifies_the_older_signature(tmp_path: Path, hook: Hook) -> None:
    """It hashes what it has parsed and written again, under the text of the secret."""
    environ = ENVIRON | {
        "HELIOGRAPH_ALLOW_HOSTS": f"127.0.0.1:{hook.receiver.port}", "HELIOGRAPH_WEBHOOK_LEGACY_HEADERS": "true",
    }  # fmt: skip
    with serving(tmp_path, CONFIG, environ) as heliograph, heliograph.client() as http:
        secret = http.post("/v1/webhook_endpoints/default/rotate_secret", json={}).json()["signing_secret"]
        http.post(PATH, json=BODY | {"webhook_url": hook.url(), "metadata": {"10": "ü", "9": "x\u2028"}})
        (heard,) = hook.wait(1)
    (written,) = through_javascript(heard.body.decode())
    digest = hmac.new(secret.encode(), written.encode(), hashlib.sha256).hexdigest()
    assert heard.headers["x-conduit-signature"] == f"sha256={digest}"
    assert heard.headers["x-conduit-event-id"] == heard.id
