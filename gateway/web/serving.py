"""Serving an asset's bytes over HTTP: ranges, conditions, and headers under which nothing that we serve can run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from litestar import Request, Response
from litestar.response import Stream

from gateway.core.assets import Servable
from gateway.core.errors import GatewayError
from gateway.core.runtime import Runtime
from storage.objects import NoSuchObject

# Python reads no numbers of more than 4300 digits.
RANGE = re.compile(r"^bytes=([0-9]{0,4000})-([0-9]{0,4000})$")


async def serve(request: Request[Any, Any, Any], rt: Runtime, file: Servable) -> Response[Any]:
    """The file, or the part of it that the client asks for; raises `media_not_found` when the bytes are gone."""
    etag = f'"{file.sha256[:32]}"'
    headers = _headers(file, etag)
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(None, status_code=304, headers=headers)
    wanted = _range(request, file.size, etag)
    start, end = wanted or (0, file.size)
    status = 200 if wanted is None else 206
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - start)
    if request.state.get("head"):
        return Response(b"", status_code=status, headers=headers, media_type=file.media_type)
    chunks = rt.objects.read(file.object_key, start, end)
    try:
        first = await anext(chunks, b"")
    except NoSuchObject as error:
        raise GatewayError("media_not_found", "There is no such media.") from error
    return Stream(_rejoined(first, chunks), status_code=status, headers=headers, media_type=file.media_type)


async def _rejoined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _headers(file: Servable, etag: str) -> dict[str, str]:
    return {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # No longer than an hour, for an asset may be deleted; asking again costs no bytes, by its ETag.
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": f'inline; filename="{file.name}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }


def _matches(condition: str | None, etag: str) -> bool:
    if condition is None:
        return False
    return condition.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in condition.split(","))


def _range(request: Request[Any, Any, Any], size: int, etag: str) -> tuple[int, int] | None:
    """The part asked for as start and end; None for the whole, which is also what a range that makes no sense gets."""
    if_range = request.headers.get("if-range")
    found = RANGE.match(request.headers.get("range", "").strip())
    if found is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = found[1], found[2]
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        return None
    if start >= end:
        raise GatewayError(
            "range_not_satisfiable", f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end
