"""Signed links to media: they work without a key, in any program that can follow a link, until they are over."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.core import assets
from gateway.core.errors import GatewayError
from gateway.core.runtime import Runtime
from gateway.edge.auth import NO_KEY
from gateway.web.serving import serve


@get("/media/{name:str}", security=NO_KEY)
async def follow_link(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], name: FromPath[str]
) -> Response[Any]:
    """The bytes behind a signed link. A key that comes along is not looked at."""
    expires, signature = request.query_params.get("exp", ""), request.query_params.get("sig", "")
    if not assets.link_is_valid(rt, name, expires, signature):
        raise GatewayError("media_not_found", "This link is not valid, or is over.")
    asset = await assets.get(rt, name.partition(".")[0], None)
    return await serve(request, rt, assets.file_of(asset, name))


router = Router("/", route_handlers=[follow_link], tags=["Media"])
