"""A browser for tests: Chromium without a window, which is told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.services import Missing

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60
# Root has no sandbox, and machines for tests little shared memory. Nothing but this machine is to be reached.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--mute-audio",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """A page of the browser. `responses` are those that it has had so far, as the protocol tells them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.responses: list[dict[str, Any]] = []
        self._socket = socket
        self._number = 0

    async def open(self, url: str) -> None:
        """Goes there, and waits until the document has been read."""
        await self.call("Network.enable")
        await self.call("Page.enable")
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(SECONDS):
            while (await self._heard()).get("method") != "Page.domContentEventFired":
                pass

    async def run(self, script: str) -> Any:
        """The value of the expression, or of what it promises; fails when it throws."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def screenshot(self) -> bytes:
        """What is to be seen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol; fails on its errors."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(SECONDS):
            while (message := await self._heard()).get("id") != self._number:
                pass
        assert "error" not in message, message["error"]
        result: dict[str, Any] = message["result"]
        return result

    async def _heard(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json()
        if message.get("method") == "Network.responseReceived":
            self.responses.append(message["params"]["response"])
        return message


class Browser:
    """A browser that runs; `url` is where its protocol is spoken."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A new page."""
        async with aiohttp.ClientSession() as http:
            async with http.put(f"{self.url}/json/new?about:blank") as reply:
                address = (await reply.json())["webSocketDebuggerUrl"]
            async with http.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, until the end of the block. Raises Missing."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        raise Missing("Chromium (scripts/services up)")
    with tempfile.TemporaryDirectory(prefix="heliograph-chromium-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield Browser(f"http://127.0.0.1:{_port(process, Path(folder, 'DevToolsActivePort'))}")
        finally:
            process.terminate()
            process.wait(SECONDS)


def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    """Where it listens, which it writes into a file once it does."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and (lines := file.read_text(encoding="ascii").splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start; its status is {process.poll()}")
