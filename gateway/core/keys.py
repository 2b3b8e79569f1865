"""Virtual keys: issued once, stored as digests, checked on every request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, and_, insert, literal, or_, select, update

from gateway.core import accounts, ids, outbox, signing
from gateway.core.accounts import Budget, Limits
from gateway.core.errors import GatewayError
from gateway.core.runtime import Runtime
from gateway.core.tables import ACCOUNTS, VIRTUAL_KEYS

LONGEST = 256
LONGEST_NAME = 128
RECORDS = select(
    *(
        VIRTUAL_KEYS.c[name]
        for name in ("id", "name", "hint", "owner", "created_at", "expires_at", "revoked_at", "retention_days")
    )
)

# One row for each of the key's accounts.
CALLERS = select(
    VIRTUAL_KEYS.c.id,
    VIRTUAL_KEYS.c.owner,
    or_(*(ACCOUNTS.c[f"per_{name}"].is_not(None) for name in accounts.RATES)).label("limited"),
).join(ACCOUNTS, or_(ACCOUNTS.c.id == VIRTUAL_KEYS.c.id, ACCOUNTS.c.id == literal("owner:") + VIRTUAL_KEYS.c.owner))


class Caller(msgspec.Struct, frozen=True):
    """The virtual key behind a request, and the owner who shares its account; `limited` if a rate holds for either."""

    key_id: str
    owner: str | None = None
    limited: bool = False


class KeyRecord(msgspec.Struct, frozen=True):
    """A virtual key as its administrator sees it: everything but its text."""

    id: str
    name: str
    hint: str
    owner: str | None
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    retention_days: int | None


class Issued(NamedTuple):
    """A new key's id, and its text: the only time that anybody sees it."""

    id: str
    text: str


async def create(
    rt: Runtime,
    name: str,
    *,
    expires_at: dt.datetime | None = None,
    text: str | None = None,
    owner: str | None = None,
    budget: Budget | None = None,
    limits: Limits | Mapping[str, int | None] | None = None,
    retention_days: int | None = None,
) -> Issued:
    """Issues a key. `text` imports a key that clients already have; it must be new here and of some strength.

    `retention_days` is how long what it makes is kept: 0 for ever, None as the setting says. Raises
    `invalid_parameter`, also for an end that has come already.
    """
    prefix = rt.settings.key_prefix
    if text is not None and not _possible(text, prefix):
        message = (
            f"An imported key needs 16 to 256 printable characters; Heliograph alone makes keys that begin {prefix}."
        )
        raise GatewayError("invalid_parameter", message, param="key")
    if not 1 <= len(name.strip()) <= LONGEST_NAME:
        raise GatewayError("invalid_parameter", f"A key's name has 1 to {LONGEST_NAME} characters.", param="name")
    _check_end(rt, expires_at)
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
                owner=owner,
                created_at=rt.now(),
                expires_at=expires_at,
                retention_days=retention_days,
            )
        )
        await accounts.make(connection, issued.id, issued.id, rt.now())
        if owner is not None:
            await accounts.ensure_owner(connection, owner, rt.now())
        await accounts.change(connection, issued.id, rt.now(), budget=budget, limits=limits)
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


async def change(
    rt: Runtime,
    key_id: str,
    *,
    name: str | UnsetType = UNSET,
    expires_at: dt.datetime | UnsetType | None = UNSET,
    owner: str | UnsetType | None = UNSET,
    budget: Budget | UnsetType | None = UNSET,
    limits: Limits | Mapping[str, int | None] | None = None,
    retention_days: int | UnsetType | None = UNSET,
) -> None:
    """Changes what is given. Tasks that exist stay booked where they are.

    Raises `key_not_found`, and `invalid_parameter` for an end that has come already.
    """
    await get(rt, key_id)
    _check_end(rt, expires_at)
    given = {"name": name, "expires_at": expires_at, "owner": owner, "retention_days": retention_days}
    values = {name: value for name, value in given.items() if value is not UNSET}
    async with rt.db.write() as connection:
        if isinstance(owner, str):
            await accounts.ensure_owner(connection, owner, rt.now())
        if values:
            await connection.execute(update(VIRTUAL_KEYS).where(VIRTUAL_KEYS.c.id == key_id).values(values))
        await accounts.change(connection, key_id, rt.now(), budget=budget, limits=limits)


async def revoke(rt: Runtime, key_id: str) -> None:
    """Ends a key, at once and for good; once more is no error. Raises `key_not_found`."""
    await get(rt, key_id)
    statement = (
        update(VIRTUAL_KEYS)
        .where(VIRTUAL_KEYS.c.id == key_id, VIRTUAL_KEYS.c.revoked_at.is_(None))
        .values(revoked_at=rt.now())
    )
    async with rt.db.write() as connection:
        if (await connection.execute(statement)).rowcount:
            data = {"key_id": key_id, "reason": "revoked"}
            await outbox.announce(connection, rt, key_id, outbox.KEY_DISABLED, data)


async def authenticate(rt: Runtime, text: str) -> Caller | None:
    """Who the text of a key belongs to, or None. What cannot be a key of ours costs no query."""
    if not _possible(text, rt.settings.key_prefix):
        return None
    statement = CALLERS.where(VIRTUAL_KEYS.c.digest == signing.digest(rt.secrets.digests, text), _lives(rt.now()))
    async with rt.db.read() as connection:
        found = (await connection.execute(statement)).all()
    return Caller(found[0].id, found[0].owner, any(row.limited for row in found)) if found else None


async def living(rt: Runtime, key_ids: Collection[str]) -> set[str]:
    """Which of these keys are good now: neither revoked nor expired."""
    good = select(VIRTUAL_KEYS.c.id).where(VIRTUAL_KEYS.c.id.in_(key_ids), _lives(rt.now()))
    async with rt.db.read() as connection:
        return set((await connection.execute(good)).scalars())


def _check_end(rt: Runtime, expires_at: dt.datetime | UnsetType | None) -> None:
    if isinstance(expires_at, dt.datetime) and expires_at <= rt.now():
        raise GatewayError("invalid_parameter", "expires_at must be in the future.", param="expires_at")


def _lives(now: dt.datetime) -> ColumnElement[bool]:
    expires = VIRTUAL_KEYS.c.expires_at
    return and_(VIRTUAL_KEYS.c.revoked_at.is_(None), or_(expires.is_(None), expires > now))


def _possible(text: str, prefix: str) -> bool:
    """Whether `text` could be a key; what could not is neither imported nor looked up."""
    if not 16 <= len(text) <= LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        return False
    return not text.startswith(prefix) or signing.well_formed(text, prefix)
