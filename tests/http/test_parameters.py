"""Parameters: what a model takes, what lists take, and how long to wait."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.http.replies import refused
from tests.http.server import NOBODYS, Heliograph


def create(client: httpx.Client, **members: Any) -> httpx.Response:
    """Asks for a small picture of the demo model, at once."""
    body = {"model": "demo-image", "prompt": "a fox", "size": "256x256", "async": True}
    return client.post("/v1/images/generations", json={**body, **members})


NAMES = [
    "nothing", "", " demo-image", "DEMO-IMAGE", "../../etc/passwd", "' OR 1=1--", "%00", "{{7*7}}",
    "a\r\nSet-Cookie: x", "\x1b[31m", "\u202e", "a" * 10_000, "😀",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_model_that_is_none_is_not_found(client: httpx.Client, name: str) -> None:
    """No name finds a model but its own, and none comes back raw or whole."""
    message = refused(create(client, model=name), 404, "model_not_found", "model")
    assert len(message) < 130
    if name:
        refused(client.get(f"/v1/models/{quote(name[:2000], safe='')}"), 404, "model_not_found", "model")


NOT_OFFERED = [
    ("n", 0, "invalid_parameter"), ("n", 5, "invalid_parameter"), ("n", 2**63, "invalid_parameter"),
    *((("size", size, "invalid_image_size")) for size in (
        "0x0", "1x1", "99999x99999", "1024x", "1024X1024", "1024\u00d71024", "auto ", "64x64", "256x256\n",
        "\uff11x\uff11", "\u0662\u0665\u0666x256",
        "256x256x256", "-256x256", "0256x256", "1e3x1e3",
    )),
    ("quality", "ultra", "unsupported_parameter"), ("style", "vivid", "unsupported_parameter"),
    ("background", "opaque", "unsupported_parameter"), ("moderation", "low", "unsupported_parameter"),
    ("output_format", "PNG", "invalid_parameter"), ("output_format", "bmp", "invalid_parameter"),
    ("output_format", "", "invalid_parameter"), ("output_format", "a" * 10_000, "invalid_parameter"),
    ("output_compression", 50, "invalid_parameter"), ("output_compression", -1, "invalid_parameter"),
    ("output_compression", 101, "invalid_parameter"),
    ("response_format", "xml", "invalid_parameter"), ("response_format", "URL", "invalid_parameter"),
    ("stream", "yes", "invalid_parameter"), ("partial_images", 4, "invalid_parameter"),
    ("seed", -1, "invalid_parameter"), ("seed", 2**64, "invalid_parameter"), ("seed", 1.5, "invalid_parameter"),
    ("aspect_ratio", "7:1", "invalid_parameter"), ("aspect_ratio", "", "invalid_parameter"),
    ("negative_prompt", "", "unsupported_parameter"), ("steps", 5, "unsupported_parameter"),
    ("cfg_scale", 1e308, "unsupported_parameter"), ("style_preset", "anime", "unsupported_parameter"),
    ("webhook_url", "http://127.0.0.1/", "invalid_parameter"), ("dry_run", "yes", "invalid_parameter"),
    ("priority", 0, "invalid_parameter"), ("priority", 11, "invalid_parameter"), ("timeout", 0, "invalid_parameter"),
    ("timeout", 86_401, "invalid_parameter"), ("fallback_models", ["demo-image"] * 6, "invalid_parameter"),
    ("prompt", "x" * 32_001, "invalid_parameter"), ("prompt", "😀" * 32_001, "invalid_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "code"), NOT_OFFERED, ids=range(len(NOT_OFFERED)))
def test_what_a_model_does_not_offer_is_refused(client: httpx.Client, name: str, value: Any, code: str) -> None:
    """Nothing is rounded, cut or left out: a value that the model does not take is refused by the field's name."""
    refused(create(client, **{name: value}), 400, code, name)


