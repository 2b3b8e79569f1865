"""Edits, variations and upscales over HTTP: forms and JSON, as clients send them, and as nobody should."""

from __future__ import annotations

import base64
import io
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from tests.http.replies import refused
from tests.http.server import Heliograph

EDITS = "/v1/images/edits"
Files = list[tuple[str, tuple[str, bytes, str]]]


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48), colour: Any = "blue") -> bytes:
    """A picture of one colour; one that may be seen through is, on the left."""
    image = Image.new(mode, size, colour)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def file(field: str, data: bytes | None = None, name: str = "a.png") -> tuple[str, tuple[str, bytes, str]]:
    """A file of a form."""
    return field, (name, picture() if data is None else data, "image/png")


MASK = file("mask", picture("RGBA"))


@pytest.fixture
def sdk(heliograph: Heliograph) -> Iterator[OpenAI]:
    """The official client."""
    with OpenAI(base_url=f"{heliograph.url}/v1", api_key=heliograph.key, max_retries=0) as client:
        yield client


def opened(text: str | None) -> Image.Image:
    """The picture of a reply."""
    assert text is not None
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def test_the_sdk_edits_a_picture(sdk: OpenAI) -> None:
    """One picture with a mask: what the mask keeps stays as it was."""
    reply = sdk.images.edit(
        model="demo-image", image=("a.png", picture()), mask=("m.png", picture("RGBA")), prompt="a hill",
        response_format="b64_json",
    )  # fmt: skip
    assert reply.data is not None
    made = opened(reply.data[0].b64_json)
    assert (made.size, made.convert("RGB").getpixel((60, 10))) == ((64, 48), (0, 0, 255))


