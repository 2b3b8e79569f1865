"""Heads: what a server may send before the body of its answer, bounded. Interim answers count."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

LARGEST_HEAD = 1 << 16
"""Bytes that may come before an answer's head is complete."""


class HeadTooLarge(aiohttp.ClientError):
    """The server sent LARGEST_HEAD bytes, and its answer had not begun."""


class Connector(aiohttp.TCPConnector):
    """Makes connections that break off when a head gets too large. One connection serves one request."""

    def __init__(self, **options: Any) -> None:
        super().__init__(force_close=True, **options)
        # aiohttp has no open way to say this. A test sees it where a new version goes another way.
        connection: type[ResponseHandler] = _Connection
        self._factory = partial(connection, loop=self._loop)


class _Connection(ResponseHandler):
    """Feeds the parser no more than may be of the head, then the body, and nothing of what comes behind.

    uvloop reads up to 8 MB before it lets anybody else run. Of tiny interim answers, each of which aiohttp takes apart,
    that is seconds in which the whole process stands still; and then come the next.
    """

    _left = LARGEST_HEAD
    _begun = False

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Takes an answer from the parser."""
        self._begun = self._begun or data[0].code >= 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Takes bytes from the server; none, when the parser is to go on with those that it has."""
        if not self._begun:
            head, data = data[: self._left], data[self._left :]
            self._left -= len(head)
            super().data_received(head)
            if not self._begun and not self._left:
                self.abort()
                self.set_exception(HeadTooLarge())
            if not data:
                return
        if self._payload is not None and not self._payload.is_eof():
            super().data_received(data)
