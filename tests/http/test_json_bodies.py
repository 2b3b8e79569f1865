"""JSON bodies of a create: each that is not understood is refused with the field's name, and makes no task."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.http.replies import refused
from tests.http.server import Heliograph

Post = Callable[..., httpx.Response]
GOOD = {"model": "patient-image", "prompt": "a fox", "async": True}


@pytest.fixture
def post(client: httpx.Client) -> Post:
    """Sends a body just as it is, as JSON unless the headers say otherwise."""

    def send(body: bytes, **headers: str) -> httpx.Response:
        fields = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return client.post("/v1/images/generations", content=body, headers=fields)

    return send


def sound(**members: Any) -> bytes:
    """A body that is accepted, with these members."""
    return json.dumps({**GOOD, **members}).encode()


def spliced(member: str) -> bytes:
    """A body that would be accepted, with a member written out by hand."""
    return sound()[:-1] + b"," + member.encode() + b"}"


def nested(depth: int) -> str:
    """Lists within lists."""
    return "[" * depth + "]" * depth


UNREADABLE = {
    "truncated": b'{"prompt":',
    "blank": b"  ",
    "NUL": b"\0",
    "garbage after": sound() + b" x",
    "two bodies": sound() + sound(),
    "trailing comma": spliced('"n":1,'),
    "comment": spliced('"n":1/* one */'),
    "single quotes": b"{'prompt':'a'}",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "not UTF-8": b'{"model":"patient-image","prompt":"\xff"}',
    "a name not in UTF-8": spliced('"n":1').replace(b'"n"', b'"\xff"'),
    "an overlong form": b'{"model":"patient-image","prompt":"\xc0\xaf"}',
    "UTF-16": sound().decode().encode("utf-16"),
    "UTF-32": sound().decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + sound(),
    "NaN": spliced('"cfg_scale":NaN'),
    "Infinity": spliced('"cfg_scale":-Infinity'),
    "no finite number": spliced('"cfg_scale":1e999'),
    "5,000 digits": spliced('"n":' + "1" * 5000),
    "5,000 digits in an unknown field": spliced('"zzz":-' + "1" * 5000),
    "octal": spliced('"n":01'),
    "hexadecimal": spliced('"n":0x1'),
    "half a surrogate pair": spliced('"user":"\\ud800"'),
    "a pair the wrong way round": spliced('"zzz":"\\udc00\\ud800"'),
    "half a pair as a name": spliced('"\\ud800":1'),
    "a control character": b'{"model":"patient-image","prompt":"a\nb"}',
    "far too deep": spliced('"provider_options":' + nested(100_000)),
    "far too deep and unknown": spliced('"zzz":' + nested(100_000)),
    "too deep": spliced('"metadata":' + nested(900)),
    "too deep and unknown": spliced('"zzz":' + nested(400)),
    "too deep by one": spliced('"note":' + nested(64)),
    "too deep in objects": spliced('"provider_options":' + '{"a":' * 500 + "1" + "}" * 500),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_json_object_is_refused(post: Post, body: bytes) -> None:
    """Whatever is wrong with the text of a body, known or unknown fields alike, it is `invalid_json`."""
    refused(post(body), 400, "invalid_json")


WRONG = [
    ("n", '"1"'), ("n", "1.0"), ("n", "1.5"), ("n", "true"), ("n", "[]"), ("n", "1" + "0" * 30), ("n", "1e2"),
    ("n", "0"), ("n", "-1"), ("n", "11"), ("n", "2147483648"), ("n", "9223372036854775808"),
    ("prompt", "1"), ("prompt", "{}"), ("prompt", '"\\u0000"'), ("prompt", '"a\\u0000b"'), ("model", "1"),
    ("model", '"a\\u0000"'), ("async", "1"), ("async", '"yes"'), ("stream", '"no"'), ("strict", "0"),
    ("user", "1"), ("user", '"a\\u0000"'), ("user", '"' + "a" * 10_000 + '"'), ("zzz", '"\\u0000"'),
    ("zzz", '[{"a":["\\u0000"]}]'),
    ("note", '{"\\u0000":1}'), ("size", "1024"), ("size", "{}"), ("size", '"' + "1" * 33 + '"'),
    ("response_format", '"xml"'),
    ("response_format", "1"), ("response_format", '"' + "a" * 10_000 + '"'), ("response_format", '"\\u001b[31m"'),
    ("metadata", "[]"), ("metadata", '"a"'), ("metadata", '{"a":1}'), ("metadata", '{"a":{}}'),
    ("metadata", '{"a":null}'),
    ("metadata", '{"%s":"a"}' % ("a" * 65)), ("metadata", '{"a":"%s"}' % ("a" * 513)), ("metadata", '{"a":"\\u0000"}'),
    ("metadata", json.dumps({str(number): "a" for number in range(17)})), ("provider_options", "[]"),
    ("provider_options", '{"\\u0000":1}'), ("partial_images", "4"), ("partial_images", "1"), ("aspect_ratio", "1"),
    ("aspect_ratio", '"' + "1" * 17 + '"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value[:24]}" for name, value in WRONG])
def test_a_value_of_the_wrong_kind_is_refused_by_its_name(post: Post, name: str, value: str) -> None:
    """A field that is no such thing, or too long, or too large, or holds NUL, is named in `param`."""
    refused(post(spliced(f'"{name}":{value}')), 400, "invalid_parameter", name)


@pytest.mark.parametrize("name", ["model", "prompt"])
def test_what_must_be_there_is_missed_by_its_name(post: Post, name: str) -> None:
    """A required field that is absent or null is `missing_parameter`; a body without any field misses the first."""
    body = {key: value for key, value in GOOD.items() if key != name}
    refused(post(json.dumps(body).encode()), 400, "missing_parameter", name)
    refused(post(json.dumps({**body, name: None}).encode()), 400, "missing_parameter", name)
    refused(post(b""), 400, "missing_parameter", "model")
    refused(post(b"{}"), 400, "missing_parameter", "model")


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\u2028\u3000"])
def test_a_prompt_of_nothing_is_missing(post: Post, prompt: str) -> None:
    """White space of any kind asks for no picture."""
    refused(post(sound(prompt=prompt)), 400, "missing_parameter", "prompt")


STRANGE = [
    "promt",
    "__proto__",
    "constructor",
    "__class__",
    "$ref",
    "$where",
    "api_base",
    "base_url",
    "api_key",
    "user_config",
    "extra_headers",
    "mock_response",
    "provider",
    "",
    "a" * 10_000,
    "\u202e",
    "\x1b[31m",
    "😀",
]


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_unknown_members_are_ignored_unless_the_request_is_strict(post: Post, name: str) -> None:
    """A member that nobody knows changes nothing, or with `strict` is refused by its name, which is shown harmless."""
    assert post(sound(**{name: {"api_base": "http://evil.example"}})).status_code == 202
    shown = name[:64] if name.isprintable() else ascii(name)[1:-1]
    message = refused(post(sound(**{name: 1, "strict": True})), 400, "unsupported_parameter", shown)
    assert len(message) < 300


def test_no_option_for_a_provider_leads_elsewhere(post: Post) -> None:
    """What is not on the model's card is refused within `provider_options`, strict or not."""
    for name in ("api_base", "base_url", "headers", "__proto__"):
        refused(post(sound(provider_options={name: "http://evil.example"})), 400, "unsupported_parameter", name)


