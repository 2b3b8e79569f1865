"""The two deployments that we support, as real processes: what is promised is shown on both."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

import migrations
from tests.processes import Process, free_port, run

LEASE_SECONDS = 2
SECONDS = 60


class Vendor:
    """The scripted vendor as a process, and what it accepted."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ledger = str(folder / "ledger.jsonl")
        self.process = Process(["tests.scripted.server", ledger, str(self.port)], {}, folder / "vendor.log")
        self.process.wait_for_http(f"{self.url}/ledger")

    def accepted(self, prompt: str) -> list[dict[str, Any]]:
        """The orders with that prompt, as the vendor's own ledger has them."""
        ledger = httpx.get(f"{self.url}/ledger").json()
        return [order for order in ledger["accepted"] if order["prompt"] == prompt]

    def state(self, job: str) -> str:
        """How a job stands."""
        state: str = httpx.get(f"{self.url}/ledger").json()["states"][job]
        return state


class Deployment:
    """A running Heliograph. `environ` is all that distinguishes one deployment from another."""

    def __init__(self, folder: Path, vendor: Vendor, environ: dict[str, str]) -> None:
        self.folder = folder
        self.vendor = vendor
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            "HELIOGRAPH_PORT": str(self.port),
            "HELIOGRAPH_DATA_DIR": str(folder / "data"),
            "HELIOGRAPH_LEASE_SECONDS": str(LEASE_SECONDS),
            "HELIOGRAPH_PROVIDER_MODULES": "tests.scripted.scripted",
            "HELIOGRAPH_ADMIN_KEY": "admin-" + secrets.token_hex(8),
            "SCRIPTED_URL": vendor.url,
            "SCRIPTED_KEY": "sk-scripted-canary",
            **environ,
        }
        self.processes: list[Process] = []

    def start(self) -> None:
        """Starts everything and waits until it serves."""
        raise NotImplementedError

    def command(self, *arguments: str) -> str:
        """What `heliograph …` prints in this deployment."""
        return run(["gateway", *arguments], self.environ, self.folder)

    def new_key(self) -> str:
        """The text of a new virtual key, issued by the administration."""
        headers = {"Authorization": f"Bearer {self.environ['HELIOGRAPH_ADMIN_KEY']}"}
        reply = httpx.post(f"{self.url}/admin/v1/keys", headers=headers, json={"name": "test"}, timeout=60)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["key"])

    def client(self, key: str) -> httpx.Client:
        """A client that carries the key."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def stop(self) -> None:
        """Ends all processes."""
        for process in self.processes:
            process.kill()

    def _start(self, command: str) -> Process:
        process = Process(["gateway", command], self.environ, self.folder / f"{command}-{len(self.processes)}.log")
        self.processes.append(process)
        return process


class Embedded(Deployment):
    """One process, SQLite, a folder."""

    def start(self) -> None:
        """Starts `heliograph up`."""
        self.up = self._start("up")
        self.up.wait_for_http(f"{self.url}/health/ready")


class Distributed(Deployment):
    """A web process and a worker over PostgreSQL, RabbitMQ and S3."""

    def start(self) -> None:
        """Migrates, then starts `heliograph serve` and one `heliograph worker`."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, migrations.upgrade(self.environ["HELIOGRAPH_DATABASE_URL"])).result(SECONDS)
        self.web = self._start("serve")
        self.worker = self.start_worker()
        self.web.wait_for_http(f"{self.url}/health/ready")

    def start_worker(self) -> Process:
        """Starts one more worker."""
        worker = self._start("worker")
        worker.wait_for_line("ready.")
        return worker
