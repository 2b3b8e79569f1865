"""Open WebUI as a client: the requests that it was recorded to send, sent to the gateway as they are.

It reads `data[].url`, or else `data[].b64_json`, and of an error nothing but the status.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.http.replies import refused
from tests.http.server import NO_CERTIFICATES, Heliograph

CAPTURE: dict[str, Any] = json.loads(Path(__file__).with_name("openwebui.json").read_text("utf-8"))
RECORDED: list[dict[str, Any]] = CAPTURE["requests"]
EDITS: list[dict[str, Any]] = CAPTURE["edits"]
# What the demo model makes of each size: 1024x768 it has not, and what comes nearest in shape is 3:2.
SIZES = {"512x512": (512, 512), "1024x768": (1536, 1024), "auto": (1024, 1024), None: (1024, 1024)}


def send(heliograph: Heliograph, recorded: dict[str, Any], **members: Any) -> httpx.Response:
    """Sends a recorded request with a key of ours, and members of the body changed; one that is None is left out."""
    body = {name: value for name, value in {**recorded["json"], **members}.items() if value is not None}
    headers = {**recorded["headers"], "Authorization": f"Bearer {heliograph.key}"}
    with heliograph.client() as client:
        return client.post(recorded["path"], headers=headers, content=json.dumps(body).encode())


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["note"] for one in RECORDED])
def test_a_recorded_request_gets_its_pictures(heliograph: Heliograph, recorded: dict[str, Any]) -> None:
    """Each request gets as many pictures as it asks for, as base64 and never with a URL beside it, which would win.

    `sdxl` and `gpt-image-1` are aliases: what their target does not offer is adjusted, and said in a header.
    """
    reply = send(heliograph, recorded)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    data = reply.json()["data"]
    assert len(data) == recorded["json"]["n"]
    for one in data:
        assert one.get("url") is None
        picture = Image.open(io.BytesIO(base64.b64decode(one["b64_json"], validate=True)))
        assert picture.size == SIZES[recorded["json"].get("size")]
    adjusted = json.loads(reply.headers.get("X-Heliograph-Adjusted", "{}"))
    assert set(adjusted) <= {"size", "quality", "style"}


def test_what_a_legacy_value_became_is_said(heliograph: Heliograph) -> None:
    """The quality and style of a retired model are dropped for a target that has neither, and that is no secret."""
    (recorded,) = [one for one in RECORDED if "quality" in one["json"]]
    assert recorded["path"].endswith("?api-version=2025-04-01-preview")
    reply = send(heliograph, recorded)
    assert json.loads(reply.headers["X-Heliograph-Adjusted"]) == {"quality": ["hd", None], "style": ["vivid", None]}


@pytest.mark.parametrize("size", ["", "auto", "512x512", None])
@pytest.mark.parametrize("model", ["dall-e-2", "demo-image"])
def test_every_size_that_it_sends_is_taken(heliograph: Heliograph, model: str, size: str | None) -> None:
    """Its default, `auto`, the empty text of older releases, and none."""
    reply = send(heliograph, RECORDED[0], model=model, size=size, response_format="url")
    assert reply.status_code == 200
    assert "b64_json" not in reply.json()["data"][0]


@pytest.mark.parametrize(("model", "inline"), [("gpt-image-1", True), ("dall-e-2", False), ("demo-image", False)])
def test_without_a_response_format_the_name_decides(heliograph: Heliograph, model: str, inline: bool) -> None:
    """It sends none for names that begin like gpt-image, and expects base64 then."""
    (one,) = send(heliograph, RECORDED[0], model=model, response_format=None).json()["data"]
    assert ("b64_json" in one, "url" in one) == (inline, not inline)


def test_a_link_can_be_fetched_from_where_it_was_given(heliograph: Heliograph) -> None:
    """It downloads a URL itself, with our key where the origin is the same, and wants a picture without a redirect."""
    (one,) = send(heliograph, RECORDED[0], response_format="url").json()["data"]
    assert one["url"].startswith(heliograph.url + "/media/")
    headers = {**RECORDED[-1]["headers"], "Authorization": f"Bearer {heliograph.key}"}
    reply = httpx.get(one["url"], headers=headers, follow_redirects=False, verify=NO_CERTIFICATES)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")


def test_parameters_of_any_kind_may_be_merged_in(heliograph: Heliograph) -> None:
    """Its free dictionary of parameters may hold what nobody knows, and what overrides its own."""
    reply = send(heliograph, RECORDED[0], extra_body={"a": 1}, frobnicate=[1], n=2, seed=7, output_format="webp")
    assert reply.status_code == 200
    assert len(reply.json()["data"]) == 2
    assert reply.json()["output_format"] == "webp"


def test_what_goes_wrong_is_in_the_status(heliograph: Heliograph) -> None:
    """It shows its user the reason phrase alone: an unknown model is 404, a wrong key 401, a size that is none 400."""
    refused(send(heliograph, RECORDED[0], model="nothing"), 404, "model_not_found", "model")
    refused(send(heliograph, RECORDED[0], model="demo-image", size="7x7"), 400, "invalid_image_size", "size")
    with heliograph.client("") as client:
        refused(client.post(RECORDED[0]["path"], headers=RECORDED[0]["headers"], json={}), 401, "invalid_api_key")


def picture(kind: str) -> bytes:
    """A picture in that format."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "blue").save(file, kind)
    return file.getvalue()


