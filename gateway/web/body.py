"""Request bodies: JSON into a Struct, with errors that name the field, and what is unknown kept apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody

from gateway.core.errors import GatewayError, invalid

T = TypeVar("T", bound=msgspec.Struct)
JSON = re.compile(r"^application/(json|[\w.-]+\+json)\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?$", re.IGNORECASE)
WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"missing required field `(?P<name>\w+)`")
UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


async def read(request: Request[Any, Any, Any], shape: type[T]) -> tuple[T, dict[str, Any]]:
    """The body as a `shape`, and the members that it does not know. A null member counts as absent.

    Raises GatewayError: `unsupported_media_type`, `invalid_json`, `missing_parameter` or `invalid_parameter`.
    """
    kind = request.headers.get("content-type", "")
    if not JSON.match(kind.strip()):
        raise GatewayError("unsupported_media_type", "Send the body as Content-Type: application/json, in UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise GatewayError("unsupported_media_type", "Compressed request bodies are not taken.")
    return parse(await request.body(), shape)


def parse(body: bytes, shape: type[T]) -> tuple[T, dict[str, Any]]:
    """As `read`, from the bytes alone."""
    try:
        raw = msgspec.json.decode(body) if body else {}
    except UNREADABLE as error:
        raise GatewayError("invalid_json", "The body is not valid JSON in UTF-8, or is nested too deep.") from error
    if not isinstance(raw, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    names = _names(shape)
    known = {name: value for name, value in raw.items() if name in names and value is not None}
    _refuse_unstorable(known)
    try:
        return msgspec.convert(known, shape), {name: value for name, value in raw.items() if name not in names}
    except msgspec.ValidationError as error:
        raise explained(error) from error


@cache
def _names(shape: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(shape))


def explained(error: msgspec.ValidationError) -> GatewayError:
    """The error of a field in words, with `param` naming it."""
    found = WHERE.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    missing = MISSING.search(what)
    if missing:
        return GatewayError("missing_parameter", f"{missing['name']} is required.", param=missing["name"])
    param = re.split(r"[.\[]", path)[0] or "body"
    return invalid(param, f"{path or 'The body'}: {what[:1].lower()}{what[1:].replace('`', '')}.")


def _refuse_unstorable(known: dict[str, Any]) -> None:
    """NUL and lone surrogates are legal JSON, but no text that can be stored or sent on."""
    for name, value in known.items():
        if _unstorable(value):
            raise invalid(name, f"{name} holds a character that is not allowed: NUL or half of a surrogate pair.")


def _unstorable(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_unstorable(key) or _unstorable(one) for key, one in value.items())
    return isinstance(value, list) and any(_unstorable(one) for one in value)


def taking(shape: type[msgspec.Struct]) -> type[Operation]:
    """An OpenAPI operation whose JSON body is a `shape`; see `schemas`."""

    @dataclass
    class Taking(Operation):
        def __post_init__(self) -> None:
            content = OpenAPIMediaType(schema=Reference(ref=f"#/components/schemas/{shape.__name__}"))
            self.request_body = RequestBody(content={"application/json": content}, required=True)

    return Taking


def schemas(*shapes: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schemas of bodies that are read by hand, for the OpenAPI components."""
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return components
