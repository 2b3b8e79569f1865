"""A TCP proxy that can be cut: stands before a service that a test must not really stop, for others use it too."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading


class Proxy:
    """Passes bytes between clients and `host:port` until it is cut; runs in a thread of its own.

    With `tls` clients speak TLS with it, as with a proxy before a gateway; what is behind it does not.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = (host, port)
        self._tls = tls
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.mend()

    def cut(self) -> None:
        """Resets every connection, and refuses new ones."""
        self._do(self._cut())

    def mend(self) -> None:
        """Lets connections through, on the same port as before."""
        self._do(self._listen())

    def close(self) -> None:
        """Ends the proxy, and with it whatever is only beginning to be passed on."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]  # a coroutine always

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in list(self._lines):
            line.transport.abort()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        # The second time for those who had been let in, and were not passed on yet.
        for _ in range(2):
            await self._cut()
            for passing in self._passing:
                passing.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.current_task()
        assert passing is not None
        self._passing.add(passing)
        self._lines.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            self._lines.add(far_writer)
            if writer.is_closing():
                far_writer.transport.abort()
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer, answers=True))
            self._lines.discard(far_writer)
        except OSError:
            writer.transport.abort()
        finally:
            self._lines.discard(writer)
            self._passing.discard(passing)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        """Passes on what comes, be it what clients say or, with `answers`, what they are told."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