def test_without_room_for_its_files_a_form_may_come_again(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that can keep no file says so by a 503, and not that the form is bad."""
    with monkeypatch.context() as without:
        without.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
        reply = client.post(EDITS, data={"model": "demo-image", "prompt": "a hill"}, files=[file("image")])
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_unavailable")
    reply = client.post(EDITS, data={"model": "demo-image", "prompt": "a hill"}, files=[file("image")])
    assert reply.status_code == 200


def test_the_sdk_sends_several_pictures(sdk: OpenAI) -> None:
    """A list of pictures is `image[]` in the form; all of them are used."""
    pictures = [("a.png", picture()), ("b.png", picture(colour="red"))]
    reply = sdk.images.edit(
        model="demo-image", image=pictures, prompt="a hill", response_format="b64_json", n=2,
        extra_body={"strength": 0.0},
    )  # fmt: skip
    assert reply.data is not None
    assert len(reply.data) == 2
    assert opened(reply.data[0].b64_json).convert("RGB").getpixel((1, 46)) == (255, 0, 0)


def test_the_sdk_asks_for_a_variation(sdk: OpenAI) -> None:
    """Neither model nor prompt are needed."""
    with pytest.deprecated_call():
        reply = sdk.images.create_variation(image=("a.png", picture()), n=2)
    assert reply.data is not None
    assert [bool(one.url) for one in reply.data] == [True, True]


def test_the_sdk_gets_its_own_error(sdk: OpenAI) -> None:
    """A file that is no picture raises what the SDK calls a bad request, by the name of the member."""
    with pytest.raises(BadRequestError) as caught:
        sdk.images.edit(model="demo-image", image=("a.png", b"%PDF"), prompt="x")
    assert (caught.value.code, caught.value.param) == ("invalid_image", "image")


def test_a_picture_is_enlarged(client: httpx.Client) -> None:
    """A form with a picture and a scale is enough."""
    reply = client.post(
        "/v1/images/upscales", files=[file("image")], data={"scale": "3", "response_format": "b64_json"}
    )
    assert opened(reply.json()["data"][0]["b64_json"]).size == (192, 144)


def test_a_background_is_removed(client: httpx.Client) -> None:
    """A picture is enough, and what was around it may be seen through."""
    reply = client.post("/v1/images/background-removals", files=[file("image")], data={"response_format": "b64_json"})
    assert opened(reply.json()["data"][0]["b64_json"]).mode == "RGBA"


def test_what_nobody_does_is_said(client: httpx.Client) -> None:
    """An operation that no model here has, without a model that could be blamed."""
    reply = client.post("/v1/images/outpaints", files=[file("image")])
    assert refused(reply, 400, "unsupported_operation", "model") == "No model here does outpaint."


def test_numbers_of_a_form_reach_the_model(client: httpx.Client) -> None:
    """A member that only the card knows is read as what the card says that it is."""
    reply = client.post(EDITS, files=[file("image")], data={"seed": "7", "output_compression": "x"})
    refused(reply, 400, "invalid_parameter", "output_compression")
    reply = client.post(EDITS, files=[file("image")], data={"prompt": "x", "seed": "7", "strict": "true"})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("edits", "scale", "2"), ("edits", "seconds", "4"), ("generations", "strength", 0.4),
        ("generations", "scale", 2), ("generations", "video", "task_1"), ("variations", "strength", "0.4"),
        ("variations", "scale", "2"),
        ("variations", "mask", None), ("upscales", "size", "128x96"), ("upscales", "aspect_ratio", "4:3"),
        ("upscales", "strength", "0.4"), ("upscales", "seed", "1"), ("upscales", "style_image", None),
        ("background-removals", "size", "256x256"), ("background-removals", "scale", "2"),
    ],
)  # fmt: skip
def test_what_another_operation_takes_is_refused(client: httpx.Client, path: str, name: str, value: Any) -> None:
    """A member that says what is made means something here, or is refused by its name: none is dropped in silence."""
    if path == "generations":
        reply = client.post("/v1/images/generations", json={"model": "demo-image", "prompt": "x", name: value})
    else:
        files = [file("image")] if value else [file("image"), file(name)]
        said = {"prompt": "x"} if path == "edits" else {}
        reply = client.post(f"/v1/images/{path}", files=files, data=said | ({name: value} if value else {}))
    refused(reply, 400, "unsupported_parameter" if value else "invalid_parameter", name)


@pytest.mark.parametrize("path", ["variations", "upscales", "background-removals"])
def test_what_is_done_to_one_picture_takes_one_and_no_words(client: httpx.Client, path: str) -> None:
    """A second picture, or a prompt, would be dropped in silence."""
    address = f"/v1/images/{path}"
    refused(client.post(address, files=[file("image[]"), file("image[]")]), 400, "invalid_parameter", "image")
    refused(client.post(address, json={"image": [DATA, DATA]}), 400, "invalid_parameter", "image")
    refused(client.post(address, json={"image": DATA, "prompt": "a fox"}), 400, "invalid_parameter", "prompt")


@pytest.mark.parametrize("member", [{"seed": 5}, {"output_format": "png"}])
def test_options_of_the_provider_contradict_nothing(client: httpx.Client, member: dict[str, Any]) -> None:
    """Who says the same twice is understood, and who says two things is asked which one."""
    (name, value), other = *member.items(), {"seed": 4, "output_format": "webp"}
    body = {"model": "demo-image", "prompt": "x", "size": "256x256", **member}
    reply = client.post("/v1/images/generations", json={**body, "provider_options": {name: other[name]}})
    refused(reply, 400, "invalid_parameter", name)
    reply = client.post("/v1/images/generations", json={**body, "provider_options": {name: value}})
    assert reply.status_code == 200


def test_numbers_among_the_options_of_a_form_are_numbers(client: httpx.Client) -> None:
    """The SDK writes nested members into a form as text."""
    data = {"prompt": "x", "provider_options[strength]": "0.3", "provider_options[seed]": "7"}
    assert client.post(EDITS, files=[file("image")], data=data).status_code == 200


@pytest.mark.parametrize("how", [{"async": True}, "/async", {"Prefer": "respond-async"}], ids=str)
def test_a_stream_is_not_for_later(client: httpx.Client, how: Any) -> None:
    """Whoever wants both a stream and a task at once is asked which one, however the task was asked for."""
    body = {"model": "demo-image", "prompt": "x", "stream": True}
    path, headers = "/v1/images/generations", {}
    if how == "/async":
        path += how
    elif "async" in how:
        body |= how
    else:
        headers = how
    refused(client.post(path, json=body, headers=headers), 400, "invalid_parameter", "stream")


def test_a_member_that_says_nothing_is_no_member(client: httpx.Client) -> None:
    """What is left empty or null is left out, also where it would mean nothing."""
    nothing: dict[str, Any] = {"strength": None, "size": "", "seconds": "", "images": [], "mask": "", "video": {}}
    reply = client.post("/v1/images/upscales", json={"image": DATA, **nothing})
    assert reply.status_code == 200


DATA = "data:image/png;base64," + base64.b64encode(picture()).decode()


@pytest.mark.parametrize(
    "image",
    [DATA, [DATA, DATA], {"image_url": DATA}, [{"image_url": DATA}]],
    ids=["text", "texts", "object", "objects"],
)
def test_json_names_pictures(client: httpx.Client, image: Any) -> None:
    """A data URL in every form that clients use."""
    reply = client.post(EDITS, json={"model": "demo-image", "prompt": "x", "image": image})
    assert reply.status_code == 200
    reply = client.post(EDITS, json={"model": "demo-image", "prompt": "x", "images": image})
    assert reply.status_code == 200


def test_what_was_made_is_worked_on(client: httpx.Client) -> None:
    """The id of our own media, and a link to it, are pictures too."""
    made = client.post(
        "/v1/images/generations", json={"model": "demo-image", "prompt": "x", "size": "256x256", "async": True}
    ).json()
    done = client.get(f"/v1/tasks/{made['id']}", params={"wait": 20}).json()
    for image in (done["result"]["data"][0]["id"], done["result"]["url"]):
        reply = client.post("/v1/images/variations", json={"image": image, "response_format": "b64_json"})
        assert opened(reply.json()["data"][0]["b64_json"]).size == (256, 256)


def test_an_edit_may_be_a_task(client: httpx.Client) -> None:
    """Asynchronous as every creation, and of its own type."""
    reply = client.post(EDITS, files=[file("image")], data={"prompt": "x", "async": "true", "metadata[a]": "b"})
    assert (reply.status_code, reply.json()["type"], reply.json()["metadata"]) == (202, "image.edit", {"a": "b"})
    done = client.get(f"/v1/tasks/{reply.json()['id']}", params={"wait": 20}).json()
    assert done["status"] == "completed"


def test_a_dry_run_looks_at_the_picture(client: httpx.Client) -> None:
    """It says the price, or what is wrong with the picture, and makes nothing."""
    reply = client.post(EDITS, files=[file("image")], data={"prompt": "x", "dry_run": "true"})
    assert (reply.status_code, reply.json()["object"]) == (200, "plan")
    bad = client.post(EDITS, files=[file("image", b"no")], data={"prompt": "x", "dry_run": "true"})
    refused(bad, 400, "invalid_image", "image")


def test_the_same_form_is_the_same_request(client: httpx.Client) -> None:
    """Whatever boundary and file name a client makes up: files are told apart by their bytes."""
    headers = {"Idempotency-Key": "form-1"}
    send = {"prompt": "x", "async": "true"}
    first = client.post(EDITS, files=[file("image")], data=send, headers=headers)
    second = client.post(EDITS, files=[file("image", name="other.png")], data=send, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
    other = client.post(EDITS, files=[file("image", picture(colour="red"))], data=send, headers=headers)
    refused(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("files", "data", "status", "code", "param"),
    [
        ([], {"prompt": "x"}, 415, "unsupported_media_type", None),
        ([file("mask")], {"prompt": "x"}, 400, "missing_parameter", "image"),
        ([file("image", b"")], {"prompt": "x"}, 400, "invalid_image", "image"),
        ([file("image", b"<svg/>")], {"prompt": "x"}, 400, "invalid_image", "image"),
        ([file("image"), file("mask")], {"prompt": "x"}, 400, "invalid_image", "mask"),
        ([file("image"), MASK, MASK], {"prompt": "x"}, 400, "invalid_parameter", "mask"),
        ([file("image")] * 5, {"prompt": "x"}, 400, "invalid_parameter", "image"),
        ([file("image")], {}, 400, "missing_parameter", "prompt"),
        ([file("image")], {"prompt": "  "}, 400, "missing_parameter", "prompt"),
        ([file("image"), file("prompt")], {}, 400, "invalid_parameter", "prompt"),
        ([file("mask")], {"image": "a.png"}, 400, "invalid_parameter", "image"),
        ([file("image")], {"n": "two"}, 400, "invalid_parameter", "n"),
        ([file("image")], {"n": ["1", "2"]}, 400, "invalid_parameter", "n"),
        ([file("image")], {"n": "99"}, 400, "invalid_parameter", "n"),
        ([file("image")], {"strength": "7"}, 400, "invalid_parameter", "strength"),
        ([file("image")], {"metadata": "{"}, 400, "invalid_parameter", "metadata"),
        ([file("image")], {"prompt": "a\0b"}, 400, "invalid_parameter", "prompt"),
        ([file("image")], {"model": "nobody"}, 404, "model_not_found", "model"),
        ([file("image")], {"model": "patient-image"}, 400, "invalid_parameter", "model"),
        ([file("image")], {"bad name": "x"}, 400, "invalid_multipart", None),
        ([file("image", picture(size=(4096, 2048)))], {}, 400, "invalid_image", "image"),
    ],
)
def test_a_bad_form_is_refused(
    client: httpx.Client, files: Files, data: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """Each by its own code and member, and never by a fault of ours."""
    refused(client.post(EDITS, files=files, data=data), status, code, param)


def test_a_style_says_what_an_edit_is_to_do(client: httpx.Client) -> None:
    """With the style of another picture no words are needed."""
    assert client.post(EDITS, files=[file("image"), file("style_image")]).status_code == 200


@pytest.mark.parametrize(
    ("data", "param"),
    [({"output_format": "jpeg"}, "output_format"), ({"output_format": "jpeg", "n": "2"}, "output_format")],
)
def test_a_removed_background_needs_transparency(client: httpx.Client, data: dict[str, str], param: str) -> None:
    """A format in which it could not be seen is refused with those in which it can."""
    reply = client.post("/v1/images/background-removals", files=[file("image")], data=data)
    assert "Allowed: png, webp, avif, gif." in refused(reply, 400, "invalid_parameter", param)


def test_too_many_masks_are_counted_as_masks(client: httpx.Client) -> None:
    """The pictures that a model takes beside its mask are no more masks."""
    reply = client.post(EDITS, files=[file("image"), MASK, MASK], data={"prompt": "x"})
    assert "takes at most 1 of mask for edit." in refused(reply, 400, "invalid_parameter", "mask")


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        (EDITS, "application/x-www-form-urlencoded", "application/json in UTF-8, or as multipart/form-data, not as"),
        (EDITS, "", "application/json in UTF-8, or as multipart/form-data, and say so."),
        ("/v1/webhook_endpoints", "multipart/form-data; boundary=a", "application/json in UTF-8, not as"),
    ],
)
def test_a_body_of_another_type_hears_what_is_taken(client: httpx.Client, path: str, kind: str, said: str) -> None:
    """Only who may send a form is told of forms."""
    reply = client.post(path, content=b"x", headers={"Content-Type": kind} if kind else {})
    assert said in refused(reply, 415, "unsupported_media_type")


def test_what_is_too_large_hears_how_large_it_may_be(heliograph: Heliograph, client: httpx.Client) -> None:
    """The limits are the operator's, so that the messages name them."""
    settings = heliograph.settings
    body = b"x" * (settings.max_body_bytes + 1)
    reply = client.post(EDITS, content=body, headers={"Content-Type": "application/json"})
    assert f"at most {settings.max_body_bytes} bytes" in refused(reply, 413, "payload_too_large")
    reply = client.post(EDITS, files=[file("image")], data={f"a{number}": "x" for number in range(120)})
    said = refused(reply, 413, "payload_too_large")
    assert "at most 100 parts" in said
    assert f"at most {settings.max_picture_bytes} bytes each" in said


def test_values_of_a_form_are_not_called_text(client: httpx.Client) -> None:
    """In a form everything is text: only what is expected is worth saying."""
    reply = client.post(EDITS, files=[file("image")], data={"prompt": "x", "n": "many"})
    assert refused(reply, 400, "invalid_parameter", "n") == "n: expected an integer."


KIND = "multipart/form-data; boundary=cut"
HEAD = b'--cut\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", HEAD + b"x\r\n--cut--\r\n"),
        ("multipart/form-data; boundary=" + "a" * 71, b""),
        ("multipart/form-data; boundary=other", HEAD + b"x\r\n--cut--\r\n"),
        (KIND, b""), (KIND, HEAD), (KIND, HEAD + b"x\r\n--cut"), (KIND, HEAD + b"x\r\n--cut--\r\n" + b"-" * 100_000),
        (KIND, b"\r\n" * 50_000 + HEAD + b"x\r\n--cut--\r\n"), (KIND, b"--cut\r\n\r\nx\r\n--cut--\r\n"),
        (KIND, b"--cut\r\nContent-Disposition: form-data\r\n\r\nx\r\n--cut--\r\n"),
        (KIND, b'--cut\r\nContent-Disposition: form-data; name=""\r\n\r\nx\r\n--cut--\r\n'),
        (KIND, b'--cut\r\nContent-Disposition: form-data; name="a\0"\r\n\r\nx\r\n--cut--\r\n'),
        (KIND, b"--cut\r\nX: " + b"a" * 10_000 + b"\r\n\r\nx\r\n--cut--\r\n"),
        (KIND, b"--cut\r\n" + b"X: a\r\n" * 100 + b"\r\nx\r\n--cut--\r\n"),
        (KIND, b'--cut\r\nContent-Disposition: form-data; name="prompt"\r\nContent-Type: text/plain; charset=utf-99'
               b"\r\n\r\nx\r\n--cut--\r\n"),
        (KIND, b'--cut\r\nContent-Disposition: form-data; name="prompt"\r\nContent-Transfer-Encoding: base64'
               b"\r\n\r\nx\r\n--cut--\r\n"),
        (KIND, HEAD + b"\xff\xfe\r\n--cut--\r\n"),
        (KIND, HEAD + b"x\r\n" + HEAD * 200 + b"x\r\n--cut--\r\n"),
        (KIND, HEAD + b"x" * 300_000 + b"\r\n--cut--\r\n"),
    ],
    ids=range(19),
)  # fmt: skip
def test_a_broken_form_is_refused(client: httpx.Client, kind: str, body: bytes) -> None:
    """Whatever is wrong with boundary, parts or headers, it is the client's mistake, and said at once."""
    reply = client.post(EDITS, content=body, headers={"Content-Type": kind})
    assert reply.status_code in (400, 413), reply.content
    assert reply.json()["error"]["code"] in ("invalid_multipart", "invalid_parameter", "payload_too_large")


