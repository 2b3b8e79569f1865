"""`/v1/tasks`: what became of a request, for as long as anybody wants to know."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from gateway.core import tasks
from gateway.core.errors import allowed, invalid
from gateway.core.ids import is_id
from gateway.core.keys import Caller
from gateway.core.lifecycle import STATUS, states_of
from gateway.core.runtime import Runtime
from gateway.dialects.wire import AcceptedTaskBody, Page, TaskBody, accepted, page, task_body, task_headers
from gateway.web.idempotency import idempotency_of
from gateway.web.query import order_of, page_size, plain_text, whole_number

LONGEST_WAIT = 300
Wait = Annotated[
    str | None, QueryParameter(name="wait", description="Seconds to wait for the task to end, at most 300.")
]


@get("/v1/tasks")
async def list_tasks(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    status: FromQuery[str | None] = None,
    type: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    order: FromQuery[str | None] = None,
) -> Page:
    """The key's own tasks, the newest first."""
    if status is not None and not states_of(status):
        raise allowed("status", status, sorted(set(STATUS.values())))
    if after is not None and not is_id(after, "task"):
        raise invalid("after", "after must be the id of a task.")
    found, more = await tasks.listing(
        rt,
        caller.key_id,
        states=states_of(status) if status else (),
        type=plain_text("type", type),
        model=plain_text("model", model),
        after=after,
        limit=page_size(limit),
        descending=order_of(order) == "desc",
    )
    base = str(request.base_url).rstrip("/")
    return page([task_body(rt, task, base) for task in found], more)


@get(
    [
        "/v1/tasks/{task_id:str}",
        "/v1/images/generations/{task_id:str}/status",
        "/v1/videos/generations/tasks/{task_id:str}",
    ]
)
async def get_task(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    task_id: FromPath[str],
    wait: Wait = None,
) -> Response[TaskBody]:
    """One task. With `wait`, answers as soon as it has ended, or when the time is over."""
    task = await tasks.get(rt, caller.key_id, task_id)
    seconds = whole_number("wait", wait, 0, LONGEST_WAIT) if wait is not None else 0
    if seconds and not task.final:
        await rt.waiter.final(task.id, seconds)
        task = await tasks.get(rt, caller.key_id, task_id)
    return _reply(request, rt, task)


@post("/v1/tasks/{task_id:str}/cancel", status_code=200)
async def cancel_task(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    task_id: FromPath[str],
) -> Response[TaskBody]:
    """Cancels a task that has not ended: at once, or as soon as the provider lets go of it."""
    return _reply(request, rt, await tasks.cancel(rt, caller.key_id, task_id))


@post(["/v1/tasks/{task_id:str}/retry", "/v1/video/generations/{task_id:str}/retry"], status_code=202)
async def retry_task(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    task_id: FromPath[str],
) -> Response[AcceptedTaskBody]:
    """Makes a new task of a failed one, whose `retry_of` names it. What the failed one had cost stays."""
    return accepted(request, rt, await tasks.retry(rt, caller, task_id, idempotency_of(request, b"")))


@delete(["/v1/images/generations/{task_id:str}", "/v1/video/generations/{task_id:str}"], status_code=200)
async def delete_generation(
    request: Request[Any, Any, Any],
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    task_id: FromPath[str],
) -> Response[TaskBody]:
    """Another way to cancel a task, for clients that know this one."""
    return _reply(request, rt, await tasks.cancel(rt, caller.key_id, task_id))


def _reply(request: Request[Any, Any, Any], rt: Runtime, task: tasks.TaskRecord) -> Response[TaskBody]:
    return Response(task_body(rt, task, str(request.base_url).rstrip("/")), headers=task_headers(task))


router = Router("/", route_handlers=[list_tasks, get_task, cancel_task, retry_task, delete_generation], tags=["Tasks"])
