"""Ids: a prefix that says what it names, then 26 characters that sort by time of birth."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PATTERN = re.compile(r"[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}")


def new(prefix: str, now: dt.datetime) -> str:
    """A new id such as `task_01…`: 48 bits of milliseconds, then 80 random bits, in base 32."""
    number = (int(now.timestamp() * 1000) << 80) | secrets.randbits(80)
    return _spelled(prefix, number)


def derived(prefix: str, text: str) -> str:
    """The id of what `text` describes: always the same one."""
    return _spelled(prefix, int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def _spelled(prefix: str, number: int) -> str:
    return prefix + "_" + "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_id(text: str, *prefixes: str) -> bool:
    """Whether `text` has the form of an id with one of the prefixes. What has not is never looked up."""
    return bool(PATTERN.fullmatch(text)) and text.split("_", 1)[0] in prefixes
