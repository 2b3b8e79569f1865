"""Every crash point: the process dies there, is started again, and what becomes of the task is what the table says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.core.crashing import POINTS
from tests.acceptance.deployments import Embedded, Vendor

SETTLED_SECONDS = 40


class End(NamedTuple):
    """How a story ends: the task's status (None: there is no task), its error code, and the orders at the vendor."""

    status: str | None
    code: str | None
    orders: int


NOTHING = End(None, None, 0)
DONE = End("completed", None, 1)
UNKNOWN, UNSENT = End("failed", "outcome_unknown", 1), End("failed", "outcome_unknown", 0)

# With a vendor that answers an order with the picture; and with one that answers with a job, to be looked at.
ENDS = {
    "bytes": {
        "accept.before_commit": NOTHING, "accept.after_commit": DONE, "accept.before_reply": DONE,
        "turn.after_take": DONE, "submit.before_send": UNSENT, "submit.after_response": UNKNOWN,
        "store.after_put": UNKNOWN, "complete.before_commit": UNKNOWN, "complete.after_commit": DONE,
    },
    "job:0": {
        "submit.after_response": UNKNOWN, "job.after_commit": DONE, "poll.after_response": DONE,
        "store.after_put": DONE, "complete.before_commit": DONE, "complete.after_commit": DONE,
    },
}  # fmt: skip
STORIES = [(script, point, end) for script, ends in ENDS.items() for point, end in ends.items()]


def test_every_point_has_a_story() -> None:
    """No crash point is without an asserted end."""
    assert {point for ends in ENDS.values() for point in ends} == set(POINTS)


@pytest.mark.parametrize(("script", "point", "end"), STORIES, ids=[f"{point}-{script}" for script, point, _ in STORIES])
def test_a_crash_ends_as_the_table_says(script: str, point: str, end: End, tmp_path: Path, vendor: Vendor) -> None:
    """The process is gone at the point; the next one brings the task to its end, and never orders a second time."""
    prompt = f"{point} {time.time()}"
    made = Embedded(tmp_path, vendor, {})
    made.command("migrate")
    made.environ["HELIOGRAPH_SECRET"] = "crash-points-use-this-secret-and-nobody-else-does"
    key = made.new_key()
    try:
        made.environ["HELIOGRAPH_CRASH_POINT"] = point
        made.start()
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
    finally:
        made.stop()
    assert [(task["status"], task["error_code"]) for task in ended] == ([end[:2]] if end.status else [])
    assert len(vendor.accepted(prompt)) == end.orders


def _order(made: Embedded, key: str, prompt: str, script: str) -> None:
    body = {"model": "scripted-image", "prompt": prompt, "script": script, "async": True}
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
