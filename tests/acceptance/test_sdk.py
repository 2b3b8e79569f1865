"""The official SDKs, as they come, on both deployments: Python's here, that of Node.js in node/sdk.mjs.

What the SDK for Python does beyond this stands in test_generation.py and test_videos.py.
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
    UnprocessableEntityError,
)
from PIL import Image

from tests.acceptance.deployments import Deployment
from tests.node import Node

# The SDK says of some calls that OpenAI's own service for them has ended; ours has not.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]
BLUE = (0, 0, 255)
DRAW: Any = {"model": "demo-image", "prompt": "a hill", "size": "256x256"}
WORK: Any = {"model": "demo-image", "prompt": "a hill", "response_format": "b64_json"}
FILM: Any = {"model": "demo-video", "prompt": "a lighthouse at dawn", "seconds": "1", "size": "256x144"}
# What the script for Node.js leaves, with its format and size.
LEFT = {
    "linked.png": ("PNG", (256, 256)),
    "generate.webp": ("WEBP", (256, 256)),
    "edit.png": ("PNG", (64, 48)),
    "both.png": ("PNG", (64, 48)),
    "variation.png": ("PNG", (64, 48)),
    "image_generation.png": ("PNG", (256, 256)),
    "image_edit.png": ("PNG", (64, 48)),
    "thumbnail.webp": ("WEBP", (256, 144)),
    "spritesheet.jpeg": ("JPEG", (5 * 192, 5 * 108)),
}


@pytest.fixture
def sdk(deployment: Deployment, key: str) -> Iterator[OpenAI]:
    """The unmodified SDK: nothing but its address is changed."""
    with OpenAI(base_url=f"{deployment.url}/v1", api_key=key) as client:
        yield client


@pytest.fixture
def limited(deployment: Deployment) -> str:
    """A key that may make one task a day."""
    admin = {"Authorization": f"Bearer {deployment.environ['HELIOGRAPH_ADMIN_KEY']}"}
    wanted = {"name": "limited", "limits": {"requests_per_day": 1}}
    issued = httpx.post(f"{deployment.url}/admin/v1/keys", json=wanted, headers=admin).raise_for_status()
    return str(issued.json()["key"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture that is blue, and a mask that leaves its right half as it is."""
    Image.new("RGB", (64, 48), BLUE).save(tmp_path / "picture.png")
    mask = Image.new("RGBA", (64, 48), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 48))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def opened(text: str | None) -> Image.Image:
    """The picture of a reply, decoded whole."""
    image = Image.open(io.BytesIO(base64.b64decode(text or "")))
    image.load()
    return image


def half_blue(picture: Image.Image) -> bool:
    """Whether the right half is as blue as it was, and the left half is not."""
    plain = picture.convert("RGB")
    return plain.getpixel((60, 10)) == BLUE != plain.getpixel((3, 10))


def test_a_picture_is_edited_where_the_mask_says(sdk: OpenAI, folder: Path) -> None:
    """`images.edit` with files of a folder: what the mask keeps stays as it was."""
    with (folder / "picture.png").open("rb") as picture, (folder / "mask.png").open("rb") as mask:
        reply = sdk.images.edit(**WORK, image=picture, mask=mask)
    assert reply.data is not None
    assert half_blue(opened(reply.data[0].b64_json))


def test_several_pictures_become_one(sdk: OpenAI, folder: Path) -> None:
    """`images.edit` with a list, and n=2, gives two different pictures of the first one's size."""
    reply = sdk.images.edit(**WORK, image=[folder / "picture.png", folder / "mask.png"], n=2)
    assert reply.data is not None
    assert [opened(one.b64_json).size for one in reply.data] == [(64, 48), (64, 48)]
    assert reply.data[0].b64_json != reply.data[1].b64_json


def test_a_picture_is_varied(sdk: OpenAI, folder: Path) -> None:
    """`images.create_variation` needs nothing but the picture."""
    reply = sdk.images.create_variation(image=folder / "picture.png", response_format="b64_json")
    assert reply.data is not None
    assert opened(reply.data[0].b64_json).size == (64, 48)


@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_a_picture_is_seen_while_it_is_made(sdk: OpenAI, folder: Path, kind: str) -> None:
    """`stream=True` brings as many partial pictures as asked, and then the whole one, all different."""
    how: Any = {"model": "demo-image", "prompt": "a hill", "stream": True, "partial_images": 2}
    if kind == "image_edit":
        heard: list[Any] = list(sdk.images.edit(**how, image=folder / "picture.png"))
    else:
        heard = list(sdk.images.generate(**how, size="256x256"))
    assert [one.type for one in heard] == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
    assert [one.partial_image_index for one in heard[:2]] == [0, 1]
    assert len({opened(one.b64_json).tobytes() for one in heard}) == 3


