"""What all sockets have in common: from which pages they may be opened, how one is refused, and how it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from litestar.types import Scope, Send

ABORT = "abort"
"""The member of a socket's state that cuts it at once, also while it takes nothing."""


def page_may(scope: Scope, allowed: Sequence[str]) -> bool:
    """Whether a page of the request's origin may follow tasks: one of the list, or of this gateway.

    What is no browser says none, and may.
    """
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if not origins or "*" in allowed or (len(origins) == 1 and origins[0] in allowed):
        return True
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return [urlsplit(origin).netloc for origin in origins] == hosts


def base_of(scope: Scope) -> str:
    """The address that the client called, for links."""
    secure = scope["scheme"] in ("https", "wss")
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "localhost")
    return f"{'https' if secure else 'http'}://{host}"


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """What cuts the socket; None for a request that is none."""
    found: Callable[[], None] | None = scope.get("state", {}).get(ABORT)
    return found


async def answer(scope: Scope, send: Send, reply: tuple[int, list[tuple[bytes, bytes]], bytes]) -> None:
    """Answers a request, or one that would become a socket, with a status, headers and a body."""
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"  # type: ignore[comparison-overlap]  # Litestar's enum is a str
    status, headers, body = reply
    start: Any = {"type": f"{kind}.start", "status": status, "headers": headers}
    end: Any = {"type": f"{kind}.body", "body": body, "more_body": False}
    await send(start)
    await send(end)
