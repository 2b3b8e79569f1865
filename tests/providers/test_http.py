"""Http: what each status, header, body and broken connection becomes. The connections here are real sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trustme

from providers.card import Card, ErrorClass
from providers.contract import (
    BadCredential,
    Blocked,
    Broken,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
    Unsure,
)
from providers.fault import Fault
from providers.http import Http
from providers.line import MAX_BODY, MAX_REASON
from tests.providers.sockets import (
    OK,
    Behaviour,
    answers,
    answers_half,
    drips,
    hangs_up,
    resets,
    says_nothing,
    sets_a_cookie,
    speaks_no_http,
    upstream,
)

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
SECRET = "sk-test-0123456789abcdef"


class Ok(msgspec.Struct):
    """The answer of a well-behaved upstream."""

    ok: bool


def card(timeout: float = 5.0, errors: dict[str, ErrorClass] | None = None) -> Card:
    """A card of a vendor named acme."""
    return Card(
        name="acme",
        title="Acme",
        checked_on=dt.date(2026, 11, 21),
        base_url="http://acme.test",
        timeout=timeout,
        errors=errors or {},
    )


@asynccontextmanager
async def http(
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    *,
    base_url: str | None = None,
    timeout: float = 5.0,
    errors: dict[str, ErrorClass] | None = None,
    max_body: int = MAX_BODY,
) -> AsyncIterator[Http]:
    """An Http over a handler, or over real connections."""
    transport = httpx.MockTransport(handler) if handler else None
    made = Http(
        card(timeout, errors),
        base_url=base_url,
        secrets={"api_key": SECRET},
        transport=transport,
        connect_timeout=min(timeout, 5.0),
        max_body=max_body,
        now=lambda: NOW,
    )
    try:
        yield made
    finally:
        await made.close()


async def failure(
    status: int, body: Any = None, *, paid: bool, headers: dict[str, str] | None = None, **options: Any
) -> ProviderError:
    """What a call raises that is answered with this status and body."""
    response = httpx.Response(status, json=body, headers=headers)
    async with http(lambda request: response, **options) as made:
        with pytest.raises(ProviderError) as caught:
            await made.send("POST", "/order", paid=paid)
    return caught.value


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("status", "paid", "unpaid"),
    [
        (302, Broken, Broken),
        *((status, Refused, Refused) for status in (400, 404, 405, 409, 413, 415, 418, 422)),
        *((status, BadCredential, BadCredential) for status in (401, 402, 403)),
        (408, Unsure, Unavailable),
        (429, RateLimited, RateLimited),
        *((status, Unsure, Unavailable) for status in (500, 502, 503, 504, 520, 529)),
    ],
)
async def test_each_status_has_its_class(status: int, paid: type[ProviderError], unpaid: type[ProviderError]) -> None:
    """A status becomes its class, and only a call that may cost money can be unsure."""
    assert type(await failure(status, paid=True)) is paid
    assert type(await failure(status, paid=False)) is unpaid


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"error": {"code": "nsfw", "type": "user_error"}}, Blocked),
        ({"error": {"code": None, "type": "nsfw"}}, Blocked),
        ({"error": {"code": "unheard_of", "type": "out_of_money"}}, RateLimited),
        ({"code": "gone_mad"}, Broken),
        ({"error": {"code": 1027}}, Blocked),
        ({"error": {"code": "unheard_of"}}, Refused),
    ],
)
async def test_the_cards_table_wins_over_the_status(body: Any, wanted: type[ProviderError]) -> None:
    """A code or type that the card knows decides, the code first; one that it does not know leaves it to the status."""
    errors: dict[str, ErrorClass] = {
        "nsfw": "blocked",
        "1027": "blocked",
        "out_of_money": "rate_limited",
        "gone_mad": "broken",
        "user_error": "refused",
    }
    assert type(await failure(400, body, paid=True, errors=errors)) is wanted


@pytest.mark.parametrize("status", [502, 503, 529])
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"error": {"code": "overloaded"}}, Unavailable),
        ({"error": {"type": "overloaded", "code": None}}, Unavailable),
        ({"error": {"code": "slow_down"}}, RateLimited),
        ({"error": {"code": "unheard_of"}}, Unsure),
        ({"message": "no healthy upstream"}, Unsure),
        (None, Unsure),
    ],
)
async def test_only_the_vendors_own_code_says_that_an_order_was_not_taken(
    status: int, body: Any, wanted: type[ProviderError]
) -> None:
    """A proxy may give up on an order that it had passed on, so its 5xx alone never lets an order be sent again."""
    errors: dict[str, ErrorClass] = {"overloaded": "unavailable", "slow_down": "rate_limited"}
    assert type(await failure(status, body, paid=True, errors=errors)) is wanted


async def test_unsure_in_the_cards_table_is_for_paid_calls_alone() -> None:
    """A code that the card calls unsure makes a read merely unavailable."""
    body, errors = {"error": {"code": "who_knows"}}, {"who_knows": "unsure"}
    assert type(await failure(400, body, paid=True, errors=errors)) is Unsure
    assert type(await failure(400, body, paid=False, errors=errors)) is Unavailable


async def test_the_vendors_words_are_passed_on() -> None:
    """Message, code and param of the vendor reach the caller."""
    body = {"error": {"message": "Too wide.", "code": "invalid_value", "type": "user_error", "param": "size"}}
    error = await failure(400, body, paid=True)
    assert (error.message, error.code, error.param) == ("Too wide.", "invalid_value", "size")


@pytest.mark.parametrize("body", [None, [], {}, {"error": None}, {"error": {"message": 7}}, {"error": {"code": ""}}])
async def test_an_error_without_words_names_vendor_and_status(body: Any) -> None:
    """A body of no known shape still gives a message, and the class of its status."""
    error = await failure(400, body, paid=True)
    assert (type(error), error.message, error.code) == (Refused, "Acme answered with status 400", None)


async def test_error_text_is_taken_where_the_error_is_mere_text() -> None:
    """`{"error": "text"}` is understood."""
    assert (await failure(400, {"error": "no such model"}, paid=True)).message == "no such model"


async def test_an_error_body_that_is_no_json_is_not_passed_on() -> None:
    """The page of some proxy tells the caller nothing, so it gets the status alone."""
    async with http(lambda request: httpx.Response(502, text="<h1>Bad gateway</h1>")) as made:
        with pytest.raises(Unsure, match=r"^Acme answered with status 502$"):
            await made.send("POST", "/order", paid=True)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f"bad key {SECRET}!", "bad key [removed]!"),
        ("bad key sk-proj-abc***wxyz.", "bad key [removed]"),
        ("sent Bearer abc.def", "sent [removed]"),
        ("see https://acme.test/help?key=1 for help", "see [removed] for help"),
        ("one\r\ntwo\x00three\x1b[31m\u202efour", "one two three [31m four"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
async def test_messages_are_cleaned(words: str, shown: str) -> None:
    """Secrets, addresses and control characters are taken out of the vendor's message, and it is cut."""
    assert (await failure(400, {"error": {"message": words}}, paid=True)).message == shown


