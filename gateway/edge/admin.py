"""`/admin/v1`: administration, for the holder of the admin key only."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta

from gateway.core import keys
from gateway.core.errors import invalid
from gateway.core.runtime import Runtime
from gateway.web.body import read, taking


class KeyRequest(msgspec.Struct):
    """A key to issue. `key` imports a text that clients already have, in place of a new one."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    expires_at: Annotated[int, Meta(ge=0, le=253_402_300_799, description="Unix seconds.")] | None = None
    key: Annotated[str, Meta(min_length=16, max_length=256)] | None = None


class KeyBody(msgspec.Struct, omit_defaults=True):
    """A virtual key. `key` is its text: in the reply that issued it, and never again."""

    id: str
    name: str
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    object: str = "key"
    key: str | None = None


class KeyList(msgspec.Struct):
    """All keys, the newest last."""

    data: list[KeyBody]
    object: str = "list"


@post("/keys", operation_class=taking(KeyRequest), status_code=201)
async def create_key(request: Request[Any, Any, Any], rt: NamedDependency[Runtime]) -> KeyBody:
    """Issues a virtual key."""
    body, unknown = await read(request, KeyRequest)
    if unknown:
        name = next(iter(unknown))[:64]
        raise invalid(name, f"{name!r} is not known here.", code="unsupported_parameter")
    expires_at = None if body.expires_at is None else dt.datetime.fromtimestamp(body.expires_at, dt.UTC)
    issued = await keys.create(rt, body.name, expires_at=expires_at, text=body.key)
    return _body(await keys.get(rt, issued.id), issued.text)


@get("/keys")
async def list_keys(rt: NamedDependency[Runtime]) -> KeyList:
    """All virtual keys, without their texts."""
    return KeyList([_body(record) for record in await keys.listing(rt)])


@get("/keys/{key_id:str}")
async def get_key(rt: NamedDependency[Runtime], key_id: FromPath[str]) -> KeyBody:
    """One virtual key."""
    return _body(await keys.get(rt, key_id))


@delete("/keys/{key_id:str}", status_code=200)
async def revoke_key(rt: NamedDependency[Runtime], key_id: FromPath[str]) -> KeyBody:
    """Ends a virtual key, at once and for good."""
    await keys.revoke(rt, key_id)
    return _body(await keys.get(rt, key_id))


def _body(record: keys.KeyRecord, text: str | None = None) -> KeyBody:
    return KeyBody(
        id=record.id,
        name=record.name,
        hint=record.hint,
        created_at=int(record.created_at.timestamp()),
        expires_at=None if record.expires_at is None else int(record.expires_at.timestamp()),
        revoked_at=None if record.revoked_at is None else int(record.revoked_at.timestamp()),
        key=text,
    )


router = Router("/", route_handlers=[create_key, list_keys, get_key, revoke_key], tags=["Administration"])
SHAPES = (KeyRequest,)
