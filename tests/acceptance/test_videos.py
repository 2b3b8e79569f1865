"""Films, through the official SDK and plain HTTP, on both deployments."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import httpx
import pytest
from openai import NotFoundError, OpenAI
from PIL import Image

from tests.acceptance.deployments import Deployment

# The SDK says of each call that OpenAI's own service for it has ended; ours has not.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
ASK: Any = {"model": "demo-video", "prompt": "a lighthouse at dawn", "seconds": "1", "size": "256x144"}


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


def film(data: bytes) -> tuple[str, int, int, int]:
    """Codec, width, height and number of frames of a film, decoded whole."""
    with av.open(io.BytesIO(data), "r") as container:
        context = container.streams.video[0].codec_context
        return context.name, context.width, context.height, sum(1 for _ in container.decode(video=0))


def test_the_sdk_makes_a_film_and_has_it_in_every_form(sdk: OpenAI) -> None:
    """`create_and_poll`, then each variant of the content; `retrieve` and `list` show it; `delete` ends it."""
    video = sdk.videos.create_and_poll(**ASK, poll_interval_ms=100)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.model, video.prompt) == ("demo-video", "a lighthouse at dawn")
    assert (video.seconds, video.size, video.object) == ("1", "256x144", "video")
    assert (video.completed_at or 0) >= video.created_at > 0
    content = sdk.videos.download_content(video.id)
    assert content.response.headers["content-type"] == "video/mp4"
    assert film(content.read()) == ("h264", 256, 144, 24)
    assert content.read() == sdk.videos.download_content(video.id, variant="video").read()
    thumbnail = sdk.videos.download_content(video.id, variant="thumbnail")
    sheet = sdk.videos.download_content(video.id, variant="spritesheet")
    kinds = [one.response.headers["content-type"] for one in (thumbnail, sheet)]
    pictures = [Image.open(io.BytesIO(one.read())) for one in (thumbnail, sheet)]
    assert kinds == ["image/webp", "image/jpeg"]
    assert [picture.size for picture in pictures] == [(256, 144), (5 * 192, 5 * 108)]
    assert sdk.videos.retrieve(video.id) == video
    assert video in sdk.videos.list().data
    deleted = sdk.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    for call in (sdk.videos.retrieve, sdk.videos.download_content, sdk.videos.delete):
        with pytest.raises(NotFoundError):
            call(video.id)
    assert video.id not in [one.id for one in sdk.videos.list()]


def test_the_list_is_followed_page_by_page(sdk: OpenAI) -> None:
    """The SDK's own paging visits every film once, the newest first."""
    made = [sdk.videos.create_and_poll(**ASK, poll_interval_ms=100).id for _ in range(3)]
    seen = [video.id for video in sdk.videos.list(limit=2)]
    assert [one for one in seen if one in made] == made[::-1]
    assert len(seen) == len(set(seen))
    assert [video.id for video in sdk.videos.list(limit=2, order="asc")] == seen[::-1]


def test_a_task_leads_to_the_film_and_its_thumbnail(http: httpx.Client) -> None:
    """`POST /v1/video/generations` answers 202; the task's result has links to both, which open without a key."""
    reply = http.post("/v1/video/generations", json={**ASK, "seconds": 1, "metadata": {"scene": "3"}})
    assert (reply.status_code, reply.json()["type"]) == (202, "video.generation")
    task = http.get(reply.headers["location"], params={"wait": 60}).json()
    assert (task["status"], task["metadata"], task["adjusted"]) == ("completed", {"scene": "3"}, {})
    result = task["result"]
    (media,) = result["data"]
    assert result["url"] == result["video_url"] == media["url"]
    assert result["thumbnail_url"] == media["thumbnail_url"]
    facts = [media[name] for name in ("media_type", "width", "height", "seconds", "fps")]
    assert facts == ["video/mp4", 256, 144, 1.0, 24.0]
    assert len(media["blurhash"]) == 28
    assert film(httpx.get(media["url"]).content) == ("h264", 256, 144, 24)
    thumbnail = httpx.get(media["thumbnail_url"])
    assert (thumbnail.headers["content-type"], thumbnail.headers["x-content-type-options"]) == ("image/webp", "nosniff")
    assert http.delete(f"/v1/media/{media['id']}").json()["object"] == "video.deleted"
    assert {httpx.get(media[name]).status_code for name in ("url", "thumbnail_url")} == {404}


def test_progress_is_told_while_a_film_is_made(http: httpx.Client) -> None:
    """The vendor's progress reaches the one who waits, and never falls."""
    task = http.post("/v1/video/generations", json={**ASK, "seconds": 4, "size": "640x360", "n": 2}).json()
    seen = [0]
    while task["status"] not in ("completed", "failed"):
        task = http.get(f"/v1/tasks/{task['id']}").json()
        seen.append(task["progress"])
    assert seen == sorted(seen)
    assert (task["status"], seen[-1]) == ("completed", 100)
    assert any(0 < one < 100 for one in seen)
    assert len(task["result"]["data"]) == 2


def test_a_part_of_a_film_is_served(http: httpx.Client) -> None:
    """Range, If-Range, HEAD and conditions are honoured by each way to the bytes, also those of the small pictures."""
    task = http.post("/v1/video/generations", json={**ASK, "seconds": 1}).json()
    task = http.get(f"/v1/tasks/{task['id']}", params={"wait": 60}).json()
    media = task["result"]["data"][0]
    content = f"/v1/videos/{task['id']}/content"
    for path in (content, media["url"], f"/v1/videos/{media['id']}/content", f"{content}?variant=spritesheet"):
        whole = http.get(path)
        part = http.get(path, headers={"Range": "bytes=10-19", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
        assert http.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
        assert http.get(path, headers={"Range": "bytes=99999999-"}).status_code == 416
        assert http.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        head = http.head(path)
        assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))
