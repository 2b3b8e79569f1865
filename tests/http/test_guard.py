"""The guard around an application that misbehaves: a stand-in, as ours has no route that does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.dialects.errors import parts
from gateway.edge.guard import Guard

Application = Callable[[Any, Any, Any], Awaitable[None]]
SCOPE = {
    "type": "http", "method": "GET", "path": "/a\n%", "raw_path": b"/a%0a%25", "query_string": b"",
    "http_version": "1.1", "headers": [(b"host", b"a"), (b"x-request-id", b"mine")],
}  # fmt: skip


async def ask(application: Application, arriving: Callable[[], Awaitable[Any]], **changes: Any) -> list[dict[str, Any]]:
    """What the guard sends for one request to the application, whose body comes from `arriving`."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard: Any = Guard(application, parts, lambda: None, bodies=(10, 0.05), forms=(20, 0.1))
    await guard({**SCOPE, **changes}, arriving, send)
    return sent


async def nothing() -> Any:
    """A body that never comes."""
    await asyncio.Event().wait()


async def bursts(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a fault with a secret in it")


async def reads(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def streams_then_bursts(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("a fault in the middle")


async def listens_while_it_streams(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async with asyncio.timeout(0.2):
        await receive()


async def test_a_fault_of_the_application_is_a_500_in_the_usual_shape(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is told in no more words than needed, under the id that the log has with the detail."""
    start, body = await ask(bursts, nothing)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"x-request-id"], headers[b"x-should-retry"]) == (500, b"mine", b"false")
    assert json.loads(body["body"])["error"]["code"] == "internal_error"
    assert b"secret" not in body["body"]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "mine" in record.getMessage()


async def test_a_fault_after_the_reply_began_is_left_to_the_server() -> None:
    """A second reply cannot be sent: the server has to cut the connection, so that the client notices."""
    with pytest.raises(RuntimeError, match="in the middle"):
        await ask(streams_then_bursts, nothing)


async def test_a_body_that_does_not_come_is_a_408() -> None:
    """An application that reads gets no further than the deadline."""
    start, _ = await ask(reads, nothing)
    assert start["status"] == 408


async def test_a_body_that_is_too_large_in_pieces_is_a_413() -> None:
    """Pieces are added up."""

    async def piece() -> Any:
        return {"type": "http.request", "body": b"123456", "more_body": True}

    start, _ = await ask(reads, piece)
    assert start["status"] == 413


async def test_a_client_may_listen_as_long_as_it_is_answered() -> None:
    """Once a reply has begun, an application that waits for the client to go is not told that a body is late."""
    with pytest.raises(TimeoutError):
        await ask(listens_while_it_streams, nothing)


async def test_what_the_guard_refuses_never_reaches_the_application() -> None:
    """A length beyond the limit, or a Host that is none, is answered before the application is asked."""
    lengthy = [*SCOPE["headers"], (b"content-length", b"11")]
    start, body = await ask(bursts, nothing, headers=lengthy)
    assert (start["status"], json.loads(body["body"])["error"]["code"]) == (413, "payload_too_large")
    start, _ = await ask(bursts, nothing, headers=[(b"host", b"a:99999")])
    assert start["status"] == 400


async def test_head_reaches_the_application_as_get() -> None:
    """The application is asked for what it would send, and told that nobody will see the body."""
    seen: list[Any] = []

    async def looks(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["method"], scope["state"]["head"]))
        raise GatewayError("not_found", "There is nothing here.")

    start, _ = await ask(looks, nothing, method="HEAD")
    assert (seen, start["status"]) == ([("GET", True)], 404)
