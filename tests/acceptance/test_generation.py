"""The main job, through the official SDK and plain HTTP, on both deployments."""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from PIL import Image

from tests.acceptance.deployments import Deployment


@pytest.fixture
def sdk(deployment: Deployment, key: str) -> Iterator[OpenAI]:
    """The unmodified SDK: nothing but its address is changed."""
    with OpenAI(base_url=f"{deployment.url}/v1", api_key=key) as client:
        yield client


@pytest.fixture
def http(deployment: Deployment, key: str) -> Iterator[httpx.Client]:
    """Plain HTTP with the key."""
    with deployment.client(key) as client:
        yield client


def ask(script: str = "", **members: Any) -> dict[str, Any]:
    """The body of a request to the scripted model."""
    return {"model": "scripted-image", "prompt": "anything", "script": script, **members}


def test_a_link_opens_without_a_key_as_a_picture_of_the_asked_size(sdk: OpenAI) -> None:
    """`images.generate` returns a URL that anybody can open, and behind it a PNG of the size that was asked for."""
    reply = sdk.images.generate(model="demo-image", prompt="a lighthouse at dawn", size="512x512")
    assert reply.data is not None
    answer = httpx.get(reply.data[0].url or "")
    picture = Image.open(io.BytesIO(answer.content))
    assert (answer.headers["content-type"], picture.format, picture.size) == ("image/png", "PNG", (512, 512))
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_inline_pictures_come_as_many_as_asked_and_without_a_link(sdk: OpenAI) -> None:
    """`b64_json` with n=2 gives two different pictures, and no URL beside them."""
    reply = sdk.images.generate(model="demo-image", prompt="boats", size="256x256", n=2, response_format="b64_json")
    assert reply.data is not None
    pictures = [base64.b64decode(image.b64_json or "") for image in reply.data]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(256, 256), (256, 256)]
    assert pictures[0] != pictures[1]
    assert [image.url for image in reply.data] == [None, None]


def test_an_asynchronous_request_is_polled_to_its_result(sdk: OpenAI, http: httpx.Client) -> None:
    """`async: true` answers 202 at once; polling the task leads to `result.url`, and progress never falls."""
    raw = sdk.images.with_raw_response.generate(model="demo-image", prompt="hills", extra_body={"async": True})
    task = raw.http_response.json()
    assert (raw.status_code, raw.headers["location"]) == (202, f"/v1/tasks/{task['id']}")
    seen, deadline = [], time.monotonic() + 30
    while task["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        task = http.get(f"/v1/tasks/{task['task_id']}").json()
        seen.append(task["progress"])
    assert (task["status"], task["progress"], seen) == ("completed", 100, sorted(seen))
    picture = httpx.get(task["result"]["url"]).content
    assert hashlib.sha256(picture).hexdigest() == task["result"]["data"][0]["sha256"]


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/images/generations", {"async": True}, {}),
        ("/v1/images/generations", {}, {"Prefer": "respond-async"}),
        ("/v1/images/generations/async", {}, {}),
    ],
)
def test_every_way_to_ask_for_a_task_gives_one(
    http: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """The field, the header and the path alike answer 202 with a task that completes."""
    reply = http.post(path, json=ask(**body), headers=headers)
    assert reply.status_code == 202
    assert reply.json()["check_status_url"].endswith(reply.headers["location"])
    assert http.get(reply.headers["location"], params={"wait": 30}).json()["status"] == "completed"


def test_prefer_wait_answers_with_the_picture_when_it_is_quick_and_with_the_task_when_not(http: httpx.Client) -> None:
    """`Prefer: wait=N` gives 200 within N seconds, else 202 with the task, whose work goes on."""
    quick = http.post("/v1/images/generations", json=ask(), headers={"Prefer": "wait=20"})
    slow = http.post("/v1/images/generations", json=ask("job:2"), headers={"Prefer": "wait=1"})
    assert (quick.status_code, slow.status_code) == (200, 202)
    assert http.get(slow.headers["location"], params={"wait": 30}).json()["status"] == "completed"


def test_a_client_that_goes_away_finds_its_picture_later(http: httpx.Client, deployment: Deployment) -> None:
    """A synchronous request whose client hangs up is worked on all the same, and bought once."""
    prompt = f"left behind {time.time()}"
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/images/generations", json=ask("bytes:1", prompt=prompt), timeout=0.5)
    newest = http.get("/v1/tasks", params={"limit": 1}).json()["data"][0]
    assert http.get(f"/v1/tasks/{newest['id']}", params={"wait": 30}).json()["status"] == "completed"
    assert len(deployment.vendor.accepted(prompt)) == 1


def test_a_job_is_followed_and_outputs_behind_urls_are_copied(http: httpx.Client, deployment: Deployment) -> None:
    """A vendor that works with jobs, and one that answers with its own URLs, look the same from outside."""
    job = http.post("/v1/images/generations", json=ask("job:0.5", n=2)).json()
    urls = http.post("/v1/images/generations", json=ask("urls", n=2)).json()
    links = [image["url"] for reply in (job, urls) for image in reply["data"]]
    assert len(links) == 4
    assert all(link.startswith(deployment.url) for link in links)
    assert {httpx.get(link).status_code for link in links} == {200}


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("refuse", 400, "provider_refused"),
        ("blocked", 400, "content_policy_violation"),
        ("fails", 502, "provider_error"),
        ("drop", 502, "outcome_unknown"),
    ],
)
def test_a_failure_is_told_in_the_sdks_own_errors_and_not_sent_again(
    sdk: OpenAI, deployment: Deployment, script: str, status: int, code: str
) -> None:
    """Each kind of failure has its status and code, and the SDK does not buy a second time by its own retries."""
    prompt = f"{script} {time.time()}"
    with pytest.raises(APIStatusError) as failure:
        sdk.images.generate(model="scripted-image", prompt=prompt, extra_body={"script": script})
    assert (failure.value.status_code, failure.value.code) == (status, code)
    assert failure.value.response.headers["x-should-retry"] == "false"
    assert len(deployment.vendor.accepted(prompt)) <= 1


