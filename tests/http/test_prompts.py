"""Prompts over HTTP: refused before anything is made, or enhanced, by models of the operator's on real sockets."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.advisers import Advisers, advising
from tests.core.vendors import png
from tests.http.replies import refused
from tests.http.server import Heliograph, serving

PATH = "/v1/images/generations"
WISH = {"model": "demo-image", "prompt": "a fox", "size": "256x256"}
BETTER = "A red fox in the snow, seen from the side."


@pytest.fixture(scope="module")
def advisers() -> Iterator[Advisers]:
    """Models that have something to say."""
    with advising() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(advisers: Advisers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway that asks them, and has a block-list."""
    folder: Path = tmp_path_factory.mktemp("prompts")
    (folder / "blocklist").write_text("gun\n")
    environ = {
        "HELIOGRAPH_BLOCKLIST_FILE": str(folder / "blocklist"),
        "HELIOGRAPH_MODERATION_BASE_URL": advisers.url,
        "HELIOGRAPH_MODERATION_SECONDS": "5",
        "HELIOGRAPH_ENHANCE_BASE_URL": advisers.url,
        "HELIOGRAPH_ENHANCE_MODEL": "chat-1",
    }
    with serving(folder, "", environ) as heliograph:
        yield heliograph


@pytest.fixture
def client(gateway: Heliograph, advisers: Advisers) -> Iterator[httpx.Client]:
    """A client with a key, while the moderation model flags nothing."""
    advisers.flags(False)
    advisers.says(BETTER)
    advisers.asked.clear()
    with gateway.client() as client:
        yield client


def counted(client: httpx.Client) -> int:
    """How many tasks there are."""
    return len(client.get("/v1/tasks", params={"limit": 100}).json()["data"])


@pytest.mark.parametrize("path", [PATH, f"{PATH}/async", "/v1/images/edits"])
@pytest.mark.parametrize("member", [{}, {"dry_run": True}, {"stream": True, "partial_images": 0}])
def test_a_listed_word_is_refused_everywhere(client: httpx.Client, path: str, member: dict[str, Any]) -> None:
    """With 400 on every route, also where a stream or a plan was asked for; no task is made."""
    if path.endswith("async") and "stream" in member:
        member = {"async": True}
    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    before = counted(client)
    body = WISH | {"prompt": "a fox with a GUN"} | member | ({"image": image} if path.endswith("edits") else {})
    refused(client.post(path, json=body), 400, "content_policy_violation", "prompt")
    assert counted(client) == before


def test_the_sdk_gets_its_own_error(gateway: Heliograph, advisers: Advisers, client: httpx.Client) -> None:
    """What the moderation model flags raises what the SDK calls a bad request, once: it does not send it again."""
    advisers.flags(True)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as sdk, pytest.raises(BadRequestError) as caught:
        sdk.images.generate(model="demo-image", prompt="a fox", size="256x256")
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "prompt")
    assert len(advisers.asked) == 1


def test_a_silent_moderation_model_is_said(advisers: Advisers, client: httpx.Client) -> None:
    """With 503, and when to come again."""
    advisers.answers["/v1/moderations"] = 500, b""
    reply = client.post(PATH, json=WISH)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "moderation_unavailable")
    assert (reply.headers["x-should-retry"], reply.headers["retry-after"]) == ("true", "5")


def test_an_enhanced_prompt_is_told(client: httpx.Client) -> None:
    """As `revised_prompt`, in the reply and in the task."""
    reply = client.post(PATH, json=WISH | {"enhance": True})
    (one,) = reply.json()["data"]
    assert one["revised_prompt"] == BETTER
    task = client.get(f"/v1/tasks/{reply.headers['x-heliograph-task-id']}").json()
    assert task["result"]["data"][0]["revised_prompt"] == BETTER
    (plain,) = client.post(PATH, json=WISH).json()["data"]
    assert "revised_prompt" not in plain


def test_a_form_may_ask_for_it_too(advisers: Advisers, client: httpx.Client) -> None:
    """An edit by a form, with a template."""
    form = {"prompt": "make it red", "enhance": "true", "enhance_template": "comic", "response_format": "b64_json"}
    image = client.post(PATH, json=WISH).json()["data"][0]["url"]
    reply = client.post("/v1/images/edits", data=form, files={"image": client.get(image).content})
    assert reply.json()["data"][0]["revised_prompt"] == BETTER


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"enhance": "yes"}, "enhance"), ({"enhance": 1}, "enhance"),
        ({"enhance_template": "cubist"}, "enhance_template"),
        ({"enhance": False, "enhance_template": "comic"}, "enhance_template"),
    ],
)  # fmt: skip
def test_a_wish_that_means_nothing_is_refused(client: httpx.Client, members: dict[str, Any], param: str) -> None:
    """By the field's name."""
    refused(client.post(PATH, json=WISH | members), 400, "invalid_parameter", param)