def name_of(part: dict[str, Any]) -> str:
    """A part's name, out of its headers."""
    return str(part["headers"][-1].partition('name="')[2].partition('"')[0])


def send_edit(heliograph: Heliograph, recorded: dict[str, Any], parts: list[dict[str, Any]]) -> httpx.Response:
    """Sends a recorded form with a key of ours, and these parts, in their order and with their headers."""
    boundary = recorded["headers"]["Content-Type"].partition("boundary=")[2].encode()
    body = b""
    for part in parts:
        data = picture(part["picture"]) if "picture" in part else part["text"].encode()
        body += b"--" + boundary + b"\r\n" + "\r\n".join(part["headers"]).encode() + b"\r\n\r\n" + data + b"\r\n"
    headers = {**recorded["headers"], "Authorization": f"Bearer {heliograph.key}"}
    with heliograph.client() as client:
        return client.post(recorded["path"], headers=headers, content=body + b"--" + boundary + b"--\r\n")


@pytest.mark.parametrize("recorded", EDITS, ids=[one["note"] for one in EDITS])
def test_a_recorded_edit_gets_its_pictures(heliograph: Heliograph, recorded: dict[str, Any]) -> None:
    """`image` or `image[]`, once or more, PNG or JPEG: as many pictures as are asked for, as base64 alone."""
    asked = {name_of(part): part["text"] for part in recorded["parts"] if "text" in part}
    reply = send_edit(heliograph, recorded, recorded["parts"])
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json"), reply.text
    data = reply.json()["data"]
    assert len(data) == int(asked.get("n", 1))
    width, height = map(int, asked.get("size", "64x48").split("x"))
    for one in data:
        assert one.get("url") is None
        made = Image.open(io.BytesIO(base64.b64decode(one["b64_json"], validate=True)))
        assert made.size == (width, height)
    adjusted = json.loads(reply.headers.get("X-Heliograph-Adjusted", "{}"))
    assert adjusted == ({"background": ["transparent", None]} if "background" in asked else {})


def test_a_background_that_a_model_has_not_is_refused(heliograph: Heliograph) -> None:
    """Unless an alias says what becomes of it: nothing is left out in silence."""
    (recorded,) = [one for one in EDITS if any(name_of(part) == "background" for part in one["parts"])]
    parts = [{**part, "text": "m"} if name_of(part) == "model" else part for part in recorded["parts"]]
    refused(send_edit(heliograph, recorded, parts), 400, "unsupported_parameter", "background")


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        (["Content-Type: image/png", 'Content-Disposition: form-data; name="image"; filename="a.png"'], "JPEG"),
        (["Content-Type: image/mpo", 'Content-Disposition: form-data; name="image[]"; filename="a.mpo"'], "MPO"),
        (["Content-Type: None", 'Content-Disposition: form-data; name="image"; filename="a.None"'], "WEBP"),
        (['Content-Disposition: form-data; name="image"; filename="a.png"'], "PNG"),
    ],
    ids=["JPEG named .png", "MPO", "no type", "no header"],
)
def test_what_a_picture_is_shows_in_its_bytes(heliograph: Heliograph, headers: list[str], kind: str) -> None:
    """Neither the name nor the type that a release gives it counts."""
    parts = [*(part for part in EDITS[0]["parts"] if "text" in part), {"headers": headers, "picture": kind}]
    assert send_edit(heliograph, EDITS[0], parts).status_code == 200


def test_an_edit_that_goes_wrong_says_so_in_its_status(heliograph: Heliograph) -> None:
    """A form without a picture, and bytes that are none."""
    plain = [part for part in EDITS[0]["parts"] if "text" in part]
    refused(send_edit(heliograph, EDITS[0], plain), 400, "missing_parameter", "image")
    broken = {"headers": EDITS[0]["parts"][-1]["headers"], "text": "no picture"}
    refused(send_edit(heliograph, EDITS[0], [*plain, broken]), 400, "invalid_image", "image")
