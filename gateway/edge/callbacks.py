"""Where vendors tell us that a job moved. The address itself is the key: it was given to that vendor alone."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.core import callbacks
from gateway.core.runtime import Runtime
from gateway.edge.auth import NO_KEY
from providers.contract import Callback


@post(callbacks.PATH + "/{reference:str}/{signature:str}", security=NO_KEY, status_code=200, include_in_schema=False)
async def hear(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], reference: FromPath[str], signature: FromPath[str]
) -> Response[Any]:
    """Takes a provider's callback."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    answer = await callbacks.hear(rt, reference, signature, Callback(headers, await request.body()))
    return Response(dict(answer), media_type="application/json")


router = Router("/", route_handlers=[hear])