async def test_code_and_param_are_cleaned_too() -> None:
    """A credential cannot come back through code or param either."""
    error = await failure(400, {"error": {"code": f"c{SECRET}", "param": SECRET * 9}}, paid=True)
    assert SECRET not in f"{error.code}{error.param}"
    assert len(error.param or "") <= 64


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "315360000"}, 120.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2036 12:00:00 GMT"}, 120.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "?", "retry-after": "9"}, 9.0),
    ],
)
@pytest.mark.parametrize(("status", "paid"), [(429, True), (503, False)])
async def test_retry_after_is_read(status: int, paid: bool, headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are understood and bounded; nonsense is ignored."""
    error = await failure(status, paid=paid, headers=headers)
    assert isinstance(error, RateLimited | Unavailable)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("raised", "paid", "unpaid"),
    [
        (httpx.ConnectError("no"), Unavailable, Unavailable),
        (httpx.ConnectTimeout("no"), Unavailable, Unavailable),
        (httpx.PoolTimeout("no"), Unavailable, Unavailable),
        (httpx.UnsupportedProtocol("no"), Unavailable, Unavailable),
        (httpx.ReadTimeout("no"), Unsure, Unavailable),
        (httpx.WriteTimeout("no"), Unsure, Unavailable),
        (httpx.ReadError("no"), Unsure, Unavailable),
        (httpx.WriteError("no"), Unsure, Unavailable),
        (httpx.CloseError("no"), Unsure, Unavailable),
        (httpx.RemoteProtocolError("no"), Unsure, Unavailable),
        (httpx.DecodingError("no"), Broken, Broken),
    ],
)
async def test_each_exception_has_its_class(
    raised: Exception, paid: type[ProviderError], unpaid: type[ProviderError]
) -> None:
    """What httpx raises becomes its class, with the cause kept and nothing of its text shown."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    async with http(fail) as made:
        with pytest.raises(paid) as caught:
            await made.send("POST", "/order", paid=True)
        with pytest.raises(unpaid):
            await made.send("GET", "/order", paid=False)
    assert caught.value.__cause__ is raised
    assert caught.value.message.startswith("Acme ")


async def test_strangers_pass() -> None:
    """An exception that is not about the call, a bug for instance, is not dressed up as a vendor's failure."""
    async with http() as made:
        with pytest.raises(KeyError):
            async with made.guard(paid=True):
                raise KeyError("bug")


@pytest.mark.parametrize(
    ("behave", "paid", "unpaid"),
    [
        (resets, Unsure, Unavailable),
        (hangs_up, Unsure, Unavailable),
        (says_nothing, Unsure, Unavailable),
        (answers_half, Unsure, Unavailable),
        (drips, Unsure, Unavailable),
        (speaks_no_http, Unsure, Unavailable),
    ],
)
async def test_a_connection_that_fails_after_the_request_arrived(
    behave: Behaviour, paid: type[ProviderError], unpaid: type[ProviderError]
) -> None:
    """However the connection dies once the order was read, or drags on, a paid call is unsure and was sent once."""
    async with upstream(behave) as server, http(base_url=server.base_url, timeout=0.3) as made:
        async with asyncio.timeout(10):
            with pytest.raises(paid):
                await made.request("POST", "/order", Ok, json={"prompt": "sun"}, paid=True)
            assert len(server.requests) == 1
            assert server.requests[0].endswith(b'{"prompt":"sun"}')
            with pytest.raises(unpaid):
                await made.request("GET", "/order", Ok, paid=False)


async def test_an_order_is_not_repeated_when_a_used_connection_dies() -> None:
    """A kept connection that dies under a POST makes it unsure: nobody below sends it again."""
    async with upstream(answers, hangs_up, answers) as server, http(base_url=server.base_url) as made:
        assert (await made.request("POST", "/order", Ok, json={}, paid=True)).ok
        with pytest.raises(Unsure):
            await made.request("POST", "/order", Ok, json={}, paid=True)
        assert len(server.requests) == 2


async def test_what_is_said_unasked_answers_nobody() -> None:
    """What a vendor sends over an idle connection is not taken for the answer to the next order, which is another's."""
    answered, said = asyncio.Event(), asyncio.Event()

    async def speaks_again(writer: asyncio.StreamWriter) -> bool:
        await answers(writer)
        await answered.wait()
        writer.write(OK.replace(b"true", b"null"))
        await writer.drain()
        said.set()
        return True

    async with upstream(speaks_again, answers) as server, http(base_url=server.base_url) as made:
        assert (await made.request("POST", "/order", Ok, json={}, paid=True)).ok
        answered.set()
        await said.wait()
        for _ in range(5):
            # The loop hears what has been said.
            await asyncio.sleep(0)
        assert (await made.request("POST", "/order", Ok, json={}, paid=True)).ok
        assert (server.connections, len(server.requests)) == (2, 2)


async def test_silent_connections_are_used_again() -> None:
    """Orders in turn go over one connection."""
    async with upstream(answers) as server, http(base_url=server.base_url) as made:
        for _ in range(3):
            await made.request("POST", "/order", Ok, json={}, paid=True)
        assert (server.connections, len(server.requests)) == (1, 3)


async def test_cookies_are_not_kept() -> None:
    """What a vendor sets with one answer does not go along with the order of another caller."""
    async with upstream(sets_a_cookie) as server:
        # One of two jars would keep none of a bare address, the other none of this name.
        for base_url in (server.base_url, server.base_url.replace("127.0.0.1", "localhost")):
            async with http(base_url=base_url) as made:
                for _ in range(2):
                    await made.request("GET", "/order", Ok, paid=False)
    assert len(server.requests) == 4
    assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_a_refused_connection_took_nothing() -> None:
    """Where nobody listens, a paid call is surely not accepted."""
    async with http(base_url=f"http://127.0.0.1:{free_port()}") as made:
        with pytest.raises(Unavailable):
            await made.send("POST", "/order", paid=True)


async def test_a_connection_that_is_never_made_took_nothing() -> None:
    """A server that accepts no connection in time was not sent a paid call."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            async with http(base_url=f"http://127.0.0.1:{port}", timeout=0.2) as made:
                with pytest.raises(Unavailable):
                    await made.send("POST", "/order", paid=True)


async def test_a_server_that_never_shakes_hands_took_nothing() -> None:
    """A TLS handshake that is not finished in time means that the order was not sent."""
    async with (
        upstream(answers, scheme="https") as server,
        http(base_url=server.base_url, timeout=0.2) as made,
    ):
        with pytest.raises(Unavailable):
            await made.send("POST", "/order", paid=True)
        assert server.requests == []


async def test_a_server_with_a_foreign_certificate_took_nothing() -> None:
    """A certificate that nobody vouches for is not accepted, and the order is not sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with (
        upstream(answers, tls=context, scheme="https") as server,
        http(base_url=server.base_url) as made,
    ):
        with pytest.raises(Unavailable):
            await made.send("POST", "/order", paid=True)
        assert server.requests == []


async def test_redirects_are_not_followed() -> None:
    """A credential does not travel to where a redirect points, and an order is not sent twice."""
    seen: list[str] = []

    def redirect(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://elsewhere.test/"})

    async with http(redirect) as made:
        with pytest.raises(Broken):
            await made.send("POST", "/order", paid=True)
    assert seen == ["acme.test"]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable does not divert a call."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    async with upstream(answers) as server, http(base_url=server.base_url) as made:
        assert (await made.request("GET", "/order", Ok, paid=False)).ok


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("claimed", [False, True])
async def test_bodies_are_bounded(packed: bool, claimed: bool) -> None:
    """An answer of just the bound is read; one beyond it is broken off, also when it is only that large unpacked."""

    def answer(size: int) -> httpx.Response:
        content = gzip.compress(bytes(size)) if packed else bytes(size)
        headers = {"content-encoding": "gzip"} if packed else {}
        return httpx.Response(200, content=content if claimed else _chunks(content), headers=headers)

    async with http(lambda request: answer(1000), max_body=1000) as made:
        assert (await made.send("POST", "/order", paid=True)).content == bytes(1000)
    async with http(lambda request: answer(1001), max_body=1000) as made:
        with pytest.raises(Broken, match="larger than 1000 bytes"):
            await made.send("POST", "/order", paid=True)


async def test_an_answer_that_claims_too_much_is_not_read() -> None:
    """A length beyond the bound is enough to break the answer off."""

    async def content() -> AsyncIterator[bytes]:
        raise AssertionError("the answer was read")
        yield b""

    answer = httpx.Response(200, content=content(), headers={"content-length": "1001"})
    async with http(lambda request: answer, max_body=1000) as made:
        with pytest.raises(Broken):
            await made.send("POST", "/order", paid=True)


async def test_of_an_error_the_beginning_is_read() -> None:
    """What an error says is cut and not refused, for its status tells more than that its body is too large."""
    read = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**16
            yield bytes(2**16)

    async with http(lambda request: httpx.Response(429, content=content())) as made:
        with pytest.raises(RateLimited):
            await made.send("POST", "/order", paid=True)
    assert read == MAX_REASON


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**16):
        yield content[start : start + 2**16]


async def test_a_packed_answer_is_read() -> None:
    """A vendor that packs its answer although we ask for it plain is understood."""
    packed = httpx.Response(200, content=gzip.compress(b'{"ok":true}'), headers={"content-encoding": "gzip"})
    async with http(lambda request: packed) as made:
        assert (await made.request("GET", "/order", Ok, paid=False)).ok


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"ok":"yes"}', b'{"no":true}', b"[" * 100_000, b"\xff\xfe"])
async def test_a_successful_answer_that_makes_no_sense_is_broken(body: bytes) -> None:
    """An accepted call may be billed already, so nonsense is Broken, which is never sent again."""
    async with http(lambda request: httpx.Response(200, content=body)) as made:
        with pytest.raises(Broken):
            await made.request("POST", "/order", Ok, paid=True)