def test_a_vendor_that_takes_nothing_at_first_is_asked_again(http: httpx.Client, deployment: Deployment) -> None:
    """A submit that was surely not accepted is repeated, and the task shows both attempts."""
    prompt = f"once {time.time()}"
    reply = http.post("/v1/images/generations", json=ask("once", prompt=prompt))
    task = http.get(f"/v1/tasks/{reply.headers['x-heliograph-task-id']}").json()
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["Unavailable", "done"]
    assert len(deployment.vendor.accepted(prompt)) == 1


def test_cancelling_stops_the_vendors_job(http: httpx.Client, deployment: Deployment) -> None:
    """A task that waits for a job is cancelled there too; once it is final, cancelling is refused."""
    prompt = f"cancel {time.time()}"
    task = http.post("/v1/images/generations", json=ask("never", prompt=prompt, **{"async": True})).json()
    deadline = time.monotonic() + 20
    while not deployment.vendor.accepted(prompt) and time.monotonic() < deadline:
        time.sleep(0.05)
    http.post(f"/v1/tasks/{task['id']}/cancel")
    ended = http.get(f"/v1/tasks/{task['id']}", params={"wait": 20}).json()
    assert (ended["status"], ended["result"]) == ("cancelled", None)
    assert deployment.vendor.state(deployment.vendor.accepted(prompt)[0]["job"]) == "cancelled"
    assert http.post(f"/v1/tasks/{task['id']}/cancel").json()["error"]["code"] == "task_not_cancellable"


