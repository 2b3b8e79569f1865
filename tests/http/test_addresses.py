"""Addresses: ids and paths that lead nowhere, and those that the gateway says lead somewhere."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.http.replies import exchange, refusal, refused
from tests.http.server import NOBODYS, Heliograph

IDS = [
    "%252e%252e", "..;", "%5c..%5c", "%c0%ae", "%EF%BC%8F", "%00", "%ff", "-1", "0", str(2**63), "%0a", "%20", "{id}.",
    "{id}%20", "{id}%00", "{id}%0a", "{id};a=b", "{ID}", "note_{tail}", "{dashed}", "{id}{id}", "%EF%BC%91", "null",
    "*",
]  # fmt: skip


@pytest.mark.parametrize("form", IDS)
def test_an_id_that_is_none_is_like_one_that_is_nobodys(client: httpx.Client, task: str, form: str) -> None:
    """Nothing but an id finds a task, a picture or a link; what looks like one gets the same answer as nonsense."""
    id = form.format(id=task, ID=task.upper(), tail=task[5:], dashed=task.replace("_", "-"))
    for path, code in (
        ("/v1/tasks/{}", "task_not_found"),
        ("/v1/images/generations/{}/status", "task_not_found"),
        ("/v1/images/{}", "media_not_found"),
        ("/v1/media/{}", "media_not_found"),
        ("/media/{}", "media_not_found"),
    ):
        nobodys = client.get(path.format(NOBODYS))
        strange = client.get(path.format(id))
        assert refused(strange, 404, code) == refused(nobodys, 404, code)
    refused(client.post(f"/v1/tasks/{id}/cancel"), 404, "task_not_found")
    refused(client.delete(f"/v1/images/{id}"), 404, "media_not_found")
    refused(client.get(f"/v1/models/{id}"), 404, "model_not_found", "model")


def test_what_belongs_to_another_key_is_not_there(heliograph: Heliograph, task: str) -> None:
    """A foreign task is answered like none at all, whatever is asked of it."""
    with heliograph.client(heliograph.other_key) as client:
        for method, path in (
            ("GET", "/v1/tasks/{}"),
            ("POST", "/v1/tasks/{}/cancel"),
            ("DELETE", "/v1/images/generations/{}"),
        ):
            foreign, absent = (client.request(method, path.format(id)) for id in (task, NOBODYS))
            assert refused(foreign, 404, "task_not_found") == refused(absent, 404, "task_not_found")


def test_a_task_is_cancelled_once(client: httpx.Client, task: str) -> None:
    """The second cancel is told that there is nothing left to cancel."""
    while client.get(f"/v1/tasks/{task}").json()["stage"] != "generating":
        pass
    assert client.post(f"/v1/tasks/{task}/cancel", content=b"\0\xff").status_code == 200
    assert client.get(f"/v1/tasks/{task}?wait=10").json()["status"] == "cancelled"
    refused(client.post(f"/v1/tasks/{task}/cancel"), 409, "task_not_cancellable")


PATHS = [
    "/nothing", "/v1", "/v2/models", "/V1/MODELS", "/v1/models;a=b", "/v1/tasks/a/b", "/.env", "/admin",
    "/admin/v1", "/v1/tasks/..%2f..%2fetc%2fpasswd", "/media", "/media/a/b", "/openapi/nothing", "/openapi/%00",
    "/schema",
    "/v1/tasks/%2e%2e/%2e%2e/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_an_address_that_is_none_is_not_found(client: httpx.Client, path: str) -> None:
    """404 in the one shape for every address that there is not, whatever method."""
    refused(client.get(path), 404, "not_found")
    reply = client.post(path, content=b"\xff")
    assert (reply.status_code, refusal(reply)["code"]) in ((404, "not_found"), (405, "method_not_allowed"))


@pytest.mark.parametrize("path", ["/v1//models", "/v1/models/", "/v1/./models", "/v1/tasks/../models", "//v1/models"])
def test_another_spelling_of_an_address_asks_for_the_same_key(heliograph: Heliograph, path: str) -> None:
    """A path that leads to the same route, or to none, never leads past its authorisation."""
    sent = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    (reply,) = exchange(heliograph.address, sent)
    assert (reply.status_code, refusal(reply)["code"]) in ((401, "invalid_api_key"), (404, "not_found"))


@pytest.mark.parametrize("id", ["abc", "a" * 128, "A-b_c.9"])
def test_a_request_id_is_echoed(client: httpx.Client, id: str) -> None:
    """An id that the client brings comes back, also with a refusal."""
    assert client.get("/health", headers={"X-Request-Id": id}).headers["x-request-id"] == id
    assert client.get("/nothing", headers={"X-Request-Id": id}).headers["x-request-id"] == id


@pytest.mark.parametrize("id", ["", "a b", "a" * 129, "é", "<script>", "a,b", "a\tb"])
def test_a_request_id_of_no_good_is_replaced(client: httpx.Client, id: str) -> None:
    """What could not stand in a log is not echoed; two ids are none."""
    reply = client.get("/health", headers=[(b"X-Request-Id", id.encode("latin-1"))])
    assert reply.headers["x-request-id"].startswith("req_")
    twice = client.get("/health", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert twice.headers["x-request-id"].startswith("req_")


def test_every_reference_of_the_openapi_document_leads_somewhere(client: httpx.Client) -> None:
    """The bodies of requests are described, those too that are read by hand."""
    text = client.get("/openapi/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert {"ImageGenerationRequest", "KeyChange", "SettleRequest"} <= named
    assert named - set(schemas) == set()
    assert "fallback_models" in schemas["ImageGenerationRequest"]["properties"]
    assert "fallback_models" in client.get("/openapi").text


def test_every_route_of_the_openapi_document_is_there(client: httpx.Client) -> None:
    """The document is made, and each of its routes answers every method that it names with something of its own."""
    paths = client.get("/openapi/openapi.json").json()["paths"]
    assert "/v1/images/generations" in paths
    assert "/admin/v1/keys/{key_id}" in paths
    for path, methods in paths.items():
        for method in methods:
            reply = client.request(method, path.replace("{", "").replace("}", ""))
            assert reply.status_code < 500, (method, path)
            if reply.status_code >= 400:
                assert refusal(reply)["code"] not in ("not_found", "method_not_allowed"), (method, path)


def test_every_model_that_is_listed_is_found(client: httpx.Client) -> None:
    """Each entry of the list, aliases included, is the same when it is asked for by its name."""
    listed = client.get("/v1/models").json()["data"]
    assert {"demo-image", "dall-e-2", "gpt-image-1"} <= {model["id"] for model in listed}
    for model in listed:
        assert client.get(f"/v1/models/{model['id']}").json() == model


@pytest.mark.parametrize("path", ["x-1/y", "task_01q3dcbd00v111qgbnea09vcsb-1/AAAAAAAAAAAA", "a%00b/c", "é/é"])
def test_an_address_for_callbacks_cannot_be_made_up(client: httpx.Client, path: str) -> None:
    """Whoever calls one that we gave to nobody is told that there is nothing, whatever the body."""
    for body in (b"", b"{", b"\xff", b'{"status": "completed"}'):
        assert refused(client.post(f"/callbacks/{path}", content=body), 404, "task_not_found")
