"""Who is calling: the virtual key of a request, or the administrator."""

from __future__ import annotations

import hmac
import math
from contextlib import suppress
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Message, Scope

from gateway.core import accounts, grants, keys
from gateway.core.accounts import account_ids
from gateway.core.errors import GatewayError
from gateway.core.feed import Feed
from gateway.core.grants import Grant
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime
from storage.database import DatabaseUnavailable

# For the reference: an address that anybody may call.
NO_KEY: list[dict[str, list[str]]] = [{}]
NOT_GOOD = "The access_token is no realtime token that is good now. POST /v1/realtime/tokens makes one."
REFUSED = "The API key is missing or not valid. Send it as: Authorization: Bearer <key>."


async def provide_runtime(request: Request[Any, Any, Any]) -> Runtime:
    """The process's runtime."""
    runtime: Runtime = request.app.state.runtime
    return runtime


async def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """The caller behind the key of the request; raises `invalid_api_key` alike for whatever is wrong with it."""
    runtime: Runtime = request.app.state.runtime
    caller = await keys.authenticate(runtime, key_text(request))
    if caller is None:
        raise GatewayError("invalid_api_key", REFUSED)
    if caller.limited:
        request.scope["state"]["limited"] = caller
    return caller


async def provide_grant(request: Request[Any, Any, Any]) -> Grant:
    """What the request may follow: by its key, or by a realtime token, which alone may also stand in the address."""
    runtime: Runtime = request.app.state.runtime
    token = request.query_params.get("access_token")
    text, alone = (token, True) if token is not None else (key_text(request), False)
    grant = await grants.admit(runtime, text, tokens_only=alone)
    if grant is None:
        raise GatewayError("invalid_api_key", NOT_GOOD if alone else REFUSED)
    return grant


async def provide_feed(request: Request[Any, Any, Any]) -> Feed:
    """The process's feed."""
    feed: Feed = request.app.state.feed
    return feed


async def add_rates(message: Message, scope: Scope) -> None:
    """Says on every reply of a limited key how many requests are left: of several limits, of the tightest."""
    caller = scope.get("state", {}).get("limited")
    if caller is None or message["type"] != "http.response.start":
        return
    runtime: Runtime = scope["litestar_app"].state.runtime
    with suppress(DatabaseUnavailable):
        found = await accounts.read(runtime, account_ids(caller.key_id, caller.owner))
        rates = [rate for account in found for rate in account.rates]
        tightest = min(rates, key=lambda rate: (rate.left, -rate.resets_at.timestamp()), default=None)
        if tightest is not None:
            seconds = max(math.ceil((tightest.resets_at - runtime.now()).total_seconds()), 1)
            message["headers"] = [
                *message["headers"],
                (b"x-ratelimit-limit-requests", str(tightest.limit).encode()),
                (b"x-ratelimit-remaining-requests", str(tightest.left).encode()),
                (b"x-ratelimit-reset-requests", f"{seconds}s".encode()),
            ]


async def require_admin(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard that lets only the administrator pass; a virtual key is told that it is not one."""
    runtime: Runtime = connection.app.state.runtime
    text, admin = key_text(connection), runtime.settings.admin_key
    if admin is not None and hmac.compare_digest(text.encode(), admin.encode()):
        return
    if await keys.authenticate(runtime, text) is not None:
        raise GatewayError("operation_not_allowed", "This needs the admin key.")
    raise GatewayError("invalid_api_key", REFUSED)


def key_text(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The key that the request carries, as a bearer or in X-API-Key; empty when there is none, or more than one."""
    given = request.headers.getall("authorization", [])
    if not given:
        given = [f"Bearer {key}" for key in request.headers.getall("x-api-key", [])]
    if len(given) != 1:
        return ""
    scheme, _, text = given[0].partition(" ")
    return text if scheme.lower() == "bearer" else ""
