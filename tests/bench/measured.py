"""`heliograph up` as a process whose memory is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.processes import Process, free_port, run


class Measured:
    """A gateway of one process: where it serves, a key, and how much of the memory it holds, in MB."""

    def __init__(self, url: str, key: str, pid: int) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._folder = Path(f"/proc/{pid}")

    def client(self) -> httpx.AsyncClient:
        """A client with the key, as many connections as are needed, and patience."""
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, headers=self._headers, limits=limits, timeout=600)

    @property
    def resident(self) -> float:
        """What it holds now."""
        return self._status("VmRSS")

    @property
    def peak(self) -> float:
        """The most that it held since it started, or since `forget`."""
        return self._status("VmHWM")

    def forget(self) -> None:
        """Lets `peak` begin anew; see clear_refs in proc(5)."""
        (self._folder / "clear_refs").write_text("5", encoding="ascii")

    def _status(self, name: str) -> float:
        lines = (self._folder / "status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


@contextmanager
def running(folder: Path, environ: Mapping[str, str]) -> Iterator[Measured]:
    """A gateway that keeps everything in the folder; killed at the end."""
    port = free_port()
    ours = {"HELIOGRAPH_PORT": str(port), "HELIOGRAPH_DATA_DIR": str(folder / "data"), **environ}
    up = Process(["gateway", "up"], ours, folder / "up.log")
    try:
        up.wait_for_http(f"http://127.0.0.1:{port}/health/ready")
        key = run(["gateway", "keys", "create", "--quiet"], ours, folder).strip()
        yield Measured(f"http://127.0.0.1:{port}", key, up.popen.pid)
    finally:
        up.kill()
