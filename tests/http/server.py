"""The embedded application behind its real server, in a thread of this process, on a free port."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx

import migrations
from gateway import app, server
from gateway.core import keys
from gateway.core.outbound import Outbound
from gateway.core.ports import Note
from gateway.core.runtime import Runtime, open_outbound
from gateway.core.settings import Settings, load
from workers.embedded import EmbeddedQueue

SECRET = "tests-of-http-use-this-secret-and-nobody-else-does"
ADMIN_KEY = "admin-key-of-the-http-tests"
CONFIG = """
[aliases]
sdxl = "demo-image"
dall-e-2 = "demo-image"
gpt-image-1 = "demo-image"
m = "demo-image"
sora-2 = "demo-video"
sora-2-pro = "patient-video"

[aliases.sdxl-edit]
model = "demo-image"
values.background.transparent = ""
"""
ENVIRON = {
    "HELIOGRAPH_BODY_SECONDS": "1",
    "HELIOGRAPH_SYNC_SECONDS": "20",
    "HELIOGRAPH_PROVIDER_MODULES": "tests.http.patient",
}
"""Bodies and heads have one second. Names of models that were retired elsewhere are at hand."""

NOBODYS = "task_01kdvdna00wnk5naxx862v60e3"
"""An id as a task could have it, and none has."""

SECONDS = 30
# There is no TLS here, and reading the usual certificates would take longer than most tests.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Heliograph:
    """A gateway that serves: where, with which settings, two keys of it, and what its logs call an error."""

    url: str
    settings: Settings
    key: str
    other_key: str
    faults: list[logging.LogRecord] = field(default_factory=list)
    application: Any = None
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for raw sockets."""
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def tell(self, note: Note) -> None:
        """Tells whoever follows tasks, as the process itself does."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.application.app.state.runtime.hub.tell, note)

    def with_new_keys(self) -> Heliograph:
        """The same gateway with two keys that nobody has used: nothing is told to them of others' tasks."""
        assert self.loop is not None
        creating = _two_keys(self.application.app.state.runtime)
        first, second = asyncio.run_coroutine_threadsafe(creating, self.loop).result(SECONDS)
        return replace(self, key=first, other_key=second)

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with the first key, or another one."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=SECONDS, verify=NO_CERTIFICATES)


@contextmanager
def serving(
    folder: Path,
    config: str = "",
    environ: Mapping[str, str] | None = None,
    make_outbound: Callable[[Settings], Outbound] = open_outbound,
) -> Iterator[Heliograph]:
    """A gateway that keeps everything in `folder`, with `config` as its heliograph.toml; stopped at the end."""
    file = folder / "heliograph.toml"
    file.write_text(config, encoding="utf-8")
    settings = load(
        {
            "HELIOGRAPH_PORT": "0",
            "HELIOGRAPH_DATA_DIR": str(folder / "data"),
            "HELIOGRAPH_SECRET": SECRET,
            "HELIOGRAPH_ADMIN_KEY": ADMIN_KEY,
            "HELIOGRAPH_DRAIN_SECONDS": "2",
            **(environ or {}),
        },
        file,
    )
    (folder / "data").mkdir(exist_ok=True)
    first, second = asyncio.run(_prepare(settings))
    addresses: SimpleQueue[str] = SimpleQueue()
    application: Any = app.embedded_app(settings, make_outbound)
    served: Any = server.make(settings, application, addresses.put)
    loop = served.config.get_loop_factory()()
    thread = threading.Thread(target=_run, args=(served, loop), name="heliograph")
    faults = _Faults()
    logging.getLogger().addHandler(faults)
    thread.start()
    try:
        url = addresses.get(timeout=SECONDS)
        yield Heliograph(url, settings, first, second, faults.records, application, loop)
    finally:
        served.should_exit = True
        thread.join(SECONDS)
        logging.getLogger().removeHandler(faults)
        assert not thread.is_alive(), "the server did not stop"


class _Faults(logging.Handler):
    """Keeps what the gateway, which has threads of its own, logs as an error: no input may bring one about."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != threading.main_thread().ident:
            self.records.append(record)


def _run(served: Any, loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(served.serve())


async def _prepare(settings: Settings) -> tuple[str, str]:
    await migrations.upgrade(settings.database)
    async with app.running(settings, EmbeddedQueue, sweeps=False) as rt:
        return await _two_keys(rt)


async def _two_keys(rt: Runtime) -> tuple[str, str]:
    return (await keys.create(rt, "first")).text, (await keys.create(rt, "second")).text
