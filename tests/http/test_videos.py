"""Videos over HTTP: what may be asked for and how, who sees what, and what comes to whom."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openai import OpenAI
from PIL import Image, ImageStat

from tests.core.vendors import film
from tests.http.replies import refused
from tests.http.server import NOBODYS, Heliograph, serving

PATH = "/v1/video/generations"
SMALL = {"model": "demo-video", "prompt": "a fox", "seconds": 1, "fps": 8, "size": "144x144"}
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def sdk(heliograph: Heliograph) -> Iterator[OpenAI]:
    """The unmodified SDK."""
    with OpenAI(base_url=f"{heliograph.url}/v1", api_key=heliograph.key) as client:
        yield client


@pytest.fixture
def waiting(client: httpx.Client) -> str:
    """The id of a video that is never done."""
    return str(client.post("/v1/videos", json={"model": "patient-video", "prompt": "a fox"}).json()["id"])


@pytest.fixture(scope="module")
def video(running: Heliograph) -> dict[str, Any]:
    """The task of a small film that is there for all tests."""
    with running.client() as client:
        task: dict[str, Any] = client.post(PATH, json=SMALL).json()
        task = client.get(f"/v1/tasks/{task['id']}", params={"wait": 60}).json()
        assert task["status"] == "completed"
        return task


def plan(client: httpx.Client, **members: Any) -> httpx.Response:
    """What would become of a request."""
    body = {"model": "demo-video", "prompt": "a fox", "dry_run": True, **members}
    return client.post(PATH, json={name: value for name, value in body.items() if value is not None})


@pytest.mark.parametrize("path", [PATH, "/v1/videos/generations", "/v1/videos/generations/async"])
def test_every_path_answers_with_a_task(client: httpx.Client, path: str) -> None:
    """202, where the task is, and the task; it makes no difference what is said about waiting."""
    reply = client.post(path, json={"model": "patient-video", "prompt": "a fox", "async": False, "webhook_url": None})
    task = reply.json()
    assert (reply.status_code, reply.headers["location"]) == (202, f"/v1/tasks/{task['id']}")
    assert (task["type"], task["model"], task["result"]) == ("video.generation", "patient-video", None)
    assert client.get(f"/v1/videos/generations/tasks/{task['id']}").json()["id"] == task["id"]
    assert client.delete(f"{PATH}/{task['id']}").status_code == 200


SAME = [
    ({"seconds": 2}, {"duration": 2}), ({"seconds": 2}, {"seconds": "2"}), ({"seconds": 2}, {"duration": "2.0"}),
    ({"seconds": 2}, {"seconds": 2, "duration": "2"}), ({"fps": 8}, {"framerate": 8}), ({"fps": 8}, {"framerate": "8"}),
    ({"size": "640x360"}, {"resolution": "640x360"}), ({"size": "720p"}, {"resolution": "720p"}),
    ({"size": "720p"}, {"size": "720p", "resolution": "720p"}),
    ({"size": "1280x720"}, {"size": "1280x720", "resolution": "720p"}),
    ({}, {"stream": False, "response_format": "url"}),
    ({}, {"size": "", "duration": ""}),
    ({}, {"size": "auto", "seconds": "auto"}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME, ids=range(len(SAME)))
def test_synonyms_mean_the_same(client: httpx.Client, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Each member by its other name, or as text, or by both names alike, makes the very same task."""
    made = []
    for members in (one, other):
        reply = client.post("/v1/videos", json={"model": "demo-video", "prompt": "a fox", "dry_run": True, **members})
        assert reply.status_code == 200, reply.text
        made.append(reply.json())
    assert made[0] == made[1]
    assert made[0]["adjusted"] == {}


