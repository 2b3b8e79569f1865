"""What comes back: over a raw socket, and what every refusal must look like."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MEMBERS = {"message", "type", "param", "code"}
SECONDS = 8


class Response(Protocol):
    """As much of an httpx.Response as a refusal shows itself in; a Reply has it too."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


class Reply(NamedTuple):
    """One reply as it came over the wire; the names of its headers in lower case."""

    status_code: int
    headers: dict[str, str]
    content: bytes


def refused(response: Response, status: int, code: str, param: str | None = None) -> str:
    """Checks that the reply is this refusal, in the whole shape of one. Returns its message."""
    error = refusal(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    return str(error["message"])


def refusal(response: Response) -> dict[str, Any]:
    """Checks that the reply is a refusal in OpenAI's shape, and no fault of ours. Returns the error object."""
    assert 400 <= response.status_code < 500, (response.status_code, response.content)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-should-retry"] == ("true" if response.status_code == 408 else "false")
    assert REQUEST_ID.fullmatch(response.headers["x-request-id"])
    assert (response.status_code == 401) == ("www-authenticate" in response.headers)
    body = json.loads(response.content)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == MEMBERS
    assert isinstance(error["message"], str)
    assert error["message"].isprintable()
    assert len(error["message"]) < 600
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert error["param"] is None or (error["param"].isprintable() and len(error["param"]) <= 300)
    return error


def exchange(address: tuple[str, int], data: bytes) -> list[Reply]:
    """Sends bytes, and reads replies until the server ends the connection, which it must do in time."""
    with socket.create_connection(address, timeout=SECONDS) as line:
        # The server may have heard enough before the end.
        with suppress(ConnectionError):
            line.sendall(data)
        return list(replies(until_end(line)))


def until_end(line: socket.socket) -> bytes:
    """Everything up to the end of the connection. Raises TimeoutError when it does not end in time."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := line.recv(65_536):
            received += chunk
    return bytes(received)


def replies(data: bytes) -> Iterator[Reply]:
    """The replies that the bytes of a connection hold."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = int(headers.get("content-length", 0))
        yield Reply(int(line.split(" ")[1]), headers, data[:length])
        data = data[length:]
