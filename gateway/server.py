"""The HTTP server: uvicorn, in this process or in several."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from gateway.core.settings import Settings, SettingsError, variable
from gateway.dialects import errors
from gateway.edge.connection import MOST_MESSAGE_BYTES, Connection, Socket

KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
ANSWER_SECONDS = 3


class Announcing(uvicorn.Server):
    """Says where it listens once it does, which with port 0 nobody knows before."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self.announce = announce

    async def startup(self, sockets: Any = None) -> None:
        """Opens the sockets, then announces the address."""
        await super().startup(sockets)
        if self.started and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self.announce(f"http://{host}:{port}")


def make(settings: Settings, application: ASGIApp, announce: Callable[[str], None]) -> uvicorn.Server:
    """A server that waits to be run, and calls `announce` with its address once it listens."""
    config: Any = uvicorn.Config(application, **_options(settings))
    return Announcing(config, announce)


def listen(settings: Settings) -> socket.socket:
    """The socket of the setting's address, before anything else is begun; raises SettingsError when it is not free."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"{settings.host} port {settings.port}: {error.strerror}"
        raise SettingsError(
            f"cannot listen on {where}. Choose another with {variable('host')} and {variable('port')}"
        ) from error
    listening.set_inheritable(True)
    return listening


def run(settings: Settings, application: ASGIApp, listening: socket.socket, announce: Callable[[str], None]) -> None:
    """Serves until told to stop, in this process."""
    _end_in_peace()
    server: Any = make(settings, application, announce)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listening]))


def run_many(settings: Settings, factory: str, listening: socket.socket) -> None:
    """Serves in several processes that share the socket; `factory` names what makes each one's application."""
    _end_in_peace()
    config: Any = uvicorn.Config(factory, factory=True, workers=settings.processes, **_options(settings))
    Multiprocess(config, sockets=[listening]).run()


def _end_in_peace() -> None:
    """After its own shutdown uvicorn raises the signal that it had caught: being told to stop is no failure."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": partial(Connection, refuse=errors.parts, head_seconds=settings.body_seconds),
        "ws": Socket,
        "ws_max_size": MOST_MESSAGE_BYTES,
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        # Longer than the idle time of common load balancers: the side that keeps the connection must close it first.
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        # Beyond the time after which waiting requests are let go, so that they can still say so.
        "timeout_graceful_shutdown": int(settings.drain_seconds / 2) + ANSWER_SECONDS,
    }
