"""OpenAI's Images API: pictures in base64, edits as forms, streams with previews, and a count of tokens for each."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from tests.acceptance.vendors.pictures import picture
from tests.acceptance.vendors.standin import BLOCKED, Order, StandIn, form

NAMES = {"/v1/images/generations": "image_generation", "/v1/images/edits": "image_edit"}
TEXT_TOKENS, PICTURE_TOKENS = 20, 196


class OpenAI(StandIn):
    """What is paid is one POST, whatever comes of it but a refusal."""

    name = "openai"
    root = "/v1"

    def __init__(self) -> None:
        super().__init__()
        self.previews: list[bytes] = []

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.get("/v1/models", self.models), web.post("/v1/images/generations", self.generate),
            web.post("/v1/images/edits", self.edit),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        return _error(401, "invalid_api_key", "Incorrect API key provided.", "invalid_request_error")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-image-2", "object": "model"}]})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        return await self._make(request, await request.json(), {})

    async def edit(self, request: web.Request) -> web.StreamResponse:
        texts, files = await form(request)
        return await self._make(request, texts, files)

    async def _make(
        self, request: web.Request, members: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> web.StreamResponse:
        order = self.take(members["prompt"], members, files)
        if order.verb == BLOCKED:
            words = "Your request was rejected by the safety system. safety_violations=[violence]."
            return _error(400, "moderation_blocked", words, "image_generation_user_error")
        order.make(int(members.get("n", 1)), members["size"])
        order.usage = _usage(order)
        if str(members.get("stream")).lower() == "true":
            return await self._stream(request, order)
        data = [{"b64_json": b64encode(one).decode()} for one in order.made]
        return web.json_response({"created": 1, "data": data, "output_format": "png", "usage": order.usage})

    async def _stream(self, request: web.Request, order: Order) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        name = NAMES[request.path]
        for index in range(int(order.members["partial_images"])):
            self.previews.append(picture(order.members["size"]))
            body = {"partial_image_index": index, "b64_json": b64encode(self.previews[-1]).decode()}
            await response.write(_event(f"{name}.partial_image", body))
        body = {"b64_json": b64encode(order.made[0]).decode(), "usage": order.usage}
        await response.write(_event(f"{name}.completed", body))
        return response


def _usage(order: Order) -> dict[str, Any]:
    seen, made = PICTURE_TOKENS * len(order.pictures), PICTURE_TOKENS * len(order.made)
    return {
        "input_tokens": TEXT_TOKENS + seen, "output_tokens": made, "total_tokens": TEXT_TOKENS + seen + made,
        "input_tokens_details": {"text_tokens": TEXT_TOKENS, "image_tokens": seen},
        "output_tokens_details": {"image_tokens": made, "text_tokens": 0},
    }  # fmt: skip


def _event(name: str, body: dict[str, Any]) -> bytes:
    members = {"type": name, "created_at": 1, "output_format": "png", "size": "1024x1024", **body}
    return f"event: {name}\ndata: {json.dumps(members)}\n\n".encode()


def _error(status: int, code: str, message: str, kind: str) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.json_response(body, status=status)
