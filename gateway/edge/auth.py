"""Who is calling: the virtual key of a request, or the administrator."""

from __future__ import annotations

import hmac
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from gateway.core import keys
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime

# For the reference: an address that anybody may call.
NO_KEY: list[dict[str, list[str]]] = [{}]
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
    return caller


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
