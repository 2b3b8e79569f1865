"""`/v1/media` and `/v1/images/{id}`: the bytes that a key owns, and what is known of them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, Router, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from gateway.core import assets, erasing
from gateway.core.errors import allowed, invalid
from gateway.core.ids import is_id
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime
from gateway.dialects.wire import Page, media_body, page
from gateway.web.query import order_of, page_size
from gateway.web.serving import serve
from providers.contract import Kind


class DeletedBody(msgspec.Struct):
    """What a deletion answers."""

    id: str
    object: str
    deleted: bool = True


@get("/v1/media")
async def list_media(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    type: FromQuery[str | None] = None,
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    order: FromQuery[str | None] = None,
) -> Page:
    """The key's own media, the newest first."""
    kinds = [kind.value for kind in Kind]
    if type is not None and type not in kinds:
        raise allowed("type", type, kinds)
    if after is not None and not is_id(after, *assets.PREFIXES.values()):
        raise invalid("after", "after must be the id of media.")
    found, more = await assets.listing(
        rt, caller.key_id, kind=type, after=after, limit=page_size(limit), descending=order_of(order) == "desc"
    )
    base = str(request.base_url).rstrip("/")
    return page([media_body(rt, asset, base) for asset in found], more)


@get(["/v1/images/{asset_id:str}", "/v1/media/{asset_id:str}"])
async def read_media(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    asset_id: FromPath[str],
) -> Response[Any]:
    """The bytes; with `Accept: application/json`, what is known of them."""
    asset = await assets.get(rt, asset_id, caller.key_id)
    if "application/json" in request.headers.get("accept", ""):
        return Response(media_body(rt, asset, str(request.base_url).rstrip("/")))
    return await serve(request, rt, asset)


@delete(["/v1/images/{asset_id:str}", "/v1/media/{asset_id:str}"], status_code=200)
async def delete_media(
    rt: NamedDependency[Runtime], caller: NamedDependency[Caller], asset_id: FromPath[str]
) -> DeletedBody:
    """Deletes the media for good, bytes included; with a task's last media goes what it was made from."""
    asset = await assets.get(rt, asset_id, caller.key_id)
    await erasing.delete(rt, asset)
    return DeletedBody(asset.id, f"{asset.kind}.deleted")


router = Router("/", route_handlers=[list_media, read_media, delete_media], tags=["Media"])
