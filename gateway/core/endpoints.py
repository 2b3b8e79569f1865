"""Endpoints: where a key wants to hear of its events, or of those of a single task, and the secrets that sign them."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import accounts, ids, outbox, sealing, signing
from gateway.core.errors import GatewayError, allowed, invalid, shown
from gateway.core.keys import Caller
from gateway.core.outbound import Blocked
from gateway.core.outbox import ENDINGS, OF_KEYS, OPEN, WORDS
from gateway.core.payloads import OPENAI
from gateway.core.runtime import Runtime
from gateway.core.tables import VIRTUAL_KEYS
from gateway.core.webhook_tables import DELIVERIES, ENDPOINT_SECRETS, ENDPOINTS
from providers.contract import Generation, Kind, Operation

E, S = ENDPOINTS.c, ENDPOINT_SECRETS.c
# The name of what a key's single tasks have in common: their secret, and their deliveries.
DEFAULT = "default"
MOST, MOST_SECRETS, MOST_HEADERS = 50, 10, 16
OVERLAP = dt.timedelta(hours=24)
EVENT_TYPES = (
    *(f"{kind}.{operation}.{word}" for kind in Kind for operation in Operation for word in WORDS),
    *dict.fromkeys(OPENAI.values()), *OF_KEYS,
)  # fmt: skip
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,1022}[!-~])?")
# What the request itself needs to be in order, or what we sign and say.
OURS = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
    "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
})  # fmt: skip
OUR_PREFIXES = ("webhook-", "x-conduit-", "proxy-")


class Webhook(msgspec.Struct, frozen=True):
    """Where the owner of a new task wants to hear of it. `events` are words or whole types; none: how it ended."""

    url: str
    headers: dict[str, str] = {}
    events: tuple[str, ...] = ()
    base: str = ""


class EndpointRecord(msgspec.Struct, frozen=True):
    """An endpoint as its owner may see it; of its secret only the end. What its headers say stays inside."""

    id: str
    name: str
    url: str
    event_types: list[str]
    created_at: dt.datetime
    updated_at: dt.datetime
    failing_since: dt.datetime | None
    disabled_at: dt.datetime | None
    reason: str | None
    hint: str


class WithSecret(NamedTuple):
    """An endpoint, and the text of its secret: the only time that anybody sees it."""

    endpoint: EndpointRecord
    secret: str


FIELDS = tuple(name for name in EndpointRecord.__struct_fields__ if name != "hint")


def offered_types(rt: Runtime) -> list[str]:
    """The types of events that there can be, as the models are now."""
    cards = [route.card for model in rt.catalog.models.values() for route in model.routes]
    done = {f"{card.kind}.{operation}" for card in cards for operation in card.operations}
    films = any(card.kind == Kind.VIDEO for card in cards)
    return [
        one for one in EVENT_TYPES
        if one in OF_KEYS or one.rpartition(".")[0] in done or (films and one in OPENAI.values())
    ]  # fmt: skip


def check_url(rt: Runtime, url: str, param: str) -> None:
    """Raises `invalid_parameter` for a URL that shows already that nothing is ever sent there."""
    try:
        rt.outbound.check(url)
    except Blocked as error:
        raise invalid(param, f"{param} is none that webhooks are sent to: {error.message}.") from error


def check_webhook(rt: Runtime, webhook: Webhook, generation: Generation) -> None:
    """Raises what is wrong with the webhook of a task that is to do this."""
    check_url(rt, webhook.url, "webhook_url")
    types = _types(generation.kind, generation.operation)
    for event in webhook.events:
        if event not in types and event not in types.values():
            raise allowed("webhook_events", event, (*types, *types.values()))
    if len(webhook.headers) > MOST_HEADERS:
        raise invalid("webhook_headers", f"webhook_headers must be at most {MOST_HEADERS}.")
    for name, value in webhook.headers.items():
        if not HEADER.fullmatch(name) or name.lower() in OURS or name.lower().startswith(OUR_PREFIXES):
            raise invalid("webhook_headers", f"webhook_headers: {shown(name)} is no header of yours to set.")
        if not HEADER_VALUE.fullmatch(value):
            message = f"webhook_headers: {shown(name)} must be 1 to 1024 printable ASCII characters."
            raise invalid("webhook_headers", message)


def of_task(rt: Runtime, task: Mapping[str, Any], webhook: Webhook) -> dict[str, Any]:
    """The row of the endpoint of a new task alone, whose webhook was checked."""
    types = _types(task["kind"], task["operation"])
    wanted = dict.fromkeys(types.get(event, event) for event in webhook.events or ENDINGS)
    headers = sealing.seal(rt.secrets.headers, webhook.headers) if webhook.headers else None
    return _row(rt, task["key_id"], "task", webhook.url, list(wanted), webhook.base) | {
        "task_id": task["id"], "headers": headers,
    }  # fmt: skip


async def copy(rt: Runtime, task_id: str, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of an endpoint for a new task, as another one had it; None where that had none."""
    async with rt.db.read() as connection:
        row = (await connection.execute(select(ENDPOINTS).where(E.task_id == task_id))).mappings().first()
    if row is None:
        return None
    return _row(rt, task["key_id"], row["name"], row["url"], row["event_types"], row["base"]) | {
        "task_id": task["id"], "headers": row["headers"],
    }  # fmt: skip


