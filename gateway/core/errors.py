"""What goes wrong, in a closed set of codes. Each dialect renders a GatewayError in its own shape."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

QUOTED = re.compile(r"`([^`]*)`")
WORDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


class Code(msgspec.Struct, frozen=True):
    """What a code means on the wire: HTTP status, OpenAI error type, and whether sending it again may help."""

    status: int
    type: str
    retryable: bool = False


INVALID = "invalid_request_error"
CODES: dict[str, Code] = {
    "missing_parameter": Code(400, INVALID),
    "invalid_parameter": Code(400, INVALID),
    "unsupported_parameter": Code(400, INVALID),
    "unsupported_operation": Code(400, INVALID),
    "invalid_image_size": Code(400, INVALID),
    "invalid_image": Code(400, INVALID),
    "invalid_json": Code(400, INVALID),
    "invalid_multipart": Code(400, INVALID),
    "invalid_request": Code(400, INVALID),
    "invalid_header": Code(400, INVALID),
    "endpoint_unreachable": Code(400, INVALID),
    "content_policy_violation": Code(400, INVALID),
    "unpriced_model": Code(400, INVALID),
    "provider_refused": Code(400, INVALID),
    "invalid_api_key": Code(401, "authentication_error"),
    "model_not_allowed": Code(403, "permission_error"),
    "operation_not_allowed": Code(403, "permission_error"),
    "not_found": Code(404, "not_found_error"),
    "model_not_found": Code(404, "not_found_error"),
    "task_not_found": Code(404, "not_found_error"),
    "media_not_found": Code(404, "not_found_error"),
    "video_not_found": Code(404, "not_found_error"),
    "key_not_found": Code(404, "not_found_error"),
    "account_not_found": Code(404, "not_found_error"),
    "endpoint_not_found": Code(404, "not_found_error"),
    "delivery_not_found": Code(404, "not_found_error"),
    "method_not_allowed": Code(405, INVALID),
    "request_timeout": Code(408, INVALID, retryable=True),
    "task_not_cancellable": Code(409, "conflict_error"),
    "task_not_retryable": Code(409, "conflict_error"),
    "task_not_held": Code(409, "conflict_error"),
    "video_not_ready": Code(409, "conflict_error"),
    "cleanup_running": Code(409, "conflict_error"),
    "store_unmarked": Code(409, "conflict_error"),
    "endpoint_disabled": Code(409, "conflict_error"),
    "payload_too_large": Code(413, INVALID),
    "uri_too_long": Code(414, INVALID),
    "unsupported_media_type": Code(415, INVALID),
    "idempotency_key_reused": Code(422, INVALID),
    "range_not_satisfiable": Code(416, INVALID),
    "rate_limit_exceeded": Code(429, "rate_limit_error", retryable=True),
    "insufficient_quota": Code(429, "insufficient_quota"),
    "headers_too_large": Code(431, INVALID),
    "internal_error": Code(500, "server_error"),
    "provider_error": Code(502, "provider_error"),
    "outcome_unknown": Code(502, "provider_error"),
    "model_overloaded": Code(503, "overloaded_error", retryable=True),
    "moderation_unavailable": Code(503, "overloaded_error", retryable=True),
    "storage_unavailable": Code(503, "overloaded_error", retryable=True),
    "database_unavailable": Code(503, "overloaded_error", retryable=True),
    "timeout": Code(504, "timeout_error"),
    "cancelled": Code(409, "conflict_error"),
}


class GatewayError(Exception):
    """A request or a task failed in a way that the caller may know about.

    `message` is for the caller; private detail goes to the log. `param` names the field that was wrong. `task_id`
    says that a task exists, or may: a client that sends the request again would make a second one.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        task_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.task_id = task_id
        self.headers = headers or {}

    @property
    def kind(self) -> Code:
        """Status, type and advice of the code."""
        return CODES[self.code]

    @property
    def retryable(self) -> bool:
        """Whether the very same request may be sent again: never once a task was accepted for it."""
        return self.kind.retryable and self.task_id is None


def invalid(param: str, message: str, *, code: str = "invalid_parameter") -> GatewayError:
    """The error of one wrong field."""
    return GatewayError(code, message, param=param)


def allowed(param: str, value: Any, values: Any, *, code: str = "invalid_parameter") -> GatewayError:
    """The error of a field whose value is not one of the allowed ones."""
    listed = ", ".join(str(one) for one in values)
    return GatewayError(code, f"{param} {shown(value)} is not offered here. Allowed: {listed}.", param=param)


def shown(value: Any) -> str:
    """A piece of the caller's input as it may appear in a message: short, quoted, without control characters."""
    text = repr(value)
    return text if len(text) <= 66 else text[:64] + "…'"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 task`, `2 tasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plain(what: str) -> str:
    """What a decoder found wrong, in words that do not know Python: "Expected `int | null`" → "expected an integer"."""
    plain = QUOTED.sub(lambda found: _in_words(found[1]), what)
    return plain[:1].lower() + plain[1:]


def _in_words(types: str) -> str:
    named = [one for one in types.split(" | ") if one != "null"] or ["null"]
    return " or ".join(WORDS.get(one, one) for one in named)


def choices(shape: type[msgspec.Struct], name: str) -> list[Any]:
    """The values of a field that is a Literal, or may be one."""
    hint = get_type_hints(shape).get(name)
    return [value for one in (hint, *get_args(hint)) if get_origin(one) is Literal for value in get_args(one)]