async def test_the_request_is_what_was_asked_for() -> None:
    """Method, address, query, headers and JSON arrive as given, under the path of the base URL."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    async with http(keep, base_url="http://acme.test/v1/") as made:
        await made.request("POST", "/x", Ok, json={"a": 1}, params={"q": "é"}, headers={"x-key": "k"}, paid=True)
    assert str(seen[0].url) == "http://acme.test/v1/x?q=%C3%A9"
    assert seen[0].headers["x-key"] == "k"
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].content == b'{"a":1}'


@pytest.mark.parametrize(("method", "path"), [("GET", "/x"), ("PUT", "/x"), ("POST", "x"), ("POST", "http://b.test/")])
async def test_calls_that_could_do_harm_are_not_made(method: str, path: str) -> None:
    """A paid call is a POST, since others may be repeated below; and a path cannot name another host."""
    async with http(lambda request: httpx.Response(200)) as made:
        with pytest.raises(ValueError, match="because"):
            await made.send(method, path, paid=True)


def test_secrets_are_not_shown() -> None:
    """The repr names the vendor only."""
    assert repr(Http(card(), secrets={"api_key": SECRET})) == "Http(acme)"


async def test_a_failed_job_is_judged_by_the_card() -> None:
    """A fault found in a job becomes the class of its code, or the one that the adapter falls back to."""
    async with http(errors={"NSFW": "blocked"}) as made:
        assert type(made.failure(Fault("no", ("NSFW",)))) is Blocked
        assert type(made.failure(Fault("no", ("OTHER",)))) is Broken
        assert type(made.failure(Fault("no", ("OTHER",)), "unavailable")) is Unavailable
        assert made.failure(Fault()).message == "Acme gave no reason"


async def test_a_vendor_may_read_its_own_error_bodies() -> None:
    """The reader that an adapter sets is used instead of the common one."""
    async with http(lambda request: httpx.Response(400, json=["odd", "shape"]), errors={"odd": "blocked"}) as made:
        made.fault = lambda body: Fault(body[1], (body[0],))
        with pytest.raises(Blocked, match="shape"):
            await made.send("POST", "/order", paid=True)
