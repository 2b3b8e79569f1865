"""Virtual keys: issued once, stored as digests, checked on every request."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import msgspec
from sqlalchemy import insert, or_, select, update

from gateway.core import ids, signing
from gateway.core.errors import GatewayError
from gateway.core.runtime import Runtime
from gateway.core.tables import VIRTUAL_KEYS

LONGEST = 256
LONGEST_NAME = 128
RECORDS = select(*(VIRTUAL_KEYS.c[name] for name in ("id", "name", "hint", "created_at", "expires_at", "revoked_at")))


class Caller(msgspec.Struct, frozen=True):
    """The virtual key behind a request."""

    key_id: str


class KeyRecord(msgspec.Struct, frozen=True):
    """A virtual key as its administrator sees it: everything but its text."""

    id: str
    name: str
    hint: str
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


class Issued(NamedTuple):
    """A new key's id, and its text: the only time that anybody sees it."""

    id: str
    text: str


async def create(rt: Runtime, name: str, *, expires_at: dt.datetime | None = None, text: str | None = None) -> Issued:
    """Issues a key. `text` imports a key that clients already have; it must be new here and of some strength."""
    prefix = rt.settings.key_prefix
    if text is not None and not _possible(text, prefix):
        message = (
            f"An imported key needs 16 to 256 printable characters; Heliograph alone makes keys that begin {prefix}."
        )
        raise GatewayError("invalid_parameter", message, param="key")
    if not 1 <= len(name.strip()) <= LONGEST_NAME:
        raise GatewayError("invalid_parameter", f"A key's name has 1 to {LONGEST_NAME} characters.", param="name")
    issued = Issued(ids.new("key", rt.now()), text or signing.new_key_text(prefix))
    digest = signing.digest(rt.secrets.digests, issued.text)
    async with rt.db.write() as connection:
        known = await connection.execute(select(VIRTUAL_KEYS.c.id).where(VIRTUAL_KEYS.c.digest == digest))
        if known.first() is not None:
            raise GatewayError("invalid_parameter", "That key exists already.", param="key")
        await connection.execute(
            insert(VIRTUAL_KEYS).values(
                id=issued.id,
                digest=digest,
                hint=issued.text[-4:],
                name=name,
                created_at=rt.now(),
                expires_at=expires_at,
            )
        )
    return issued


async def listing(rt: Runtime) -> list[KeyRecord]:
    """All keys, the newest last; of the text only the last four characters."""
    async with rt.db.read() as connection:
        rows = (await connection.execute(RECORDS.order_by(VIRTUAL_KEYS.c.id))).mappings()
    return [KeyRecord(**row) for row in rows]


async def get(rt: Runtime, key_id: str) -> KeyRecord:
    """One key; raises `key_not_found`."""
    if ids.is_id(key_id, "key"):
        async with rt.db.read() as connection:
            row = (await connection.execute(RECORDS.where(VIRTUAL_KEYS.c.id == key_id))).mappings().first()
        if row is not None:
            return KeyRecord(**row)
    raise GatewayError("key_not_found", "There is no such key.")


async def revoke(rt: Runtime, key_id: str) -> None:
    """Ends a key, at once and for good; once more is no error. Raises `key_not_found`."""
    await get(rt, key_id)
    statement = (
        update(VIRTUAL_KEYS)
        .where(VIRTUAL_KEYS.c.id == key_id, VIRTUAL_KEYS.c.revoked_at.is_(None))
        .values(revoked_at=rt.now())
    )
    async with rt.db.write() as connection:
        await connection.execute(statement)


async def authenticate(rt: Runtime, text: str) -> Caller | None:
    """Who the text of a key belongs to, or None. What cannot be a key of ours costs no query."""
    if not _possible(text, rt.settings.key_prefix):
        return None
    now = rt.now()
    statement = select(VIRTUAL_KEYS.c.id).where(
        VIRTUAL_KEYS.c.digest == signing.digest(rt.secrets.digests, text),
        VIRTUAL_KEYS.c.revoked_at.is_(None),
        or_(VIRTUAL_KEYS.c.expires_at.is_(None), VIRTUAL_KEYS.c.expires_at > now),
    )
    async with rt.db.read() as connection:
        key_id = (await connection.execute(statement)).scalar()
    return Caller(key_id) if key_id is not None else None


def _possible(text: str, prefix: str) -> bool:
    """Whether `text` could be a key; what could not is neither imported nor looked up."""
    if not 16 <= len(text) <= LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        return False
    return not text.startswith(prefix) or signing.well_formed(text, prefix)
