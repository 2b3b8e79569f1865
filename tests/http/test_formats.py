"""Formats over HTTP: every image model delivers each of them, whatever its provider makes."""

from __future__ import annotations

import base64
import io

import httpx
import pytest
from PIL import Image

from tests.http.replies import refused
from tests.http.server import Heliograph

PATH = "/v1/images/generations"
WISH = {"model": "demo-image", "prompt": "a fox", "size": "256x256"}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif", "gif"])
def test_a_model_delivers_every_format(client: httpx.Client, kind: str) -> None:
    """As bytes and behind a link, and the reply says which format it is."""
    reply = client.post(PATH, json=WISH | {"output_format": kind, "response_format": "b64_json"})
    assert (reply.status_code, reply.json()["output_format"]) == (200, kind)
    assert "x-heliograph-adjusted" not in reply.headers
    data = base64.b64decode(reply.json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(data)).format == kind.upper()
    reply = client.post(PATH, json=WISH | {"output_format": kind})
    assert client.get(reply.json()["data"][0]["url"]).headers["content-type"] == f"image/{kind}"


def test_a_stream_ends_with_the_format_that_was_asked_for(client: httpx.Client) -> None:
    """Also where it is made here, when the picture has arrived."""
    body = WISH | {"output_format": "avif", "stream": True, "partial_images": 0}
    reply = client.post(PATH, json=body)
    assert '"output_format":"avif"' in reply.text


def test_models_say_which_formats_there_are(client: httpx.Client) -> None:
    """First the provider's own, then those that are made here."""
    reply = client.get("/v1/models/demo-image")
    assert reply.json()["capabilities"]["formats"] == ["png", "jpeg", "webp", "avif", "gif"]


def test_jpeg_has_no_transparent_background(heliograph: Heliograph, client: httpx.Client) -> None:
    """It is refused before anything is made."""
    reply = client.post(PATH, json=WISH | {"output_format": "jpeg", "background": "transparent"})
    message = refused(reply, 400, "invalid_parameter", "background")
    assert message == (
        "background cannot be transparent in jpeg. Allowed with it is output_format: png, webp, avif, gif."
    )
