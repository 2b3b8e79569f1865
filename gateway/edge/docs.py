"""The reference page of the API, drawn from its OpenAPI description: plain HTML that needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from litestar import Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.response import Redirect

METHODS = ("get", "head", "post", "put", "patch", "delete")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.5rem } h3 { margin: 1.5rem 0 .3rem; font: 600 1rem ui-monospace, monospace }
h3 b { display: inline-block; min-width: 4.5rem; color: #06c } p { margin: .2rem 0 }
table { border-collapse: collapse; margin: .4rem 0 } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td { vertical-align: top; font-size: .9rem } code { font-family: ui-monospace, monospace }
"""


class ReferencePage(OpenAPIRenderPlugin):
    """Draws every route with its parameters and the members of its body."""

    def __init__(self, bodies: dict[str, Any]) -> None:
        super().__init__(path="/", style="")
        self.bodies = bodies

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page as UTF-8 HTML."""
        openapi_schema = _whole(openapi_schema, self.bodies)
        title = escape(openapi_schema["info"]["title"])
        parts = [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
            f"<h1>{title}</h1><p>{escape(openapi_schema['info'].get('description', ''))}</p>",
            '<p>As data: <a href="/openapi/openapi.json">openapi.json</a></p>',
            *_routes(openapi_schema),
        ]
        return "".join(parts).encode()


class Document(JsonRenderPlugin):
    """The description itself, as JSON."""

    def __init__(self, bodies: dict[str, Any]) -> None:
        super().__init__()
        self.bodies = bodies

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The whole document."""
        return super().render(request, _whole(openapi_schema, self.bodies))


def _whole(schema: dict[str, Any], bodies: dict[str, Any]) -> dict[str, Any]:
    """The description with the schemas of bodies that are read by hand, which the framework leaves out."""
    components = schema["components"]
    return {**schema, "components": {**components, "schemas": {**bodies, **components["schemas"]}}}


def _routes(schema: dict[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, item in schema.get("paths", {}).items():
        for method in METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["Other"])[0]
                by_tag.setdefault(tag, []).append(_route(method, path, item[method], schema))
    for tag, routes in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(routes)}"


def _route(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = [
        (one["name"], one["in"], one.get("description", "")) for one in operation.get("parameters", ()) if "name" in one
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for kind in content.values():
        name = kind["schema"].get("$ref", "").rpartition("/")[2]
        members = schema["components"]["schemas"].get(name, {})
        required = members.get("required", ())
        rows += [
            (member, "required" if member in required else "body", _said(one))
            for member, one in members.get("properties", {}).items()
        ]
    table = "".join(f"<tr><td><code>{escape(a)}</code><td>{escape(b)}<td>{escape(c)}" for a, b, c in rows)
    return f"<h3><b>{method.upper()}</b> {escape(path)}</h3><p>{escape(operation.get('description', ''))}</p>" + (
        f"<table>{table}</table>" if rows else ""
    )


def _said(member: dict[str, Any]) -> str:
    """A member's description, or that of whichever of its alternatives has one, or its type."""
    for one in (member, *member.get("anyOf", ())):
        if "description" in one:
            return str(one["description"])
    return ", ".join(
        str(one["type"]) for one in (member, *member.get("anyOf", ())) if one.get("type") not in (None, "null")
    )


@get("/", include_in_schema=False)
async def front() -> Redirect:
    """The front door leads to the reference."""
    return Redirect("/openapi", status_code=307)


def pages() -> Router:
    """Where the reference is served; the application adds the renderers."""
    return Router("/openapi", route_handlers=[], include_in_schema=False, after_request=_refuse_html)


async def _refuse_html(response: Response[Any]) -> Response[Any]:
    """The framework answers what is not there with a page of its own; here it is an error like any other."""
    if response.status_code == 404:
        raise NotFoundException
    return response


def renderers(bodies: dict[str, Any]) -> list[OpenAPIRenderPlugin]:
    """What draws the description; `bodies` are the schemas of request bodies by name."""
    return [ReferencePage(bodies), Document(bodies)]


router = Router("/", route_handlers=[front])