def test_null_counts_as_absent(post: Post) -> None:
    """Clients that write out every field as null get the defaults."""
    assert post(sound(n=None, size=None, user=None, metadata=None, stream=None, zzz=None)).status_code == 202


def test_the_last_of_two_members_of_a_name_counts(post: Post) -> None:
    """A name that is given twice is read once, the same way everywhere: as the last says."""
    refused(post(spliced('"n":2,"n":"x"')), 400, "invalid_parameter", "n")
    assert post(spliced('"n":"x","n":2')).status_code == 202


@pytest.mark.parametrize(
    "prompt",
    ["😀 fox", "\u202ea fox\u202c", "a\u200bfox", "\x01\x1b[31m", "\ufeff", "e" + "\u0301" * 31_999, "\\u0000"],
)
def test_odd_prompts_are_prompts(client: httpx.Client, post: Post, prompt: str) -> None:
    """Emoji, marks and invisible characters are stored and given back as they came; only NUL is not taken."""
    reply = post(sound(prompt=prompt, metadata={prompt[:64]: prompt[:512]}))
    assert reply.status_code == 202
    assert client.get(f"/v1/tasks/{reply.json()['id']}").json()["metadata"] == {prompt[:64]: prompt[:512]}


def test_a_member_that_is_passed_on_may_be_as_deep_as_is_read(post: Post) -> None:
    """The deepest body that is read is also stored."""
    assert post(spliced('"note":' + nested(63))).status_code == 202


