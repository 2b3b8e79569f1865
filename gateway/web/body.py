"""Request bodies: JSON into a Struct, with errors that name the field, and what is unknown kept apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody

from gateway.core.errors import GatewayError, allowed, choices, invalid, plain, shown

T = TypeVar("T", bound=msgspec.Struct)
JSON = re.compile(r"^application/(json|[\w.-]+\+json)\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?$", re.IGNORECASE)
WHERE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"missing required field `(?P<name>\w+)`")
DEEPEST = 64
UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


async def read(
    request: Request[Any, Any, Any], shape: type[T], *, null: bool = False, form: bool = False
) -> tuple[T, dict[str, Any]]:
    """The body as a `shape`, and the members that it does not know. A null member counts as absent, but for `null`.

    `form` says that the route takes a form too, which is told to whoever sends neither.
    Raises GatewayError: `unsupported_media_type`, `invalid_json`, `missing_parameter` or `invalid_parameter`.
    """
    kind = request.headers.get("content-type", "").strip()
    if not JSON.match(kind):
        ways = "application/json in UTF-8, or as multipart/form-data" if form else "application/json in UTF-8"
        came = f"not as {shown(kind)}" if kind else "and say so"
        raise GatewayError("unsupported_media_type", f"Send the body with Content-Type {ways}, {came}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise GatewayError("unsupported_media_type", "Compressed request bodies are not taken.")
    try:
        body = await request.body()
    except InternalServerException as error:
        raise GatewayError("invalid_request", "The connection ended before the request body did.") from error
    return parse(body, shape, null=null)


async def read_all(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """As `read`, for bodies in which nothing may be unknown, and null says that something is to be taken away."""
    body, unknown = await read(request, shape, null=True)
    if unknown:
        name = next(iter(unknown))[:64]
        raise invalid(name, f"{name!r} is not known here.", code="unsupported_parameter")
    return body


def parse(body: bytes, shape: type[T], *, null: bool = False) -> tuple[T, dict[str, Any]]:
    """As `read`, from the bytes alone."""
    try:
        raw = msgspec.json.decode(body) if body else {}
    except UNREADABLE as error:
        raise GatewayError("invalid_json", f"The body is not JSON: {_unreadable(error)}.") from error
    if not isinstance(raw, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    _refuse_depth(raw)
    if b"\\u0000" in body:
        _refuse_nul(raw)
    return convert(raw, shape, null=null)


def convert(
    raw: dict[str, Any], shape: type[T], *, null: bool = False, texts: bool = False
) -> tuple[T, dict[str, Any]]:
    """As `read`, from the members. With `texts` they come from a form, where numbers and truth values are text."""
    names = _names(shape)
    known = {name: value for name, value in raw.items() if name in names and (null or value is not None)}
    try:
        read = msgspec.convert(known, shape, strict=not texts)
    except msgspec.ValidationError as error:
        raise explained(error, shape, known, texts=texts) from error
    return read, {name: value for name, value in raw.items() if name not in names}


def _unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "it is not in UTF-8"
    reason = str(error).removeprefix("JSON is malformed: ")
    return "it ends too early" if "truncated" in reason else reason


@cache
def _names(shape: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(shape))


def explained(
    error: msgspec.ValidationError, shape: type[msgspec.Struct], given: dict[str, Any], *, texts: bool = False
) -> GatewayError:
    """The error of a field in words, with `param` naming it; in a form all are `texts`, which goes without saying."""
    found = WHERE.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    missing = MISSING.search(what)
    if missing:
        return GatewayError("missing_parameter", f"{missing['name']} is required.", param=missing["name"])
    param = re.split(r"[.\[]", path)[0] or "body"
    offered = choices(shape, param)
    if what.startswith("Invalid enum value") and offered:
        return allowed(param, given.get(param), offered)
    if texts:
        what = what.partition(", got ")[0]
    return invalid(param, f"{path or 'The body'}: {plain(what)}.")


def _refuse_depth(body: dict[str, Any]) -> None:
    """What is nested deeper than anybody means it would sooner or later exhaust the stack of something."""
    level: list[Any] = [body]
    for _ in range(DEEPEST):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise GatewayError("invalid_json", f"The body is nested deeper than {DEEPEST} levels.")


def _refuse_nul(body: dict[str, Any]) -> None:
    """NUL is legal in JSON, but not in text that PostgreSQL stores."""
    for name, value in body.items():
        if _has_nul(name) or _has_nul(value):
            raise invalid(name[:64], f"{shown(name)} holds the character NUL, which is not taken.")


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(one) for key, one in value.items())
    if isinstance(value, list):
        return any(_has_nul(one) for one in value)
    return isinstance(value, str) and "\0" in value


def taking(shape: type[msgspec.Struct], *, form: bool = False) -> type[Operation]:
    """An OpenAPI operation whose body is a `shape`, as JSON, or as a `form` too; see `schemas`."""
    kinds = ["multipart/form-data", "application/json"] if form else ["application/json"]

    @dataclass
    class Taking(Operation):
        def __post_init__(self) -> None:
            content = OpenAPIMediaType(schema=Reference(ref=f"#/components/schemas/{shape.__name__}"))
            self.request_body = RequestBody(content=dict.fromkeys(kinds, content), required=True)

    return Taking


def schemas(*shapes: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schemas of bodies that are read by hand, for the OpenAPI components."""
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return components