def test_a_film_begins_with_a_picture(sdk: OpenAI, folder: Path) -> None:
    """`videos.create` with an `input_reference` answers at once, and `videos.poll` waits until it is there."""
    begun = sdk.videos.create(**FILM, input_reference=folder / "picture.png")
    assert begun.status in ("queued", "in_progress")
    assert sdk.videos.poll(begun.id, poll_interval_ms=100).status == "completed"
    content = sdk.videos.download_content(begun.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(content)).size == (256, 144)


INVALID, UNSUPPORTED = (
    (BadRequestError, 400, "invalid_parameter"),
    (BadRequestError, 400, "unsupported_operation", None),
)
OTHER: Any = {"prompt": "x", "video": b"a film"}
# What is called, and the class, status, code and member of the error.
REFUSALS: dict[str, tuple[Callable[[OpenAI], object], type[APIStatusError], int, str, str | None]] = {
    "size": (
        lambda sdk: sdk.images.generate(**DRAW | {"size": "1x1"}), BadRequestError, 400, "invalid_image_size", "size"
    ),
    "file": (lambda sdk: sdk.images.edit(**WORK, image=b"%PDF"), BadRequestError, 400, "invalid_image", "image"),
    "seconds": (lambda sdk: sdk.videos.create(**FILM | {"seconds": "99"}), *INVALID, "seconds"),
    "remix": (lambda sdk: sdk.videos.remix("task_0", prompt="x"), *UNSUPPORTED),
    "edit": (lambda sdk: sdk.videos.edit(**OTHER), *UNSUPPORTED),
    "extend": (lambda sdk: sdk.videos.extend(**OTHER, seconds="4"), *UNSUPPORTED),
    "model": (
        lambda sdk: sdk.images.generate(**DRAW | {"model": "none"}), NotFoundError, 404, "model_not_found", "model"
    ),
    "video": (lambda sdk: sdk.videos.retrieve("task_0"), NotFoundError, 404, "video_not_found", None),
    "key": (
        lambda sdk: sdk.with_options(api_key="hg_nobody").images.generate(**DRAW),
        AuthenticationError, 401, "invalid_api_key", None,
    ),
    "provider": (
        lambda sdk: sdk.images.generate(model="scripted-image", prompt="x", extra_body={"script": "fails"}),
        InternalServerError, 502, "provider_error", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_raises_the_sdks_own_error(sdk: OpenAI, name: str) -> None:
    """Each kind of refusal has the SDK's class, and says by code and member what is wrong."""
    call, kind, status, code, param = REFUSALS[name]
    with pytest.raises(kind) as caught:
        call(sdk)
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)


def test_who_asks_too_often_is_told_when_to_come_back(sdk: OpenAI, limited: str) -> None:
    """The second task of a key that may make one an hour is the SDK's RateLimitError, with `Retry-After`."""
    other = sdk.with_options(api_key=limited, max_retries=0)
    other.images.generate(**DRAW)
    with pytest.raises(RateLimitError) as caught:
        other.images.generate(**DRAW)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_an_idempotency_key_stands_for_one_request(sdk: OpenAI) -> None:
    """Another request under the same key is the SDK's UnprocessableEntityError."""
    headers = {"Idempotency-Key": f"python-{time.time()}"}
    sdk.images.generate(**DRAW, extra_headers=headers)
    with pytest.raises(UnprocessableEntityError) as caught:
        sdk.images.generate(**DRAW | {"prompt": "another"}, extra_headers=headers)
    assert caught.value.code == "idempotency_key_reused"


def test_the_sdk_for_node_does_all_that_we_serve(
    deployment: Deployment, key: str, limited: str, node: Node, folder: Path
) -> None:
    """Pictures, edits, variations, streams, films and the SDK's own errors; each file is what was asked for."""
    environ = {"BASE_URL": f"{deployment.url}/v1", "API_KEY": key, "LIMITED_KEY": limited}
    said = node.run("sdk.mjs", environ, folder)
    written = len(re.findall(r"^test\(", (node.folder / "sdk.mjs").read_text(encoding="utf-8"), re.MULTILINE))
    assert re.findall(r"^# (?:pass|fail|skipped) (\d+)$", said, re.MULTILINE) == [str(written), "0", "0"], said
    seen = {}
    for name in LEFT:
        with Image.open(folder / name) as picture:
            seen[name] = (picture.format, picture.size)
    assert seen == LEFT
    with Image.open(folder / "edit.png") as edited:
        assert half_blue(edited)
    assert (folder / "film.mp4").read_bytes() == (folder / "again.mp4").read_bytes()