def test_very_many_members_are_read_quickly(post: Post) -> None:
    """A body of as many names as fit is accepted, for they mean nothing, and in a moment."""
    many = ",".join(f'"k{number}":1' for number in range(300_000))
    reply = post(spliced(many))
    assert reply.status_code == 202
    assert reply.elapsed.total_seconds() < 5


TYPES = [
    "text/plain",
    "",
    "application/json; charset=utf-7",
    "application/json; charset=latin-1",
    "application/x-www-form-urlencoded",
    "application/x-msgpack",
    "application/xml",
    "application/jsonp",
    "application/json, text/plain",
    "text/json",
    "json",
    "a" * 5000,
]


@pytest.mark.parametrize("kind", TYPES, ids=range(len(TYPES)))
def test_another_media_type_is_not_taken(post: Post, kind: str) -> None:
    """A body is JSON only when it is said to be, in UTF-8."""
    refused(post(sound(), Content_Type=kind), 415, "unsupported_media_type")


def test_no_media_type_is_not_taken(heliograph: Heliograph) -> None:
    """A body that nobody says anything about is not guessed at."""
    with heliograph.client() as client:
        request = client.build_request("POST", "/v1/images/generations", content=sound())
        assert "content-type" not in request.headers
        refused(client.send(request), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    [
        "APPLICATION/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/vnd.api+json",
    ],
)
def test_json_goes_by_several_names(post: Post, kind: str) -> None:
    """Case, the charset and a suffix are no reason to refuse."""
    assert post(sound(), Content_Type=kind).status_code == 202


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"])
def test_a_compressed_body_is_not_taken(post: Post, coding: str) -> None:
    """No body is unpacked, so none can blow up."""
    refused(post(gzip.compress(b" " * 1_000_000), Content_Encoding=coding), 415, "unsupported_media_type")


def test_a_compressed_body_that_does_not_say_so_is_no_json(post: Post) -> None:
    """Compression without the header is bytes that are no text."""
    refused(post(gzip.compress(sound())), 400, "invalid_json")
    assert post(sound(), Content_Encoding="Identity").status_code == 202


def test_the_admin_reads_bodies_by_the_same_rules(heliograph: Heliograph, admin: httpx.Client) -> None:
    """A key to issue is understood whole or not at all: no member is ignored there."""
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({}, "missing_parameter", "name"),
        ({"name": ""}, "invalid_parameter", "name"),
        ({"name": "a" * 129}, "invalid_parameter", "name"),
        ({"name": "a\0"}, "invalid_parameter", "name"),
        ({"name": "a", "expires_at": -1}, "invalid_parameter", "expires_at"),
        ({"name": "a", "expires_at": 1}, "invalid_parameter", "expires_at"),
        ({"name": "a", "expires_at": 10**18}, "invalid_parameter", "expires_at"),
        ({"name": "a", "expires_at": 1.5}, "invalid_parameter", "expires_at"),
        ({"name": "a", "key": "too short"}, "invalid_parameter", "key"),
        ({"name": "a", "key": "é" * 20}, "invalid_parameter", "key"),
        ({"name": "a", "key": "two words " * 3}, "invalid_parameter", "key"),
        ({"name": "a", "key": heliograph.key}, "invalid_parameter", "key"),
        ({"name": "a", "role": "admin"}, "unsupported_parameter", "role"),
    ]
    before = [one["id"] for one in admin.get("/admin/v1/keys").json()["data"]]
    for body, code, param in wrong:
        refused(admin.post("/admin/v1/keys", json=body), 400, code, param)
    assert [one["id"] for one in admin.get("/admin/v1/keys").json()["data"]] == before


def test_a_refused_request_makes_no_task(heliograph: Heliograph) -> None:
    """After a row of refusals, a key that was never granted anything has no task."""
    with heliograph.client(heliograph.other_key) as client:
        before = client.get("/v1/tasks?limit=100").json()["data"]
        for body in [*UNREADABLE.values(), *(spliced(f'"{name}":{value}') for name, value in WRONG)]:
            client.post("/v1/images/generations", content=body, headers={"Content-Type": "application/json"})
        assert client.get("/v1/tasks?limit=100").json()["data"] == before