def test_what_only_the_provider_refuses_is_told_with_the_task(client: httpx.Client) -> None:
    """A refusal that comes after acceptance names field and task, and is not to be sent again."""
    reply = client.post("/v1/images/generations", json={"model": "patient-image", "prompt": "refuse"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "provider_refused", "prompt")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["location"] == f"/v1/tasks/{error['task_id']}"


def test_who_has_no_time_is_told_how_it_ended(client: httpx.Client) -> None:
    """A request waits a moment longer than its task may take, and so never says that a task goes on which is over."""
    body = {"model": "demo-image", "prompt": "a", "timeout": 0.001}
    error = client.post("/v1/images/generations", json=body).json()["error"]
    assert (error["code"], error["message"]) == ("timeout", "The task was not started in the time that it had.")


@pytest.mark.parametrize("prompt", ["x" * 32_000, "😀" * 32_000])
def test_a_prompt_is_counted_in_characters(client: httpx.Client, prompt: str) -> None:
    """The longest prompt is taken, however many bytes its characters need."""
    reply = client.post("/v1/images/generations/async", json={"model": "patient-image", "prompt": prompt[:4000]})
    assert reply.status_code == 202
    assert create(client, prompt=prompt).status_code == 202


LISTS = [("/v1/tasks", "task"), ("/v1/media", "img")]
QUERIES = [
    ("limit", ["0", "-1", "101", "1e2", "%201", "1%20", "%EF%BC%91", "", "1.0", "9" * 30, "%00", "0x1", "+1"]),
    ("after", ["", "nothing", "%00", "1", "%ff", "key_" + NOBODYS[5:], NOBODYS[:-1], NOBODYS.upper(), NOBODYS + "."]),
    ("order", ["", "asc;drop", "ASC", "asc,desc", "%00", "random()"]),
    ("type", ["%00", "image%00"]),
]


@pytest.mark.parametrize("path", [path for path, _ in LISTS])
@pytest.mark.parametrize(("name", "values"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_list_takes_its_queries_strictly(client: httpx.Client, path: str, name: str, values: list[str]) -> None:
    """A query parameter that is not understood is refused by its name, and so is one that is given twice."""
    for value in values:
        refused(client.get(f"{path}?{name}={value}"), 400, "invalid_parameter", name)
    refused(client.get(f"{path}?{name}=1&{name}=1"), 400, "invalid_parameter", name)


@pytest.mark.parametrize(
    "query", ["status=%25", "status=%00", "status=", "status=QUEUED", "status=a&status=b", "model=%00"]
)
def test_tasks_are_filtered_strictly(client: httpx.Client, query: str) -> None:
    """A state that is none is refused; no pattern is read into it."""
    refused(client.get(f"/v1/tasks?{query}"), 400, "invalid_parameter", query.partition("=")[0])


@pytest.mark.parametrize(("path", "prefix"), LISTS)
def test_a_cursor_that_is_nobodys_is_like_a_foreign_one(
    heliograph: Heliograph, task: str, path: str, prefix: str
) -> None:
    """After an id that is not one's own the list goes on, and tells nothing of whose it is."""
    with heliograph.client(heliograph.other_key) as client:
        foreign = client.get(f"{path}?after={prefix}_{task[5:]}&order=asc")
        assert foreign.status_code == 200
        assert task not in foreign.text


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"a{number}=1" for number in range(1000)),
        "a[b][c]=",
        "a=%",
        "=",
        "&&&",
        "%00",
        "api-version=1&api-version=2",
    ],
)
def test_queries_that_nobody_asked_for_mean_nothing(client: httpx.Client, query: str) -> None:
    """Unknown query parameters are ignored, in any number and form."""
    assert client.get(f"/v1/tasks?{query}").status_code == 200


@pytest.mark.parametrize("wait", ["", "-1", "abc", "1.5", "301", "1e1", "%00", "NaN", "%D9%A1", "9" * 20])
def test_a_wait_that_is_none_is_refused(client: httpx.Client, task: str, wait: str) -> None:
    """`wait` is a whole number of seconds, at most 300."""
    refused(client.get(f"/v1/tasks/{task}?wait={wait}"), 400, "invalid_parameter", "wait")


def test_a_wait_lasts_as_long_as_it_says(client: httpx.Client, task: str) -> None:
    """A task that does not end in time is shown as it stands."""
    started = time.monotonic()
    assert client.get(f"/v1/tasks/{task}?wait=1").json()["status"] in ("queued", "processing")
    assert 0.9 < time.monotonic() - started < 5


PREFERENCES = [
    ("respond-async", 0), ("Respond-Async", 0), ("respond-async; foo=bar", 0), ("foo, respond-async", 0), ("wait=0", 0),
    ('wait="0"', 0), ("wait = 0; foo", 0), ("respond-async, wait=1", 1),
]  # fmt: skip


@pytest.mark.parametrize(("prefer", "seconds"), PREFERENCES)
def test_prefer_says_how_long_to_wait(client: httpx.Client, prefer: str, seconds: int) -> None:
    """Each form that RFC 7240 knows is understood: 202 with the task, at once or after so many seconds."""
    started = time.monotonic()
    reply = client.post(
        "/v1/images/generations", json={"model": "patient-image", "prompt": "a"}, headers={"Prefer": prefer}
    )
    assert (reply.status_code, reply.headers["location"]) == (202, f"/v1/tasks/{reply.json()['id']}")
    assert seconds - 0.1 < time.monotonic() - started < seconds + 4


@pytest.mark.parametrize(
    "prefer", ["wait=abc", "wait=-1", "wait=99999", "wait=", "return=minimal", "", ";;;", ",,,", "é"]
)
def test_a_preference_that_makes_no_sense_is_none(client: httpx.Client, prefer: str) -> None:
    """What is not understood is not preferred: the picture is waited for as usual."""
    reply = client.post(
        "/v1/images/generations",
        json={"model": "demo-image", "prompt": "a", "size": "256x256"},
        headers=[(b"Prefer", prefer.encode("latin-1"))],
    )
    assert reply.status_code == 200


def test_metadata_may_be_as_large_as_it_says(client: httpx.Client) -> None:
    """Sixteen pairs of 64 and 512 characters are taken and echoed."""
    labels = {f"{number:02}" + "é" * 62: "😀" * 512 for number in range(16)}
    assert create(client, metadata=labels).json()["metadata"] == labels