async def create(
    rt: Runtime, caller: Caller, *, name: str, url: str, event_types: Sequence[str], base: str
) -> WithSecret:
    """Makes an endpoint of the caller's key."""
    check_url(rt, url, "url")
    row = _row(rt, caller.key_id, name, url, _known(event_types), base)
    async with rt.db.write() as connection:
        await accounts.lock(connection, caller.key_id)
        count = select(func.count()).select_from(ENDPOINTS).where(*_of(caller.key_id))
        if (await connection.execute(count)).scalar_one() >= MOST:
            raise invalid("url", f"A key has at most {MOST} webhook endpoints.")
        await connection.execute(insert(ENDPOINTS), row)
    secret = signing.webhook_secret(rt.secrets.webhooks, row["id"], "")
    return WithSecret(_record(row, secret), secret)


async def listing(rt: Runtime, key_id: str, *, after: str | None, limit: int) -> tuple[list[EndpointRecord], bool]:
    """A page of a key's endpoints, the newest first, and whether more follow."""
    statement = select(ENDPOINTS).where(*_of(key_id)).order_by(E.id.desc()).limit(limit + 1)
    if after is not None:
        statement = statement.where(E.id < after)
    async with rt.db.read() as connection:
        rows = (await connection.execute(statement)).mappings().all()
        return [_record(dict(row), (await live(connection, rt, row["id"]))[0]) for row in rows[:limit]], len(
            rows
        ) > limit


async def get(rt: Runtime, key_id: str, endpoint_id: str) -> EndpointRecord:
    """One endpoint of that key, also the one of its single tasks; raises `endpoint_not_found`."""
    async with rt.db.read() as connection:
        owner, row = await _find(connection, key_id, endpoint_id)
        return _record(row, (await live(connection, rt, owner))[0])


async def change(
    rt: Runtime,
    key_id: str,
    endpoint_id: str,
    *,
    name: str | UnsetType = UNSET,
    url: str | UnsetType = UNSET,
    event_types: Sequence[str] | UnsetType = UNSET,
    enabled: bool | None = None,
) -> EndpointRecord:
    """Changes what is given. Deliveries that are under way go where it points then."""
    before = await get(rt, key_id, _changeable(endpoint_id))
    values: dict[str, Any] = {"name": name, "url": url, "event_types": UNSET}
    if not isinstance(url, UnsetType):
        check_url(rt, url, "url")
    if not isinstance(event_types, UnsetType):
        values["event_types"] = _known(event_types)
    values = {key: value for key, value in values.items() if value is not UNSET and value != getattr(before, key)}
    if enabled is not None and enabled != (before.disabled_at is None):
        values |= {"disabled_at": None if enabled else rt.now(), "reason": None if enabled else "by its owner"}
    if values:
        values |= {"updated_at": rt.now(), "failing_since": None}
        async with rt.db.write() as connection:
            await connection.execute(update(ENDPOINTS).where(E.id == endpoint_id, *_of(key_id)).values(values))
            if "url" in values:
                moved = update(DELIVERIES).where(DELIVERIES.c.endpoint_id == endpoint_id, DELIVERIES.c.state.in_(OPEN))
                place = outbox.destination(key_id, values["url"])
                await connection.execute(moved.values(destination=place))
    return await get(rt, key_id, endpoint_id)


async def delete(rt: Runtime, key_id: str, endpoint_id: str) -> None:
    """Deletes an endpoint; what was on its way there is not sent. Raises `endpoint_not_found`."""
    await get(rt, key_id, _changeable(endpoint_id))
    # The row stays: deliveries that are being made just now refer to it.
    values = {"deleted_at": rt.now(), "url": "", "name": "", "headers": None, "event_types": []}
    async with rt.db.write() as connection:
        await connection.execute(update(ENDPOINTS).where(E.id == endpoint_id, *_of(key_id)).values(values))


async def rotate(rt: Runtime, key_id: str, endpoint_id: str, *, keep: bool) -> WithSecret:
    """A new secret. The old ones end at once, or with `keep` sign for another 24 hours, beside the new one."""
    now = rt.now()
    salt = secrets.token_hex(8)
    async with rt.db.write() as connection:
        await accounts.lock(connection, key_id)
        owner, row = await _find(connection, key_id, endpoint_id)
        held = await _salts(connection, owner, now)
        if keep and len(held) >= MOST_SECRETS:
            message = f"{MOST_SECRETS} secrets of this endpoint are active already."
            raise invalid("keep_old_secret_active_for_24_hours", message)
        if held == [""]:
            await _add(connection, owner, "", now)
        end = now + OVERLAP if keep else now
        ending = update(ENDPOINT_SECRETS).where(S.owner_id == owner, (S.until.is_(None)) | (S.until > end))
        await connection.execute(ending.values(until=end))
        await _add(connection, owner, salt, now)
        if owner == row["id"]:
            await connection.execute(update(ENDPOINTS).where(E.id == owner).values(updated_at=now))
    secret = signing.webhook_secret(rt.secrets.webhooks, owner, salt)
    return WithSecret(_record({**row, "updated_at": now}, secret), secret)


