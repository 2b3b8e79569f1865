"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, whatever went wrong and wherever."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from gateway.core.errors import GatewayError, shown
from gateway.core.tasks import TaskRecord
from storage.database import DatabaseUnavailable
from storage.objects import ObjectError

log = logging.getLogger(__name__)
RETRY_SECONDS = 2
FRAMEWORK_CODES = {
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method."),
    413: ("payload_too_large", "The request body is too large."),
    415: ("unsupported_media_type", "The request body has a media type that is not taken here."),
}


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    """What went wrong. `task_id` is there when a task had been accepted, whose result can still be fetched."""

    message: str
    type: str
    code: str | None
    param: str | None = msgspec.field(default=None)
    task_id: str | msgspec.UnsetType = msgspec.UNSET

    def to_builtins(self) -> dict[str, Any]:
        """The members as they go out: `param` always, null when no field is to blame."""
        body: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return body if self.task_id is msgspec.UNSET else body | {"task_id": self.task_id}


class ErrorBody(msgspec.Struct):
    """The body of every error under `/v1`."""

    error: ErrorDetail


def render(error: GatewayError) -> Response[Any]:
    """The reply that tells a client of the error, and whether sending the request again may help."""
    headers = {"x-should-retry": "true" if error.retryable else "false"} | error.headers
    retry_after = error.retry_after or (RETRY_SECONDS if error.retryable and error.kind.status == 503 else None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if error.kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind.status == 408:
        # What is left of the request never came, so that no other can follow it.
        headers["Connection"] = "close"
    param = None if error.param is None else _printable(error.param)
    detail = ErrorDetail(error.message, error.kind.type, error.code, param, error.task_id or msgspec.UNSET)
    if error.task_id is not None:
        headers |= {"X-Heliograph-Task-Id": error.task_id, "Location": f"/v1/tasks/{error.task_id}"}
    return Response(
        {"error": detail.to_builtins()}, status_code=error.kind.status, headers=headers, media_type=MediaType.JSON
    )


def _printable(text: str) -> str:
    """The name of a field that a caller may have made up."""
    return text if text.isprintable() else ascii(text)[1:-1]


def parts(error: GatewayError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The same reply as status, headers and body, for whoever answers before the framework is asked."""
    response = render(error)
    body = msgspec.json.encode(response.content)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return error.kind.status, headers, body


def on_gateway_error(_: Request[Any, Any, Any], error: GatewayError) -> Response[Any]:
    """A refusal or failure of our own."""
    return render(error)


def on_framework_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework refuses before a handler is reached: unknown address, method, size."""
    code, message = FRAMEWORK_CODES.get(
        error.status_code, ("invalid_parameter", "The request could not be understood.")
    )
    if error.status_code >= 500:
        return on_unforeseen_error(_, error)
    return render(GatewayError(code, message, headers=_allow(error)))


def _allow(error: HTTPException) -> dict[str, str]:
    """The header of a 405 that says what the address takes: HEAD wherever it takes GET, which the guard sees to."""
    methods = {method for method in (error.headers or {}).get("allow", "").split(", ") if method}
    if "GET" in methods:
        methods.add("HEAD")
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


def on_database_unavailable(_: Request[Any, Any, Any], error: DatabaseUnavailable) -> Response[Any]:
    """The database does not answer; a task that was accepted before is named by `after_acceptance`."""
    log.error("the database is unavailable: %s", error)
    return render(GatewayError("database_unavailable", "The database does not answer."))


def on_object_error(_: Request[Any, Any, Any], error: ObjectError) -> Response[Any]:
    """The object store does not answer."""
    log.error("the object store is unavailable: %s", error)
    return render(GatewayError("storage_unavailable", "The object store does not answer."))


def on_unforeseen_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A fault of ours. The log has the detail, under the request id that the caller got."""
    id = request.scope["state"].get("request_id")
    log.error("%s %s failed, request %s", request.method, shown(request.scope["path"]), id, exc_info=error)
    return render(GatewayError("internal_error", "Something went wrong on our side."))


@contextmanager
def after_acceptance(task: TaskRecord) -> Iterator[None]:
    """Names the task in whatever goes wrong in the block: the request must not be sent again, for the work goes on."""
    where = f"The task goes on: GET /v1/tasks/{task.id} has its result."
    try:
        yield
    except DatabaseUnavailable as error:
        raise GatewayError("database_unavailable", f"The database does not answer. {where}", task_id=task.id) from error
    except ObjectError as error:
        raise GatewayError("storage_unavailable", f"The store does not answer. {where}", task_id=task.id) from error


HANDLERS: dict[Any, Any] = {
    GatewayError: on_gateway_error,
    HTTPException: on_framework_error,
    DatabaseUnavailable: on_database_unavailable,
    ObjectError: on_object_error,
    Exception: on_unforeseen_error,
}
