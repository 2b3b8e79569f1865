"""The fleet: several web processes and workers, each of which can be killed, frozen, stopped and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.acceptance.deployments import Deployment, Vendor
from tests.processes import Process, free_port

RESTARTS = 20


class Member:
    """One process of the fleet, and those that come after it in its place."""

    def __init__(self, name: str, command: str, environ: Mapping[str, str], folder: Path, port: int | None) -> None:
        self.name = name
        self.command = command
        self.environ = dict(environ)
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.starts = 0
        self.process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process now."""
        return self.process is not None and self.process.running

    def start(self) -> None:
        """Starts it, unless it runs, and waits until it serves or works."""
        if self.running:
            return
        self.starts += 1
        log = self.folder / f"{self.name}.{self.starts}.log"
        process = self.process = Process(["gateway", self.command], self.environ, log)
        if self.command == "serve":
            process.wait_for_http(f"{self.url}/health/live")
        else:
            process.wait_for_line("ready.")

    def start_again(self) -> None:
        """Starts it as a supervisor would: as often as it takes, for it may not come up while its database is away."""
        for patience in range(RESTARTS, -1, -1):
            try:
                return self.start()
            except AssertionError:
                if not patience:
                    raise

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """Asks it to end, and waits."""
        if self.running and self.process is not None:
            self.process.stop()

    def freeze(self) -> None:
        """Takes the processor away from it; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on where it stood."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self.process is not None:
            os.killpg(self.process.popen.pid, number)


class Fleet(Deployment):
    """A distributed deployment of so many web processes and workers."""

    def __init__(self, folder: Path, vendor: Vendor, environ: dict[str, str], webs: int, workers: int) -> None:
        super().__init__(folder, vendor, environ)
        ports = [free_port() for _ in range(webs)]
        self.webs = [
            Member(f"web-{number}", "serve", self.environ | {"HELIOGRAPH_PORT": str(port)}, folder, port)
            for number, port in enumerate(ports)
        ]
        self.workers = [Member(f"worker-{number}", "worker", self.environ, folder, None) for number in range(workers)]
        self.url = self.webs[0].url

    @property
    def members(self) -> list[Member]:
        """All processes."""
        return [*self.webs, *self.workers]

    def start(self) -> None:
        """Migrates, then starts everything."""
        self.command("migrate")
        self.mend()

    def start_webs(self) -> None:
        """Migrates, then starts the web processes; the workers stay away until somebody starts them."""
        self.command("migrate")
        _start(self.webs)

    def mend(self) -> None:
        """Thaws what is frozen, and starts what is gone."""
        for member in self.members:
            member.thaw()
        _start(self.members)

    async def issue(self, name: str, **body: Any) -> dict[str, Any]:
        """A new virtual key, by the administration: its `id`, and its text as `key`."""
        issued: dict[str, Any] = await self._administer("POST", "keys", {"name": name, **body})
        return issued

    async def own(self, owner: str, body: dict[str, Any]) -> None:
        """Sets what an owner's keys may do together."""
        await self._administer("PUT", f"owners/{owner}", body)

    async def _administer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self.environ['HELIOGRAPH_ADMIN_KEY']}"}
        async with httpx.AsyncClient(timeout=30) as http:
            reply = await http.request(method, f"{self.url}/admin/v1/{path}", json=body, headers=headers)
        return reply.raise_for_status().json()

    def stop(self) -> None:
        """Ends all processes."""
        for member in self.members:
            member.kill()


def _start(members: list[Member]) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(Member.start_again, members))
