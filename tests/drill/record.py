"""A record: lines of JSON with a time each, written as things happen."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Record:
    """A file that is only appended to, and complete up to the moment at which its writer dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, **facts: Any) -> None:
        """Notes the facts, with the time unless they bring one."""
        self._file.write(json.dumps({"at": time.time(), **facts}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the record."""
        self._file.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """What a record holds, in the order in which it was written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
