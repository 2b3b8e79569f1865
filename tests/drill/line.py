"""A line: a proxy that can also lose what comes back, or hold everything up."""

from __future__ import annotations

import asyncio
import contextlib

from tests.proxy import Proxy


class Line(Proxy):
    """A muted line passes on what is sent and loses the answers; a stalled one keeps both until it goes on."""

    _muted = False
    _stalled = False

    def mute(self) -> None:
        """From now on answers are lost."""
        self._muted = True

    def stall(self) -> None:
        """From now on everything waits."""
        self._stalled = True

    def mend(self) -> None:
        """Lets everything through. What was muted has lost bytes for good, so its connections are reset."""
        if self._muted:
            self.cut()
        self._muted = self._stalled = False
        super().mend()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while self._stalled:  # noqa: ASYNC110 - another thread ends it
                    await asyncio.sleep(0.05)
                if not (answers and self._muted):
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