def test_a_generation_may_be_led_by_a_picture(client: httpx.Client) -> None:
    """In the style of one that comes along, as a form or in JSON; one that the model has no use for is refused."""
    path, body = "/v1/images/generations", {"model": "demo-image", "prompt": "x", "response_format": "b64_json"}
    plain = client.post(path, json=body).json()["data"][0]["b64_json"]
    address = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    for reply in (
        client.post(path, json={**body, "style_image": address}),
        client.post(path, data=body, files=[file("style_image")]),
    ):
        assert reply.status_code == 200, reply.content
        colours = opened(reply.json()["data"][0]["b64_json"]).convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) < len(opened(plain).convert("RGB").getcolors(1 << 20) or [])
    for name in ("image", "control_image"):
        refused(client.post(path, data=body, files=[file(name)]), 400, "unsupported_parameter", name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a.png\0.svg", "CON", "a" * 3000, "a%0d%0aX: y", "/etc/passwd"])
def test_the_name_of_a_file_means_nothing(client: httpx.Client, name: str) -> None:
    """It is taken, and used for nothing."""
    reply = client.post("/v1/images/variations", files=[file("image", name=name)])
    assert reply.status_code == 200


@pytest.mark.parametrize("name", ["image", "images", "control_image"])
def test_a_generation_refuses_a_picture_that_its_model_cannot_use(client: httpx.Client, name: str) -> None:
    """Nothing that we know is ignored: a model that makes pictures from words alone says so."""
    body = {"model": "patient-image", "prompt": "x", name: DATA}
    reply = client.post("/v1/images/generations", json=body)
    assert refused(reply, 400, "unsupported_parameter", name) == f"'patient-image' takes no {name} for generation."


def test_files_do_not_wait_for_the_result(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a request waits for its task, what came with it is in the store, and no temporary file is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body, left = {"model": "patient-image", "prompt": "x"}, list[Path]()
    look = threading.Timer(1.5, lambda: left.extend(tmp_path.iterdir()))
    look.start()
    reply = client.post("/v1/images/generations", data=body, files=[file("style_image")], headers={"Prefer": "wait=3"})
    look.join()
    assert (reply.status_code, left) == (202, [])
