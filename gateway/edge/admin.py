"""`/admin/v1`: administration, for the holder of the admin key only."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from gateway.core import accounts, keys
from gateway.core.accounts import AccountRecord
from gateway.core.runtime import Runtime
from gateway.edge.accounts import (
    BudgetBody,
    BudgetChange,
    LimitsBody,
    LimitsChange,
    UsageBody,
    budget_body,
    budget_of,
    changed_budget,
    limits_body,
    limits_of,
    usage_body,
)
from gateway.web.body import read_all, taking

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Time = Annotated[int, Meta(ge=0, le=253_402_300_799, description="Unix seconds.")]
Days = Annotated[int, Meta(ge=0, le=36_500, description="How long what the key makes is kept, in days; 0: for ever.")]


class KeyRequest(msgspec.Struct):
    """A key to issue. `key` imports a text that clients already have, in place of a new one."""

    name: Name
    expires_at: Time | None = None
    key: Annotated[str, Meta(min_length=16, max_length=256)] | None = None
    owner: str | None = None
    budget: BudgetBody | None = None
    limits: LimitsChange | None = None
    retention_days: Days | None = None


class KeyChange(msgspec.Struct):
    """What is to change about a key: what is absent stays, and null takes away."""

    name: Name | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    owner: str | UnsetType | None = UNSET
    budget: BudgetChange | UnsetType | None = UNSET
    limits: LimitsChange | UnsetType | None = UNSET
    retention_days: Days | UnsetType | None = UNSET


class KeyBody(msgspec.Struct):
    """A virtual key. `key` is its text: in the reply that issued it, and never again."""

    id: str
    name: str
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    owner: str | None
    budget: BudgetBody | None
    limits: LimitsBody
    usage: UsageBody
    retention_days: int | None
    object: str = "key"
    key: str | UnsetType = UNSET


class KeyList(msgspec.Struct):
    """All keys, the newest last."""

    data: list[KeyBody]
    object: str = "list"


@post("/keys", operation_class=taking(KeyRequest), status_code=201)
async def create_key(request: Request[Any, Any, Any], rt: NamedDependency[Runtime]) -> KeyBody:
    """Issues a virtual key."""
    body = await read_all(request, KeyRequest)
    budget = budget_of(body.budget)
    issued = await keys.create(
        rt, body.name, expires_at=_time(body.expires_at), text=body.key, owner=body.owner,
        budget=None if isinstance(budget, UnsetType) else budget, limits=limits_of(body.limits or UNSET),
        retention_days=body.retention_days,
    )  # fmt: skip
    return await _one(rt, issued.id, issued.text)


@get("/keys")
async def list_keys(rt: NamedDependency[Runtime]) -> KeyList:
    """All virtual keys, without their texts."""
    found = await accounts.of_keys(rt)
    return KeyList([_body(record, found[record.id]) for record in await keys.listing(rt) if record.id in found])


@get("/keys/{key_id:str}")
async def get_key(rt: NamedDependency[Runtime], key_id: FromPath[str]) -> KeyBody:
    """One virtual key."""
    return await _one(rt, key_id)


@patch("/keys/{key_id:str}", operation_class=taking(KeyChange), status_code=200)
async def change_key(request: Request[Any, Any, Any], rt: NamedDependency[Runtime], key_id: FromPath[str]) -> KeyBody:
    """Changes a virtual key: its name, its end, its owner, what it may spend and do. Tasks that run are not touched."""
    body = await read_all(request, KeyChange)
    account = await accounts.get(rt, (await keys.get(rt, key_id)).id)
    expires_at = body.expires_at if isinstance(body.expires_at, UnsetType) else _time(body.expires_at)
    await keys.change(
        rt, key_id, name=body.name, expires_at=expires_at, owner=body.owner,
        budget=changed_budget(body.budget, account), limits=limits_of(body.limits),
        retention_days=body.retention_days,
    )  # fmt: skip
    return await _one(rt, key_id)


@delete("/keys/{key_id:str}", status_code=200)
async def revoke_key(rt: NamedDependency[Runtime], key_id: FromPath[str]) -> KeyBody:
    """Ends a virtual key, at once and for good."""
    await keys.revoke(rt, key_id)
    return await _one(rt, key_id)


async def _one(rt: Runtime, key_id: str, text: str | None = None) -> KeyBody:
    record = await keys.get(rt, key_id)
    return _body(record, await accounts.get(rt, record.id), text)


def _time(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def _body(record: keys.KeyRecord, account: AccountRecord, text: str | None = None) -> KeyBody:
    return KeyBody(
        id=record.id,
        name=record.name,
        hint=record.hint,
        created_at=int(record.created_at.timestamp()),
        expires_at=None if record.expires_at is None else int(record.expires_at.timestamp()),
        revoked_at=None if record.revoked_at is None else int(record.revoked_at.timestamp()),
        owner=record.owner,
        budget=budget_body(account),
        limits=limits_body(account),
        usage=usage_body(account),
        retention_days=record.retention_days,
        key=text or UNSET,
    )


router = Router("/", route_handlers=[create_key, list_keys, get_key, change_key, revoke_key], tags=["Administration"])
SHAPES = (KeyRequest, KeyChange)
