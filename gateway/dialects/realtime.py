"""`POST /v1/realtime/tokens`: what a browser gets in place of a key, to follow tasks with."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from msgspec import Meta

from gateway.core import grants, tasks
from gateway.core.errors import invalid
from gateway.core.grants import LONGEST, SHORTEST, USUAL
from gateway.core.keys import Caller
from gateway.core.runtime import Runtime
from gateway.web.body import read_all, taking

Label = Annotated[str, Meta(max_length=512)]


class RealtimeTokenBody(msgspec.Struct):
    """Which tasks may be followed with the token: all of the key, one, or those that have all of these labels."""

    task_id: str | None = None
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)] | None = None
    expires_in: Annotated[int, Meta(ge=SHORTEST, le=LONGEST)] = USUAL


class RealtimeToken(msgspec.Struct):
    """A realtime token, its end in Unix seconds, and what it is for."""

    object: str
    token: str
    expires_at: int
    task_id: str | None
    metadata: dict[str, str] | None


SHAPES = [RealtimeTokenBody]


@post("/v1/realtime/tokens", status_code=200, operation_class=taking(RealtimeTokenBody))
async def make_token(
    request: Request[Any, Any, Any], rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> Response[RealtimeToken]:
    """A token that is good for following tasks, for a while, and for nothing else."""
    body = await read_all(request, RealtimeTokenBody) if await request.body() else RealtimeTokenBody()
    if body.task_id is not None and body.metadata:
        raise invalid("metadata", "A token is for one task or for those of some metadata, not for both.")
    if body.task_id is not None:
        await tasks.get(rt, caller.key_id, body.task_id)
    text, grant = grants.issue(rt, caller, task_id=body.task_id, labels=body.metadata, seconds=body.expires_in or USUAL)
    token = RealtimeToken("realtime.token", text, grant.until or 0, grant.task_id, grant.labels or None)
    return Response(token, headers={"Cache-Control": "no-store"})


router = Router("/", route_handlers=[make_token], tags=["Real time"])
