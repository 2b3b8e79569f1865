"""Query parameters of lists, read strictly: what is not understood is refused with the field's name."""

from __future__ import annotations

from typing import Any

from litestar import Request

from gateway.core.errors import allowed, invalid

DEFAULT_PAGE, LARGEST_PAGE = 20, 100


async def refuse_repeats(request: Request[Any, Any, Any]) -> None:
    """Refuses a query parameter of the route that is given more than once: nobody could say which one counts."""
    if request.scope["query_string"]:
        for name in request.route_handler.parsed_fn_signature.parameters:
            if len(request.query_params.getall(name, [])) > 1:
                raise invalid(name, f"{name} is given more than once.")


def plain_text(name: str, text: str | None) -> str | None:
    """A text to look for, as it is; NUL is none that a database could look for."""
    if text is not None and "\0" in text:
        raise invalid(name, f"{name} holds the character NUL, which is not taken.")
    return text


def whole_number(name: str, text: str, least: int, most: int) -> int:
    """A whole number in plain ASCII digits within bounds."""
    if text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most:
        return int(text)
    raise invalid(name, f"{name} must be a whole number from {least} to {most}.")


def page_size(limit: str | None) -> int:
    """How many entries a page has."""
    return DEFAULT_PAGE if limit is None else whole_number("limit", limit, 1, LARGEST_PAGE)


def order_of(order: str | None) -> str:
    """`desc`, the newest first, unless `asc` is asked for."""
    if order not in (None, "asc", "desc"):
        raise allowed("order", order, ("asc", "desc"))
    return order or "desc"
