"""Node.js for tests: a folder of scripts, and installed beside them what its package-lock.json names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.services import Missing

OLDEST, SECONDS = 20, 100


class Node:
    """Runs the scripts of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, script: str, environ: Mapping[str, str], folder: Path) -> str:
        """What a script prints, which runs in `folder`; fails when it fails."""
        done = subprocess.run(
            ["node", self.folder / script],
            env={**os.environ, **environ}, cwd=folder, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def listening(self, script: str, *arguments: str) -> Iterator[Listener]:
        """What a script prints, as it comes; ended at the end of the block."""
        command = ["node", str(self.folder / script), *arguments]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as popen:
            listener = Listener(popen)
            try:
                yield listener
            finally:
                popen.kill()
                listener.reader.join(SECONDS)


class Listener:
    """A script that prints a line of JSON for each thing that it hears: what it is, and what it says."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.reader = threading.Thread(target=self._read, args=(popen,), daemon=True)
        self.reader.start()

    def hear(self) -> tuple[str, Any] | None:
        """The next thing; None when the script has ended."""
        try:
            line = self._lines.get(timeout=SECONDS)
        except Empty:
            raise AssertionError("the script heard nothing") from None
        if line is None:
            return None
        name, value = json.loads(line)
        return name, value

    def rest(self) -> list[tuple[str, Any]]:
        """Everything up to its end."""
        found: list[tuple[str, Any]] = []
        while (heard := self.hear()) is not None:
            found.append(heard)
        return found

    def _read(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        for line in popen.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def installed(source: Path) -> Iterator[Node]:
    """The scripts of `source` in a folder of their own, with their packages; gone at the end. Raises Missing."""
    with tempfile.TemporaryDirectory(prefix="heliograph-node-") as folder:
        copy = Path(folder) / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("node_modules"))
        try:
            version = _output(["node", "--version"], copy)
            if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
                raise Missing(f"Node.js {OLDEST} or newer; {version.strip()} is there")
            _output(["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"], copy)
        except subprocess.CalledProcessError as error:
            raise Missing(f"the packages of {source.name}, from npm: {error.stderr[-1000:]}") from error
        except OSError as error:
            raise Missing(f"Node.js {OLDEST} or newer with npm (scripts/services up): {error}") from error
        yield Node(copy)


def _output(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout
