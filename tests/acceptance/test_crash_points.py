"""Every crash point: the process dies there, is started again, and what becomes of the task is what the table says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.core.crashing import POINTS
from tests.acceptance.deployments import Embedded, Vendor
from tests.core.receivers import Hook

SETTLED_SECONDS = 40


class End(NamedTuple):
    """How a story ends: the task's status (None: there is no task), its error code, and the orders at the vendor."""

    status: str | None
    code: str | None
    orders: int


# What the key's account says then: spent and reserved.
MONEY = {None: ("0.000000", "0.000000"), "completed": ("0.040000", "0.000000"), "failed": ("0.000000", "0.040000")}
NOTHING = End(None, None, 0)
DONE = End("completed", None, 1)
UNKNOWN, UNSENT = End("failed", "outcome_unknown", 1), End("failed", "outcome_unknown", 0)

# With a vendor that answers an order with the picture; and with one that answers with a job, to be looked at.
ENDS = {
    "bytes": {
        "accept.after_reserve": NOTHING, "accept.before_commit": NOTHING, "start.before_commit": DONE,
        "accept.after_commit": DONE, "accept.before_reply": DONE,
        "turn.after_take": DONE, "submit.before_send": UNSENT, "submit.after_response": UNKNOWN,
        "store.after_put": UNKNOWN, "complete.before_commit": UNKNOWN, "complete.after_commit": DONE,
    },
    "job:0": {
        "submit.after_response": UNKNOWN, "job.after_commit": DONE, "poll.after_response": DONE,
        "store.after_put": DONE, "complete.before_commit": DONE, "complete.after_commit": DONE,
    },
}  # fmt: skip
# How often the webhook of a task comes when the process dies there: what was sent and not noted comes twice.
WEBHOOKS = {"complete.after_commit": 1, "delivery.before_send": 1, "delivery.after_send": 2}
STORIES = [(script, point, end) for script, ends in ENDS.items() for point, end in ends.items()]


def test_every_point_has_a_story() -> None:
    """No crash point is without an asserted end."""
    assert {point for ends in ENDS.values() for point in ends} | set(WEBHOOKS) == set(POINTS)


@pytest.mark.parametrize(("script", "point", "end"), STORIES, ids=[f"{point}-{script}" for script, point, _ in STORIES])
def test_a_crash_ends_as_the_table_says(script: str, point: str, end: End, tmp_path: Path, vendor: Vendor) -> None:
    """The process is gone at the point; the next one ends the task, never orders again, and books what became of it."""
    prompt = f"{point} {time.time()}"
    made = Embedded(tmp_path, vendor, {})
    try:
        made.environ["HELIOGRAPH_CRASH_POINT"] = point
        made.start()
        key = made.new_key()
        _order(made, key, prompt, script)
        assert made.up.popen.wait(20) == -9
        del made.environ["HELIOGRAPH_CRASH_POINT"]
        made.start()
        with made.client(key) as client:
            tasks = client.get("/v1/tasks").json()["data"]
            assert len(tasks) == (end.status is not None)
            ended = [client.get(f"/v1/tasks/{task['id']}", params={"wait": SETTLED_SECONDS}).json() for task in tasks]
            for task in ended:
                _whole(client, task)
            budget = client.get("/v1/usage").json()["budget"]
    finally:
        made.stop()
    assert [(task["status"], task["error_code"]) for task in ended] == ([end[:2]] if end.status else [])
    assert len(vendor.accepted(prompt)) == end.orders
    assert (budget["spent"], budget["reserved"]) == MONEY[end.status]


@pytest.mark.parametrize(("point", "count"), WEBHOOKS.items())
def test_a_crash_loses_no_webhook(point: str, count: int, tmp_path: Path, vendor: Vendor) -> None:
    """Killed between commit and send, or between send and note: it comes after the restart, under the same id."""
    prompt = f"webhook {point} {time.time()}"
    with Hook() as hook:
        made = Embedded(tmp_path, vendor, {"HELIOGRAPH_ALLOW_HOSTS": f"127.0.0.1:{hook.receiver.port}"})
        try:
            made.environ["HELIOGRAPH_CRASH_POINT"] = point
            made.start()
            key = made.new_key()
            _order(made, key, prompt, "bytes", webhook_url=hook.url())
            assert made.up.popen.wait(20) == -9
            del made.environ["HELIOGRAPH_CRASH_POINT"]
            made.start()
            heard = hook.wait(count)
            with made.client(key) as client:
                found = _ended(client, "/v1/webhook_endpoints/default/deliveries")
        finally:
            made.stop()
    assert len({(one.id, one.body) for one in heard}) == 1
    assert [(one["status"], one["event_id"], len(one["attempts"])) for one in found] == [("delivered", heard[0].id, 1)]
    assert hook.receiver.heard == []


def _ended(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < deadline:
        found: list[dict[str, Any]] = client.get(path).json()["data"]
        if found and all(one["ended_at"] for one in found):
            return found
        time.sleep(0.05)
    raise AssertionError("the delivery did not end in time")


def _order(made: Embedded, key: str, prompt: str, script: str, **more: Any) -> None:
    body = {"model": "scripted-image", "prompt": prompt, "script": script, "async": True, **more}
    with made.client(key) as client:
        try:
            client.post("/v1/images/generations", json=body)
        except httpx.TransportError:
            assert not made.up.running or made.up.popen.wait(10) == -9


def _whole(client: httpx.Client, task: dict[str, Any]) -> None:
    """A completed task has its picture, which can be fetched; another one has none."""
    if task["status"] != "completed":
        assert task["result"] is None
        return
    (picture,) = task["result"]["data"]
    assert len(client.get(picture["url"]).content) == picture["bytes"]