@pytest.mark.parametrize(
    ("name", "synonym", "values"),
    [
        ("seconds", "duration", (2, 3)),
        ("fps", "framerate", (8, "12")),
        ("size", "resolution", ("640x360", "720p")),
        ("size", "resolution", ("640x720", "1080p")),
    ],
)
def test_synonyms_that_disagree_are_refused(client: httpx.Client, name: str, synonym: str, values: Any) -> None:
    """Which of them counts is not ours to say."""
    message = refused(plan(client, **{name: values[0], synonym: values[1]}), 400, "invalid_parameter", synonym)
    assert name in message


WRONG = [
    ("seconds", 0, "invalid_parameter"), ("seconds", 9, "invalid_parameter"), ("seconds", -1, "invalid_parameter"),
    ("seconds", "0", "invalid_parameter"), ("seconds", "99999", "invalid_parameter"),
    ("seconds", 1.5, "invalid_parameter"), ("seconds", "1e1", "invalid_parameter"),
    ("seconds", "4s", "invalid_parameter"), ("seconds", True, "invalid_parameter"),
    ("seconds", [4], "invalid_parameter"), ("seconds", "\u0664", "invalid_parameter"),
    ("seconds", 1e400, "invalid_json"), ("seconds", 10**30, "invalid_parameter"),
    ("seconds", "4" * 100, "invalid_parameter"), ("fps", 25, "invalid_parameter"), ("fps", "fast", "invalid_parameter"),
    ("n", 0, "invalid_parameter"), ("n", 3, "invalid_parameter"), ("size", "1x1", "invalid_image_size"),
    ("size", "1921x1080", "invalid_image_size"), ("size", "8k", "invalid_parameter"),
    ("aspect_ratio", "21:9", "invalid_parameter"), ("seed", -1, "invalid_parameter"),
    ("quality", "high", "unsupported_parameter"), ("style", "noir", "unsupported_parameter"),
    ("stream", True, "unsupported_parameter"), ("partial_images", 2, "unsupported_parameter"),
    ("response_format", "b64_json", "invalid_parameter"), ("negative_prompt", "rain", "unsupported_parameter"),
    ("cfg_scale", 3.5, "unsupported_parameter"),
    ("image", "http://127.0.0.1:1/a.png", "invalid_image"), ("input_reference", {}, "invalid_image"),
    ("last_frame", "data:image/png;base64,", "invalid_image"),
    ("webhook_url", "http://127.0.0.1/", "invalid_parameter"), ("prompt", " ", "missing_parameter"),
    ("prompt", None, "missing_parameter"), ("priority", 11, "invalid_parameter"),
    ("dry_run", "yes", "invalid_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "code"), WRONG, ids=range(len(WRONG)))
def test_what_the_model_does_not_make_is_refused(client: httpx.Client, name: str, value: Any, code: str) -> None:
    """400 names the member: nothing is clamped, and nothing is made."""
    param = {"8k": "resolution"}.get(str(value), name) if code != "invalid_json" else None
    body = {"model": "demo-video", "prompt": "a fox", "dry_run": True, name: value}
    reply = client.post(PATH, content=_json(body), headers={"Content-Type": "application/json"})
    refused(reply, 400, code, param)


def _json(body: dict[str, Any]) -> bytes:
    members = (f'"{name}": {_value(value)}' for name, value in body.items() if value is not None)
    return ("{" + ", ".join(members) + "}").encode()


def _value(value: Any) -> str:
    return "1e400" if value == 1e400 else json.dumps(value)


@pytest.mark.parametrize(("model", "kind"), [("demo-image", "image"), ("dall-e-2", "image")])
def test_a_model_of_pictures_makes_no_film(client: httpx.Client, model: str, kind: str) -> None:
    """And one of films no pictures; the refusal says what it makes."""
    assert f"makes {kind}" in refused(plan(client, model=model), 400, "invalid_parameter", "model")
    reply = client.post("/v1/images/generations", json={"model": "demo-video", "prompt": "a fox"})
    assert "makes video" in refused(reply, 400, "invalid_parameter", "model")


def test_unknown_members_are_ignored_unless_strict(client: httpx.Client) -> None:
    """OpenAI's clients send novelties; `strict` refuses them by name, also in a form."""
    assert plan(client, novelty=1).status_code == 200
    refused(plan(client, novelty=1, strict=True), 400, "unsupported_parameter", "novelty")
    fields = {name: (None, value) for name, value in {"prompt": "a fox", "strict": "true", "novelty": "1"}.items()}
    refused(client.post("/v1/videos", files=fields), 400, "unsupported_parameter", "novelty")


def test_code_written_for_sora_runs_unchanged(client: httpx.Client, sdk: OpenAI) -> None:
    """The names, lengths and sizes of a retired model go to another one; what that changes is said."""
    made = sdk.videos.create(prompt="a fox", model="sora-2-pro", seconds="8", size="720x1280")
    assert (made.model, made.status in ("queued", "in_progress"), made.seconds) == ("sora-2-pro", True, "10")
    task = client.get(f"/v1/tasks/{made.id}").json()
    assert task["adjusted"] == {"seconds": ["8", "10"]}
    large = plan(client, model="sora-2-pro", seconds="12", size="1024x1792").json()
    assert large["adjusted"] == {"seconds": ["12", "10"], "size": ["1024x1792", "1080p 9:16"]}
    assert plan(client, model="sora-2", seconds="8", size="720x1280").json()["adjusted"] == {}
    assert plan(client, model="sora-2", seconds="12").json()["adjusted"] == {"seconds": [12, 8]}


def test_without_a_model_it_is_the_one_that_the_sdk_documents(sdk: OpenAI, client: httpx.Client) -> None:
    """`videos.create` without a model asks for `sora-2`, which is an alias like any other."""
    assert sdk.videos.create(prompt="a fox", seconds="1", size="144x144").model == "sora-2"  # type: ignore[arg-type]  # a size of another model
    refused(client.post(PATH, json={"prompt": "a fox"}), 400, "missing_parameter", "model")


FORMS = [
    (b"", 400), (b"--", 400), (b"--x", 400), (b"--x--\r\n", 400), (b"--x\r\n\r\n\r\n--x--\r\n", 400),
    (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n', 400),
    (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--x--\r\n', 400),
    (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\0b\r\n--x--\r\n', 400),
    (b'--x\r\nContent-Disposition: form-data; name="prompt"; filename="a"\r\n\r\na\r\n--x--\r\n', 400),
    (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n' * 2 + b"--x--\r\n", 400),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), FORMS, ids=range(len(FORMS)))
def test_a_broken_form_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    """Whatever is wrong with it, the answer is a refusal in the shape of all."""
    reply = client.post("/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert reply.status_code == status
    assert set(reply.json()) == {"error"}


def test_a_form_is_read_as_json_is(client: httpx.Client) -> None:
    """Text stands for numbers and truth values; what is none of these is refused by name."""
    fields = {"prompt": "a fox", "model": "demo-video", "seconds": "2", "seed": "7", "n": "2", "dry_run": "true"}
    form = {name: (None, value) for name, value in fields.items()}
    assert client.post("/v1/videos", files=form).json() == plan(client, seconds=2, seed=7, n=2).json()
    refused(client.post("/v1/videos", files={**form, "n": (None, "many")}), 400, "invalid_parameter", "n")
    refused(client.post("/v1/videos", files={**form, "seed": (None, "1.5")}), 400, "invalid_parameter", "seed")
    refused(client.post("/v1/videos", data=fields), 415, "unsupported_media_type")


@pytest.mark.parametrize("form", [False, True])
def test_a_repeated_request_makes_one_video(client: httpx.Client, form: bool) -> None:
    """By its Idempotency-Key, as JSON and as a form; another body under the same key is refused."""
    headers, fields = {"Idempotency-Key": str(uuid4())}, {"model": "patient-video", "prompt": "a fox"}

    def send(prompt: str) -> httpx.Response:
        body = {**fields, "prompt": prompt}
        if form:
            return client.post("/v1/videos", files={one: (None, body[one]) for one in body}, headers=headers)
        return client.post("/v1/videos", json=body, headers=headers)

    first, again, other = send("a fox"), send("a fox"), send("a wolf")
    assert first.json()["id"] == again.json()["id"]
    assert (first.status_code, again.headers.get("idempotent-replayed")) == (200, "true")
    refused(other, 422, "idempotency_key_reused")


def test_a_video_that_is_made_says_how_far_it_is(client: httpx.Client, waiting: str) -> None:
    """It has no content yet and cannot be deleted; cancelled, it reads as failed, and can be."""
    made = client.get(f"/v1/videos/{waiting}").json()
    assert made["status"] in ("queued", "in_progress")
    assert (made["error"], made["completed_at"], made["seconds"], made["size"]) == (None, None, "auto", "auto")
    for reply in (client.get(f"/v1/videos/{waiting}/content"), client.delete(f"/v1/videos/{waiting}"),
                  client.get(f"/v1/videos/{waiting}", headers={"Accept": "video/mp4"})):  # fmt: skip
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["task_id"]) == (409, "video_not_ready", waiting)
        assert reply.headers["x-should-retry"] == "false"
    client.post(f"/v1/tasks/{waiting}/cancel")
    client.get(f"/v1/tasks/{waiting}", params={"wait": 20})
    ended = client.get(f"/v1/videos/{waiting}").json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "cancelled")
    refused(client.get(f"/v1/videos/{waiting}/content"), 404, "media_not_found")
    assert waiting in [one["id"] for one in client.get("/v1/videos").json()["data"]]
    assert client.delete(f"/v1/videos/{waiting}").json()["deleted"] is True
    refused(client.get(f"/v1/videos/{waiting}"), 404, "video_not_found")
    assert waiting not in [one["id"] for one in client.get("/v1/videos").json()["data"]]
    assert client.get(f"/v1/tasks/{waiting}").json()["status"] == "cancelled"


SEEN = ["video/mp4", "video/*;q=0.9,*/*;q=0.5", "text/html,application/xhtml+xml,*/*;q=0.8"]


@pytest.mark.parametrize("accept", SEEN)
def test_whoever_wants_to_see_it_gets_the_bytes(client: httpx.Client, video: dict[str, Any], accept: str) -> None:
    """A browser's page, and a player, by either id; a part of it as well, whatever else is accepted."""
    for video_id in (video["id"], video["result"]["data"][0]["id"]):
        reply = client.get(f"/v1/videos/{video_id}", headers={"Accept": accept})
        assert (reply.headers["content-type"], reply.content[4:8]) == ("video/mp4", b"ftyp")
        part = client.get(f"/v1/videos/{video_id}", headers={"Accept": "*/*", "Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "text/html, application/json"])
def test_whoever_wants_json_gets_it(client: httpx.Client, video: dict[str, Any], accept: str) -> None:
    """The SDK and plain clients see how the video stands, by either id."""
    for video_id in (video["id"], video["result"]["data"][0]["id"]):
        made = client.get(f"/v1/videos/{video_id}", headers={"Accept": accept}).json()
        assert (made["id"], made["object"], made["status"]) == (video_id, "video", "completed")
        assert (made["seconds"], made["size"], made["progress"]) == ("1", "144x144", 100)


@pytest.mark.parametrize(
    "video_id", [NOBODYS, NOBODYS.replace("task_", "vid_"), "x", "video_1", "%00", "%ff", "a" * 900]
)
def test_what_is_no_video_is_not_found(client: httpx.Client, heliograph: Heliograph, video_id: str) -> None:
    """Ids of nobody and ids that are none get one answer."""
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        refused(client.request(method, f"/v1/videos/{video_id}{path}"), 404, "video_not_found")


def test_another_keys_video_does_not_exist(heliograph: Heliograph, client: httpx.Client, video: dict[str, Any]) -> None:
    """For another key it is what an unknown id is; a task that makes pictures is no video for anybody."""
    with heliograph.client(heliograph.other_key) as other:
        for video_id in (video["id"], video["result"]["data"][0]["id"]):
            refused(other.get(f"/v1/videos/{video_id}"), 404, "video_not_found")
            refused(other.delete(f"/v1/videos/{video_id}"), 404, "video_not_found")
        assert video["id"] not in [one["id"] for one in other.get("/v1/videos").json()["data"]]
    picture = client.post("/v1/images/generations/async", json={"model": "patient-image", "prompt": "a fox"}).json()
    refused(client.get(f"/v1/videos/{picture['id']}"), 404, "video_not_found")


def test_variants_are_those_that_there_are(client: httpx.Client, video: dict[str, Any]) -> None:
    """A word that is no variant is refused with those that are."""
    for variant in ("", "audio", "Video", "thumbnail "):
        reply = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert "thumbnail, spritesheet" in refused(reply, 400, "invalid_parameter", "variant")
    for limit in ("0", "101", "x"):
        refused(client.get("/v1/videos", params={"limit": limit}), 400, "invalid_parameter", "limit")
    refused(client.get("/v1/videos", params={"after": "vid_1"}), 400, "invalid_parameter", "after")


@pytest.mark.parametrize("path", ["/v1/videos/{id}/remix", "/v1/videos/edits", "/v1/videos/extensions"])
def test_what_no_model_can_do_is_refused(client: httpx.Client, video: dict[str, Any], path: str) -> None:
    """Remix, edits and extensions answer with a refusal that says so, as JSON or as a form."""
    path = path.format(id=video["id"])
    for reply in (client.post(path, json={"prompt": "a fox"}), client.post(path, files={"prompt": (None, "a fox")})):
        refused(reply, 400, "unsupported_operation")


def test_usage_counts_films(client: httpx.Client, video: dict[str, Any]) -> None:
    """Films are counted as films, under the name of their model; models say how long they may be."""
    usage = client.get("/v1/usage").json()["mediaUsage"]
    assert usage["videosGenerated"] >= 1
    assert usage["breakdown"]["demo-video"]["count"] >= 1
    assert client.get("/v1/tasks", params={"type": "video"}).json()["data"]
    capabilities = client.get("/v1/models/demo-video").json()["capabilities"]
    assert capabilities["seconds"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert capabilities["resolutions"] == ["144p", "360p", "720p"]
    assert client.get("/v1/models/demo-image").json()["capabilities"]["seconds"] == []


ENHANCE = "/v1/video/enhancements"


def test_a_video_of_ours_is_enhanced(client: httpx.Client, video: dict[str, Any]) -> None:
    """Named by its task, by its own id, or by a link to it: twice as large, and as long as before."""
    for named in (video["id"], video["result"]["data"][0]["id"], video["result"]["url"]):
        reply = client.post(ENHANCE, json={"video": named})
        assert (reply.status_code, reply.json()["type"]) == (202, "video.upscale")
        task = client.get(f"/v1/tasks/{reply.json()['id']}", params={"wait": 60}).json()
        assert task["status"] == "completed", task
        made = task["result"]["data"][0]
        assert (made["width"], made["height"], made["seconds"]) == (288, 288, 1.0)


def test_a_film_may_be_sent(client: httpx.Client) -> None:
    """As a file of a form."""
    files = {"video": ("a.mp4", film(8, (64, 48), fps=8), "video/mp4")}
    reply = client.post(ENHANCE, files=files, data={"scale": "3", "framerate": "12", "dry_run": "true"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["route"]["model"] == "demo-enhance"


@pytest.mark.parametrize(
    ("members", "code", "param"),
    [
        ({}, "missing_parameter", "video"), ({"video": NOBODYS}, "video_not_found", None),
        ({"video": "vid_00000000000000000000000000"}, "media_not_found", None),
        ({"video": "data:video/mp4;base64,AAAA"}, "invalid_image", "video"),
        ({"video": "http://127.0.0.1:1/a.mp4"}, "invalid_image", "video"),
        ({"scale": 9}, "invalid_parameter", "scale"), ({"scale": 0}, "invalid_parameter", "scale"),
        ({"resolution": "8k"}, "invalid_parameter", "resolution"), ({"fps": 25}, "invalid_parameter", "fps"),
        ({"fps": 24, "framerate": 12}, "invalid_parameter", "framerate"),
        ({"model": "demo-video"}, "invalid_parameter", "model"), ({"prompt": "x"}, "invalid_parameter", "prompt"),
        ({"scale": 2, "resolution": "720p"}, "invalid_parameter", "scale"),
        ({"size": "1280x720"}, "unsupported_parameter", "size"), ({"seconds": 2}, "unsupported_parameter", "seconds"),
        ({"aspect_ratio": "16:9"}, "unsupported_parameter", "aspect_ratio"),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_cannot_be_enhanced_is_refused(
    client: httpx.Client, video: dict[str, Any], members: dict[str, Any], code: str, param: str | None
) -> None:
    """By the member that is wrong, before anything is made."""
    body = members if "video" in members or not members else {"video": video["id"], **members}
    reply = client.post(ENHANCE, json=body)
    refused(reply, 404 if code.endswith("not_found") else 400, code, param)


def test_a_picture_begins_a_film(client: httpx.Client) -> None:
    """Image to video, by the SDK's name for the picture, as a file and as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (144, 144), "red").save(file, "PNG")
    sent = {name: str(value) for name, value in SMALL.items()}
    reply = client.post("/v1/videos", files={"input_reference": ("a.png", file.getvalue(), "image/png")}, data=sent)
    assert reply.status_code == 200
    text = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    second = client.post(PATH, json={**SMALL, "image": {"image_url": text}})
    for task_id in (reply.json()["id"], second.json()["id"]):
        task = client.get(f"/v1/tasks/{task_id}", params={"wait": 60}).json()
        assert task["status"] == "completed"
        poster = Image.open(io.BytesIO(client.get(task["result"]["thumbnail_url"]).content)).convert("RGB")
        red, green, blue = ImageStat.Stat(poster).mean
        assert red > 180 > 100 > max(green, blue)


def test_one_of_several_films_is_deleted(client: httpx.Client) -> None:
    """By its own id one film goes, and the other stays; by the last one the video is no more."""
    task = client.post(PATH, json={**SMALL, "n": 2}).json()
    done = client.get(f"/v1/tasks/{task['id']}", params={"wait": 60}).json()
    first, second = (one["id"] for one in done["result"]["data"])
    assert client.get(f"/v1/videos/{second}").json()["id"] == second
    assert client.delete(f"/v1/videos/{second}").json() == {"id": second, "object": "video.deleted", "deleted": True}
    refused(client.get(f"/v1/videos/{second}"), 404, "video_not_found")
    assert client.get(f"/v1/videos/{task['id']}").json()["status"] == "completed"
    assert client.get(f"/v1/videos/{first}/content").status_code == 200
    assert client.delete(f"/v1/videos/{first}").status_code == 200
    refused(client.get(f"/v1/videos/{task['id']}"), 404, "video_not_found")


def test_a_video_of_several_films_is_deleted_whole(client: httpx.Client) -> None:
    """The id that `create` answered with stands for all that was made."""
    task = client.post(PATH, json={**SMALL, "n": 2}).json()
    done = client.get(f"/v1/tasks/{task['id']}", params={"wait": 60}).json()
    assert client.delete(f"/v1/videos/{task['id']}").status_code == 200
    for one in (task, *done["result"]["data"]):
        refused(client.get(f"/v1/videos/{one['id']}"), 404, "video_not_found")


def test_a_video_without_a_model_is_of_the_first_that_makes_films(tmp_path: Path) -> None:
    """The SDK's plain call works where nothing is called sora-2, as after `make run`."""
    with serving(tmp_path) as bare, OpenAI(base_url=f"{bare.url}/v1", api_key=bare.key) as client:
        assert client.videos.create(prompt="a fox", seconds="4").model == "demo-video"