async def live(connection: AsyncConnection, rt: Runtime, owner: str) -> list[str]:
    """The texts of the secrets that sign now for an endpoint, or for a key's single tasks; the newest first."""
    return [
        signing.webhook_secret(rt.secrets.webhooks, owner, one) for one in await _salts(connection, owner, rt.now())
    ]


def signer(endpoint: Mapping[str, Any]) -> str:
    """Whose secrets sign for an endpoint: its own, or for that of a single task those of its key."""
    owner: str = endpoint["key_id"] if endpoint["task_id"] else endpoint["id"]
    return owner


async def disable(connection: AsyncConnection, rt: Runtime, endpoint: Mapping[str, Any], reason: str) -> list[str]:
    """Ends an endpoint that is gone or fails for long, and tells its owner's others: the ids of those deliveries."""
    off = update(ENDPOINTS).where(E.id == endpoint["id"], E.disabled_at.is_(None), E.deleted_at.is_(None))
    done = await connection.execute(off.values(disabled_at=rt.now(), reason=reason))
    if done.rowcount == 0 or endpoint["task_id"]:
        return []
    data = {"webhook_endpoint_id": endpoint["id"], "name": endpoint["name"], "reason": reason}
    return await outbox.announce(connection, rt, endpoint["key_id"], outbox.ENDPOINT_DISABLED, data)


def _types(kind: str, operation: str) -> dict[str, str]:
    """The events of a task that does this, by their last word."""
    return {word: f"{kind}.{operation}.{word}" for word in WORDS}


def _row(rt: Runtime, key_id: str, name: str, url: str, event_types: list[str], base: str) -> dict[str, Any]:
    now = rt.now()
    return {
        "id": ids.new("we", now), "key_id": key_id, "task_id": None, "name": name, "url": url, "headers": None,
        "event_types": event_types, "base": base, "created_at": now, "updated_at": now, "failing_since": None,
        "disabled_at": None, "reason": None,
    }  # fmt: skip


def _known(event_types: Iterable[str]) -> list[str]:
    """The types, each once; raises what is wrong with them."""
    wanted = list(dict.fromkeys(event_types))
    if not wanted:
        raise invalid("event_types", "event_types must name at least one; GET /v1/webhook_event_types lists them.")
    for one in wanted:
        if one not in EVENT_TYPES:
            message = f"event_types: {shown(one)} is not offered here; GET /v1/webhook_event_types lists what is."
            raise invalid("event_types", message)
    return wanted


def _changeable(endpoint_id: str) -> str:
    if endpoint_id == DEFAULT:
        raise invalid("webhook_endpoint_id", "The endpoint of single tasks is where each task says; only its secret "
                      "can be rotated.")  # fmt: skip
    return endpoint_id


def _of(key_id: str) -> tuple[ColumnElement[bool], ...]:
    """A key's own endpoints."""
    return E.key_id == key_id, E.task_id.is_(None), E.deleted_at.is_(None)


async def _find(connection: AsyncConnection, key_id: str, endpoint_id: str) -> tuple[str, Mapping[str, Any]]:
    """Who owns the secrets of an endpoint, and its row; raises `endpoint_not_found`."""
    if endpoint_id == DEFAULT:
        born = (await connection.execute(select(VIRTUAL_KEYS.c.created_at).where(VIRTUAL_KEYS.c.id == key_id))).scalar()
        types = [f"*.{word}" for word in ENDINGS]
        row = {"id": DEFAULT, "name": "single tasks", "url": "", "event_types": types}
        return key_id, row | {"created_at": born, "updated_at": born} | dict.fromkeys(FIELDS[6:])
    if ids.is_id(endpoint_id, "we"):
        found = await connection.execute(select(ENDPOINTS).where(E.id == endpoint_id, *_of(key_id)))
        if (own := found.mappings().first()) is not None:
            return endpoint_id, dict(own)
    raise GatewayError("endpoint_not_found", "There is no such webhook endpoint.")


async def _salts(connection: AsyncConnection, owner: str, now: dt.datetime) -> list[str]:
    """From what the secrets are derived that sign now, the newest first."""
    statement = select(S.salt, S.until).where(S.owner_id == owner).order_by(S.created_at.desc())
    rows = sorted((await connection.execute(statement)).all(), key=lambda row: row.until is not None)
    return [row.salt for row in rows if row.until is None or row.until > now] if rows else [""]


async def _add(connection: AsyncConnection, owner: str, salt: str, now: dt.datetime) -> None:
    await connection.execute(insert(ENDPOINT_SECRETS), {"owner_id": owner, "salt": salt, "created_at": now})


def _record(row: Mapping[str, Any], secret: str) -> EndpointRecord:
    return EndpointRecord(**{name: row[name] for name in FIELDS}, hint=f"whsec_…{secret[-4:]}")
