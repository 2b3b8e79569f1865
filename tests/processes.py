"""Processes that a test starts, watches and kills: the real commands, on free ports, in a clean environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS = 60


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """One process and what it prints."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**_plain(), **environ},
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def kill(self) -> None:
        """Ends it and its children as a power cut would."""
        if self.running:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)

    def stop(self, seconds: float = 30) -> int:
        """Asks it to end, and waits; the exit status. Kills what does not listen."""
        if self.running:
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def wait_for_http(self, url: str) -> None:
        """Waits until the URL answers 200; fails with the log when the process ends before."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise AssertionError(f"the process ended:\n{self.log.read_text(errors='replace')[-4000:]}")
            try:
                if httpx.get(url, timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{url} did not answer:\n{self.log.read_text(errors='replace')[-4000:]}")

    def wait_for_line(self, text: str) -> None:
        """Waits until the process has printed the text."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if text in self.log.read_text(errors="replace"):
                return
            if not self.running:
                break
            time.sleep(0.05)
        raise AssertionError(f"{text!r} was not printed:\n{self.log.read_text(errors='replace')[-4000:]}")


def run(arguments: Sequence[str], environ: Mapping[str, str], folder: Path, *, status: int = 0) -> str:
    """Runs a command to its end and returns what it printed; fails unless it ends with that status."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**_plain(), **environ}, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def _plain() -> dict[str, str]:
    """What a process needs of our own environment, and nothing that could change how it behaves."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE") if name in os.environ
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
