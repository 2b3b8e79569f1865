"""Grants: whose tasks somebody may follow: all of a key, or with a realtime token one task, or those of some labels.

A realtime token is for browsers, where a virtual key has no business. It is signed, lives for minutes, stands in no
table, and opens nothing but the streams of events.
"""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import msgspec

from gateway.core import keys, signing
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime

PREFIX = "hgrt_"
SHORTEST, USUAL, LONGEST = 10, 600, 86_400
LONGEST_TEXT = 4_096


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tasks of a key, of these one or those that have all of the labels, until a time in Unix seconds."""

    key_id: str
    task_id: str | None = None
    labels: dict[str, str] = {}
    until: int | None = None

    def allows(self, task_id: str, labels: dict[str, Any]) -> bool:
        """Whether a task of the key, with these labels, may be followed."""
        if self.task_id not in (None, task_id):
            return False
        return all(labels.get(name) == value for name, value in self.labels.items())


def issue(
    rt: Runtime, caller: Caller, *, task_id: str | None = None, labels: dict[str, str] | None = None, seconds: int
) -> tuple[str, Grant]:
    """The text of a realtime token, and what it grants for so many seconds."""
    until = int((rt.now() + dt.timedelta(seconds=seconds)).timestamp())
    grant = Grant(caller.key_id, task_id, labels or {}, until)
    content = base64.urlsafe_b64encode(msgspec.json.encode(grant)).rstrip(b"=").decode()
    return f"{PREFIX}{content}.{signing.sign(rt.secrets.realtime, content)}", grant


async def admit(rt: Runtime, text: str, *, tokens_only: bool = False) -> Grant | None:
    """What the text of a virtual key or of a realtime token grants, as things stand now; None: nothing."""
    if text.startswith(PREFIX):
        grant = _read(rt, text)
        return grant if grant is not None and await keys.living(rt, [grant.key_id]) else None
    caller = None if tokens_only else await keys.authenticate(rt, text)
    return None if caller is None else Grant(caller.key_id)


def _read(rt: Runtime, text: str) -> Grant | None:
    """The grant of a token that we signed and that is not over."""
    content, _, signature = text.removeprefix(PREFIX).partition(".")
    if len(text) > LONGEST_TEXT or not text.isascii() or not signing.verify(rt.secrets.realtime, content, signature):
        return None
    grant = msgspec.json.decode(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)), type=Grant)
    return grant if grant.until is not None and grant.until > rt.now().timestamp() else None
