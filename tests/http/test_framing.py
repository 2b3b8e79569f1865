"""Framing: what is no HTTP, or is HTTP that is seldom seen. Over raw sockets, against the real server."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.http.replies import exchange, refused
from tests.http.sending import HEALTH, PICTURE, get, only, post, whole
from tests.http.server import Heliograph

MANY = 1000
HOSTS = [b"", b"a b", b"a/../b", b"user@a", b"a:65536", b"a:x", b"[zz]", b"[::1", b"a" * 254, b"\xff", b"a\r\nHost: a"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_none_is_refused(heliograph: Heliograph, host: bytes) -> None:
    """Neither an impossible host nor two of them get past the guard, whatever the route would do with it."""
    refused(only(heliograph, get(host=host)), 400, "invalid_header")


def test_a_host_must_be_given(heliograph: Heliograph) -> None:
    """HTTP/1.1 without a Host is refused, X-Forwarded-Host or not, and so is HTTP/0.9; HTTP/1.0 knows none."""
    refused(only(heliograph, b"GET /health\r\n\r\n"), 400, "invalid_header")
    bare = b"GET /health HTTP/1.%d\r\nX-Forwarded-Host: a\r\nConnection: close\r\n\r\n"
    refused(only(heliograph, bare % 1), 400, "invalid_header")
    assert only(heliograph, bare % 0).status_code == 200


@pytest.mark.parametrize("host", [b"a", b"a:", b"a:0", b"a:65535", b"[::1]:80", b"[::::]", b"..", b"127.0.0.1:8000"])
def test_a_host_goes_into_links_and_breaks_nothing(heliograph: Heliograph, host: bytes) -> None:
    """A route that builds links from the Host works with every Host that is let in."""
    reply = only(heliograph, get("/v1/tasks", b"Authorization: Bearer " + heliograph.key.encode(), host=host))
    assert reply.status_code == 200


LENGTHS = [b"-1", b"abc", b"+5", b"5,5", b"5, 5", b"0x5", b"", b"5\r\nContent-Length: 6", b"9" * 30, b"5 5"]
ENCODINGS = [b"xchunked", b"chunked, identity", b"identity", b"chunked, chunked", b"", b"chunked\r\nContent-Length: 5"]
CHUNKS = [b"0x10\r\n", b"-1\r\n", b"f" * 20 + b"\r\n", b"5\nabcde\n0\n\n", b"z\r\n", b"5\r\nabcdefgh\r\n0\r\n\r\n"]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_is_none_is_refused(heliograph: Heliograph, length: bytes) -> None:
    """Content-Length must be one plain number; anything else is no HTTP, and the connection ends."""
    refused(only(heliograph, post(heliograph, b"Content-Length: " + length, body=PICTURE)), 400, "invalid_request")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_transfer_encoding_other_than_chunked_is_refused(heliograph: Heliograph, encoding: bytes) -> None:
    """Two ways to tell where a body ends are no way: neither an odd coding nor a length beside one is taken."""
    sent = post(heliograph, b"Transfer-Encoding: " + encoding, body=b"0\r\n\r\n")
    refused(only(heliograph, sent), 400, "invalid_request")


@pytest.mark.parametrize("chunks", CHUNKS)
def test_broken_chunks_are_refused(heliograph: Heliograph, chunks: bytes) -> None:
    """A chunk that does not say its size properly, or is not of that size, ends the connection."""
    sent = post(heliograph, b"Transfer-Encoding: chunked", body=chunks)
    refused(only(heliograph, sent), 400, "invalid_request")


NOISE = [
    bytes.fromhex("16030100f8010000f40303") + b"x" * 200,
    b"\x00\x01\x02\xff" * 50,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /health HTTP/3.0\r\nHost: a\r\n\r\n",
    b"get /health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"BREW /health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /health HTTP/1.1\r\n Host: a\r\n\r\n",
]


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_noise_is_no_request(heliograph: Heliograph, noise: bytes) -> None:
    """TLS, HTTP/2, HTTP/3 and plain nonsense get one refusal in the shape of any other, and an end."""
    refused(only(heliograph, noise), 400, "invalid_request")


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n", b"\x01", b"\x7f"])
def test_control_characters_in_a_header_are_refused(heliograph: Heliograph, byte: bytes) -> None:
    """No control character gets through in a header, and none comes back in one."""
    reply = only(heliograph, get("/health", b"X-Request-Id: a" + byte + b"b"))
    refused(reply, 400, "invalid_request")


@pytest.mark.parametrize("target", ["@evil.com", "http://evil", "evil:80", "?a=b", "/v1/mod els", "/\xff", "\\"])
def test_a_target_without_a_path_is_refused(heliograph: Heliograph, target: str) -> None:
    """A request target from which no path can be read is no request."""
    refused(only(heliograph, get(target)), 400, "invalid_request")


@pytest.mark.parametrize(
    "target", ["*", "//evil/health", "http://evil/nothing", "/%", "/%00", "/%ff", "/%0d%0aX:1", "/a%"]
)
def test_a_strange_path_is_not_found(heliograph: Heliograph, target: str) -> None:
    """Whatever can be read as a path is routed by it, and found or not."""
    refused(only(heliograph, get(target)), 404, "not_found")


def test_a_target_with_an_authority_is_routed_by_its_path_alone(heliograph: Heliograph) -> None:
    """Links are built from the Host that was checked, never from the authority in the target."""
    reply = only(heliograph, get("http://evil.example/", host=b"good.example"))
    assert (reply.status_code, reply.headers["location"]) == (307, "/openapi")
    sent = whole(heliograph, b"Connection: close").replace(b"POST /", b"POST http://evil.example/")
    assert json.loads(only(heliograph, sent).content)["data"][0]["url"].startswith("http://a/media/")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "PATCH", "PUT", "QUERY"])
def test_other_methods_are_refused_with_those_that_are_taken(heliograph: Heliograph, method: str) -> None:
    """405 names in Allow what the address takes, HEAD included."""
    reply = only(heliograph, get("/health", method=method))
    refused(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD, OPTIONS"


def test_no_header_overrides_the_method(client: httpx.Client) -> None:
    """X-HTTP-Method-Override means nothing: a GET stays one."""
    assert client.get("/v1/models", headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 200


ROUTES = [
    "/health",
    "/v1/models",
    "/v1/models/demo-image",
    "/v1/tasks",
    "/v1/media",
    "/openapi",
    "/openapi/openapi.json",
]


@pytest.mark.parametrize("path", ROUTES)
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    """HEAD works wherever GET does, and says the same of the body that it leaves out."""
    shown, spared = client.get(path), client.head(path)
    assert (spared.status_code, spared.content) == (200, b"")
    assert spared.headers["content-type"] == shown.headers["content-type"]
    assert int(spared.headers["content-length"]) == len(shown.content)


def test_head_of_nothing_is_refused_without_a_body(client: httpx.Client) -> None:
    """HEAD of what is not there, or takes no GET, has the status alone."""
    assert (client.head("/nothing").status_code, client.head("/nothing").content) == (404, b"")
    assert client.head("/v1/images/generations").status_code == 405


def test_a_refusal_is_json_whatever_is_accepted(client: httpx.Client) -> None:
    """A client that asks for HTML alone gets the error in its one shape all the same."""
    refused(client.get("/openapi/nothing", headers={"Accept": "text/html"}), 404, "not_found")
    refused(client.get("/v1/models/nothing", headers={"Accept": "text/html"}), 404, "model_not_found", "model")


def test_an_expectation_that_is_unknown_is_ignored(heliograph: Heliograph) -> None:
    """Expect: 200-maybe expects nothing that we know of."""
    assert only(heliograph, whole(heliograph, b"Expect: 200-maybe", b"Connection: close")).status_code == 200


def test_requests_may_follow_each_other_without_waiting(heliograph: Heliograph) -> None:
    """A thousand requests sent at once are answered one after the other."""
    sent = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * (MANY - 1) + HEALTH
    assert [reply.status_code for reply in exchange(heliograph.address, sent)] == [200] * MANY


def test_what_follows_a_request_does_not_cost_it_its_answer(heliograph: Heliograph) -> None:
    """A picture that was ordered in proper form is answered, though nonsense follows on the same connection."""
    assert only(heliograph, whole(heliograph) + b"\0nonsense").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upgrade_that_is_offered_is_passed_over(heliograph: Heliograph, chunked: bool) -> None:
    """Java's client offers HTTP/2 with its first request: its body arrives, and the connection goes on as it was."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk"
    sent = whole(heliograph, offer)
    if chunked:
        sent = post(
            heliograph, offer, b"Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
        )
    first, second = exchange(heliograph.address, sent + HEALTH)
    assert (first.status_code, second.status_code) == (200, 200)
    assert b"url" in first.content


def test_a_web_socket_is_not_to_be_had(heliograph: Heliograph) -> None:
    """An offer of a web socket that makes no sense is refused, with a protocol of any bytes."""
    offer = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xff\xfe"
    sent = get("/nothing", offer).replace(b"Connection: close", b"Connection: Upgrade, close")
    assert only(heliograph, sent).status_code == 400


def test_trailers_mean_nothing(heliograph: Heliograph) -> None:
    """What comes after a body in chunks is no header: neither a second Host nor an order to answer at once counts."""
    chunks = b"%x\r\n%s\r\n0\r\nHost: b\r\nPrefer: respond-async\r\nContent-Type: text/plain\r\n\r\n"
    sent = post(heliograph, b"Transfer-Encoding: chunked", b"Connection: close", body=chunks % (len(PICTURE), PICTURE))
    assert only(heliograph, sent).status_code == 200
