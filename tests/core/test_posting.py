"""POSTs to strangers: what is sent, what of the answer is read, and that no answer can hold us up or lead us on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from gateway.core.outbound import Blocked, Outbound, OutboundError, Policy, Reply
from tests.core.receivers import Receiver, Talk, endless, never

BODY = '{"a":"é"}'.encode()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """A guard that lets loopback pass."""
    made = Outbound(Policy(allow=("127.0.0.1",)), tls=ssl.create_default_context())
    yield made
    await made.close()


async def send(outbound: Outbound, receiver: Receiver, *, timeout: float = 5.0, limit: int = 100) -> Reply:
    """Sends the body to the receiver."""
    headers = {"Content-Type": "application/json", "X-Mine": "yes"}
    return await outbound.post(receiver.url("a?b=c"), BODY, headers, limit=limit, timeout=timeout)


async def test_body_and_headers_arrive_as_they_are(outbound: Outbound) -> None:
    """The receiver gets the very bytes, our headers, and no credential or cookie."""
    async with Receiver().listening() as receiver:
        reply = await send(outbound, receiver)
    assert reply == Reply(200, "heard", None)
    (heard,) = receiver.heard
    assert heard.body == BODY
    assert (heard.headers["content-type"], heard.headers["x-mine"]) == ("application/json", "yes")
    assert set(heard.headers) == {
        "host", "content-type", "x-mine", "user-agent", "accept", "accept-encoding", "content-length", "connection",
    }  # fmt: skip


@pytest.mark.parametrize("status", [204, 400, 404, 410, 429, 500, 503])
async def test_any_status_is_an_answer(outbound: Outbound, status: int) -> None:
    """Nothing is raised for what a receiver says, and its advice when to come again is passed on."""
    answer = f"HTTP/1.1 {status} Said\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".encode()
    async with Receiver(answer).listening() as receiver:
        assert await send(outbound, receiver) == Reply(status, "", "7")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(outbound: Outbound, status: int) -> None:
    """Wherever it leads, nobody connects there: it is an answer like any other."""
    async with Receiver().listening() as decoy:
        answer = f"HTTP/1.1 {status} Said\r\nLocation: {decoy.url()}\r\nContent-Length: 0\r\n\r\n".encode()
        async with Receiver(answer).listening() as receiver:
            assert (await send(outbound, receiver)).status == status
    assert decoy.heard == []


async def test_an_endless_answer_ends(outbound: Outbound) -> None:
    """The status counts, and no more than the beginning of a body without end is read."""
    async with Receiver(endless).listening() as receiver:
        assert await send(outbound, receiver) == Reply(200, "x" * 100, None)


async def dripping(writer: asyncio.StreamWriter) -> None:
    """A status, and then a byte at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nab")
    await writer.drain()
    await never(writer)


async def test_a_status_counts_although_the_rest_never_comes(outbound: Outbound) -> None:
    """A receiver that says 200 and then nothing has taken it."""
    async with Receiver(dripping).listening() as receiver:
        assert await send(outbound, receiver, timeout=1.5) == Reply(200, "ab", None)


async def informing(writer: asyncio.StreamWriter) -> None:
    """Informational answers without end."""
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.01)


async def many_headers(writer: asyncio.StreamWriter) -> None:
    """Headers without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Header: value\r\n" * 1000)
        await writer.drain()


@pytest.mark.parametrize("talk", [never, informing, many_headers])
async def test_what_never_answers_is_given_up(outbound: Outbound, talk: Talk) -> None:
    """No status within the time is an error, whatever else is sent meanwhile."""
    async with Receiver(talk).listening() as receiver:
        with pytest.raises(OutboundError):
            await send(outbound, receiver, timeout=0.3)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200"])
async def test_what_is_no_answer_is_an_error(outbound: Outbound, answer: bytes) -> None:
    """A receiver that hangs up, or speaks no HTTP, has not taken it."""
    async with Receiver(answer).listening() as receiver:
        with pytest.raises(OutboundError):
            await send(outbound, receiver)


async def test_what_is_refused_is_not_dialled() -> None:
    """Without the allowance the same URL is Blocked, and nobody connects."""
    outbound = Outbound(Policy(ports=(80, 443)), tls=ssl.create_default_context())
    async with Receiver().listening() as receiver:
        with pytest.raises(Blocked):
            await send(outbound, receiver)
    assert receiver.heard == []
    await outbound.close()
