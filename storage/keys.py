"""Which texts are keys of an object store. Checked in every store, so that none ever leaves its own place."""

from __future__ import annotations

import re

# S3 takes 1024 bytes; a prefix of the same length still fits before a key.
KEY = re.compile(
    r"^(?=.{1,500}$)(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,128}(?:/[A-Za-z0-9._-]{1,128}){0,15}$", re.ASCII
)


def checked(key: str) -> str:
    """The key itself; raises ValueError when it is none."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:64]!r} is not a key: relative segments of A-Z a-z 0-9 . _ - joined by /, 500 in all")
    return key
