"""Random input: whatever is sent, the answer is a success or a refusal in the one shape, and never a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.dialects.openai_images import ImageGenerationRequest
from gateway.dialects.openai_videos import VideoGenerationRequest
from tests.http.replies import exchange, refusal
from tests.http.server import Heliograph

# The gateway's own thread draws random numbers while an example is made, which Hypothesis takes for its strategies'.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
MEMBERS = [field.encode_name for field in msgspec.structs.fields(ImageGenerationRequest)]
MODELS = ["patient-image", "demo-image", "dall-e-2", "nothing"]
EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(max_size=40) | st.sampled_from(["auto", "", "256x256", "\0", "\u202e", "1", "x" * 600])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
names = st.sampled_from(MEMBERS) | texts
bodies = st.builds(
    lambda members, model, strict: {
        "prompt": "a",
        "size": "256x256",
        **members,
        "model": model,
        "async": True,
        **strict,
    },
    st.dictionaries(names, values, max_size=4),
    st.sampled_from(MODELS) | values,
    st.sampled_from([{}, {"strict": True}]),
)
films = st.dictionaries(
    st.sampled_from([field.encode_name for field in msgspec.structs.fields(VideoGenerationRequest)]) | texts,
    values | st.sampled_from(["5", 5, 5.0, "10", "720p", "1280x720", "16:9", "1e5", "\u0665"]),
    max_size=5,
)
segments = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["v1", "tasks", "images", "videos", "content", "media", "models", "generations", "admin", "keys", "..", "openapi"]
)
methods = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])


@pytest.fixture(scope="module")
def fuzzed(running: Heliograph) -> Iterator[httpx.Client]:
    """A client for all examples; what they bring about, nothing of it may be logged as an error of ours."""
    with running.client() as client:
        yield client
    assert [record.getMessage() for record in running.faults] == []


def check(reply: httpx.Response) -> None:
    """The reply is a success, or a refusal in the shape that all have."""
    if reply.status_code >= 400 and reply.request.method != "HEAD":
        refusal(reply)
    assert reply.status_code < 500


@EXAMPLES
@given(bodies)
def test_random_members_are_taken_or_refused(fuzzed: httpx.Client, body: dict[str, Any]) -> None:
    """Bodies with random members, known and unknown, of random values: a task, or a refusal."""
    content = json.dumps(body).encode()
    check(fuzzed.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"}))


@EXAMPLES
@given(films)
def test_random_members_of_films_are_taken_or_refused(fuzzed: httpx.Client, members: dict[str, Any]) -> None:
    """The same for films, by both routes and as a form."""
    body = {"prompt": "a", **members, "model": "patient-video"}
    content = json.dumps(body).encode()
    for path in ("/v1/video/generations", "/v1/videos"):
        check(fuzzed.post(path, content=content, headers={"Content-Type": "application/json"}))
    form = {name: (None, str(value).encode("utf-8", "surrogatepass")) for name, value in body.items()}
    check(fuzzed.post("/v1/videos", files=form))


@settings(EXAMPLES, max_examples=100)
@given(
    values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200),
    st.integers(0, 200),
    st.binary(max_size=3),
)
def test_random_bytes_are_taken_or_refused(fuzzed: httpx.Client, body: bytes, at: int, noise: bytes) -> None:
    """Bodies that are no objects, or no JSON, or JSON with noise in it: a refusal by one of four codes."""
    content = body[:at] + noise + body[at:]
    reply = fuzzed.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
    assert refusal(reply)["code"] in ("invalid_json", "missing_parameter", "invalid_parameter", "model_not_found")


@settings(EXAMPLES, max_examples=150)
@given(
    methods,
    st.lists(segments, max_size=6),
    st.dictionaries(
        st.sampled_from(["limit", "after", "order", "type", "model", "wait", "exp", "a"]),
        st.text(max_size=12),
        max_size=4,
    ),
)
def test_random_addresses_are_found_or_not(
    fuzzed: httpx.Client, method: str, path: list[str], query: dict[str, str]
) -> None:
    """Paths of random segments with random queries, by any method: something, or a refusal."""
    target = "/" + "/".join(quote(segment, safe="") for segment in path)
    check(fuzzed.request(method, target, params=query))


@settings(EXAMPLES, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"Host",
                    b"Prefer",
                    b"Range",
                    b"Accept",
                    b"Authorization",
                    b"X-Request-Id",
                    b"Content-Type",
                    b"Expect",
                    b"TE",
                    b"Upgrade",
                    b"X",
                ]
            ),
            st.binary(max_size=30),
        ),
        max_size=5,
    )
)
def test_random_headers_are_taken_or_refused(running: Heliograph, fields: list[tuple[bytes, bytes]]) -> None:
    """Headers with random bytes in them, line breaks included: each reply on the connection is one of ours."""
    lines = [b"GET /v1/models HTTP/1.1", b"Host: a", b"Connection: close", *(b"%s: %s" % field for field in fields)]
    for reply in exchange(running.address, b"\r\n".join((*lines, b"", b""))):
        refusal(reply)
