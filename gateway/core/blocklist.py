"""The block-list: words and regular expressions, one a line, with which no prompt is accepted.

Prompts and words are compared without regard to case, width, invisible characters and the way in which accents are
written. A word counts where it stands by itself; one of a script without spaces, or with signs in it, wherever it is.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

log = logging.getLogger(__name__)
WORD = re.compile(r"\w+")
PLAIN = re.compile(r"[\w\s'\u2019-]+")
State = tuple[int, int, int] | None


class BlocklistError(ValueError):
    """The file cannot be read, or a line of it is no regular expression; the message names the line."""


class Blocklist:
    """The words of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._state()
        self._entries = _read(path)

    def finds(self, text: str) -> bool:
        """Whether something of the list is in the text."""
        self._refresh()
        return self._entries.are_in(_normal(text))

    def _refresh(self) -> None:
        """A file that is gone or broken leaves what was read before in force."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._entries = _read(self._path)
        except BlocklistError as error:
            log.error("the block-list is kept as it was: %s", error)

    def _state(self) -> State:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class _Entries:
    """What a file holds: runs of words, parts of texts, and patterns."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.lengths: set[int] = set()
        self.parts: list[str] = []
        self.patterns: list[re.Pattern[str]] = []

    def add(self, line: str) -> None:
        """One line; raises re.error for a bad pattern."""
        if len(line) > 2 and line.startswith("/") and line.endswith("/"):
            self.patterns.append(re.compile(line[1:-1], re.IGNORECASE))
            return
        text = _normal(line)
        if PLAIN.fullmatch(text) and not any(unicodedata.category(letter) == "Lo" for letter in text):
            words = WORD.findall(text)
            self.runs.add(" ".join(words))
            self.lengths.add(len(words))
        else:
            self.parts.append(text)

    def are_in(self, text: str) -> bool:
        """Whether one of them is in the text, which is normal."""
        words = WORD.findall(text) if self.runs else []
        return (
            any(part in text for part in self.parts)
            or any(pattern.search(text) for pattern in self.patterns)
            or any(
                " ".join(words[place : place + length]) in self.runs
                for length in self.lengths
                for place in range(len(words) - length + 1)
            )
        )


def _read(path: Path) -> _Entries:
    entries = _Entries()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BlocklistError(f"{path} cannot be read: {type(error).__name__}") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            entries.add(line)
        except re.error as error:
            raise BlocklistError(f"{path}, line {number} is no regular expression: {error}") from error
    return entries


def _normal(text: str) -> str:
    """The text as it is compared: one form for what looks the same, and nothing invisible."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return text.casefold()