def test_a_failed_task_is_tried_again(http: httpx.Client) -> None:
    """`POST …/retry` answers 202 with a new task that names the failed one; a task that has not failed is refused."""
    failed = http.post("/v1/images/generations", json=ask("fails:0", prompt="again"))
    again = http.post(f"/v1/tasks/{failed.headers['x-heliograph-task-id']}/retry")
    task = again.json()
    assert (again.status_code, again.headers["location"]) == (202, f"/v1/tasks/{task['id']}")
    assert task["retry_of"] == failed.headers["x-heliograph-task-id"] != task["id"]
    assert http.get(f"/v1/tasks/{task['id']}", params={"wait": 20}).json()["status"] == "failed"
    done = http.post("/v1/images/generations", json=ask())
    refused = http.post(f"/v1/tasks/{done.headers['x-heliograph-task-id']}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "task_not_retryable")


def test_a_picture_can_be_read_described_and_deleted(http: httpx.Client) -> None:
    """`/v1/images/{id}` serves bytes, parts of them, and facts; after DELETE nobody finds it, nor its link."""
    reply = http.post("/v1/images/generations", json=ask())
    link = reply.json()["data"][0]["url"]
    asset = http.get("/v1/media", params={"limit": 1}).json()["data"][0]
    path = f"/v1/images/{asset['id']}"
    whole = http.get(path).content
    facts = http.get(path, headers={"Accept": "application/json"}).json()
    part = http.get(path, headers={"Range": "bytes=2-5"})
    assert (len(whole), facts["bytes"], facts["width"]) == (asset["bytes"], asset["bytes"], 64)
    assert (part.status_code, part.content) == (206, whole[2:6])
    assert http.head(path).headers["content-length"] == str(len(whole))
    assert http.delete(path).json() == {"id": asset["id"], "object": "image.deleted", "deleted": True}
    assert {http.get(path).status_code, httpx.get(link).status_code, http.delete(path).status_code} == {404}


def test_a_link_that_was_changed_or_is_over_leads_nowhere(http: httpx.Client) -> None:
    """Any change to a signed link makes it a 404 that says nothing."""
    link = http.post("/v1/images/generations", json=ask()).json()["data"][0]["url"]
    changed = [link + "x", link.replace("exp=1", "exp=2"), link.partition("?")[0], link.replace(".png", ".html")]
    assert [httpx.get(one).status_code for one in (link, *changed)] == [200, 404, 404, 404, 404]


def test_another_keys_things_do_not_exist(deployment: Deployment, http: httpx.Client) -> None:
    """Task, picture and lists of one key are for another exactly what an unknown id is."""
    reply = http.post("/v1/images/generations", json=ask())
    task, asset = reply.headers["x-heliograph-task-id"], http.get("/v1/media").json()["data"][0]["id"]
    with deployment.client(deployment.new_key()) as other:
        for path, unknown in (
            (f"/v1/tasks/{task}", f"/v1/tasks/{task[:-1]}0"),
            (f"/v1/images/{asset}", f"/v1/images/{asset[:-1]}0"),
        ):
            assert other.get(path).json() == other.get(unknown).json()
            assert other.get(path).status_code == 404
        assert other.post(f"/v1/tasks/{task}/cancel").status_code == 404
        assert (other.get("/v1/tasks").json()["data"], other.get("/v1/media").json()["data"]) == ([], [])


def test_a_revoked_key_is_refused_at_once(deployment: Deployment) -> None:
    """From the moment that the admin route has answered, the key opens nothing; a virtual key is no admin."""
    admin = {"Authorization": f"Bearer {deployment.environ['HELIOGRAPH_ADMIN_KEY']}"}
    issued = httpx.post(f"{deployment.url}/admin/v1/keys", json={"name": "short-lived"}, headers=admin).json()
    with deployment.client(issued["key"]) as client:
        assert client.get("/v1/tasks").status_code == 200
        assert client.get("/admin/v1/keys").status_code == 403
        httpx.delete(f"{deployment.url}/admin/v1/keys/{issued['id']}", headers=admin)
        refused = client.get("/v1/tasks")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_no_route_opens_without_a_key(deployment: Deployment) -> None:
    """Every route of the API and of the administration answers 401 to nobody, and to a key that is none."""
    paths = httpx.get(f"{deployment.url}/openapi/openapi.json").json()["paths"]
    answers = {
        (method, path): httpx.request(
            method, deployment.url + path.replace("{", "").replace("}", ""), headers={"Authorization": bearer}
        ).status_code
        for path, item in paths.items()
        for method in item
        for bearer in ("", "Bearer hg_0000000000000000000000000000000000000")
        if path.startswith(("/v1/", "/admin/")) and path != "/v1/metadata"
    }
    assert len(answers) > 15
    assert {route: status for route, status in answers.items() if status != 401} == {}


def test_tasks_are_listed_page_by_page(http: httpx.Client) -> None:
    """Following `last_id` visits every task once, newest first."""
    for _ in range(3):
        http.post("/v1/images/generations", json=ask())
    everything = [task["id"] for task in http.get("/v1/tasks", params={"limit": 100}).json()["data"]]
    seen: list[str] = []
    page = {"has_more": True, "last_id": None}
    while page["has_more"]:
        page = http.get("/v1/tasks", params={"limit": 2, **({"after": page["last_id"]} if seen else {})}).json()
        seen += [task["id"] for task in page["data"]]
    assert seen == everything == sorted(everything, reverse=True)


def test_models_say_what_they_can_do(sdk: OpenAI) -> None:
    """`models.list` has the demo with its sizes; a model that does not exist is the SDK's NotFoundError."""
    demo = {model.id: model for model in sdk.models.list()}["demo-image"]
    assert "1024x1024" in demo.to_dict()["capabilities"]["sizes"]  # type: ignore[index]  # beyond OpenAI's own shape
    with pytest.raises(NotFoundError):
        sdk.images.generate(model="no-such-model", prompt="anything")


def test_the_doctor_finds_nothing(deployment: Deployment) -> None:
    """`heliograph doctor` tries database, broker, storage and providers, and all are well."""
    lines = deployment.command("doctor").splitlines()
    assert all(line.startswith("ok") for line in lines), lines
    assert [line.split()[1] for line in lines[:3]] == ["database", "broker", "storage"]
