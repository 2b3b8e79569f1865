"""fal's queue: an order becomes a job with addresses of its own, that is streamed, looked at, and fetched."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from tests.acceptance.vendors.standin import BLOCKED, Order, StandIn, pictures_in

MODELS = "fal-ai/flux/schnell|fal-ai/flux-pro/kontext"
JOB = "/fal-ai/{app}/requests/{job}"


class Fal(StandIn):
    """What is paid is one POST. A job that was blocked is COMPLETED too."""

    name = "fal"
    scheme = "Key"

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, Order] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post(f"/{{model:{MODELS}}}", self.submit), web.get(f"{JOB}/status", self.status),
            web.get(f"{JOB}/status/stream", self.stream), web.get(JOB, self.result),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        return web.json_response({"detail": "No user found for Key ID and Secret"}, status=401)

    async def submit(self, request: web.Request) -> web.Response:
        members = await request.json()
        files = pictures_in(members)
        order = self.take(members["prompt"], {name: one for name, one in members.items() if name not in files}, files)
        size = members.get("image_size", {"width": 64, "height": 64})
        if order.verb != BLOCKED:
            order.make(members.get("num_images", 1), f"{size['width']}x{size['height']}")
        job, owner = secrets.token_hex(16), "/".join(request.match_info["model"].split("/")[:2])
        self._jobs[job] = order
        at = f"{self.url}/{owner}/requests/{job}"
        places = {"response_url": at, "status_url": f"{at}/status", "cancel_url": f"{at}/cancel"}
        return web.json_response({"status": "IN_QUEUE", "request_id": job, "queue_position": 0, **places})

    async def status(self, request: web.Request) -> web.Response:
        if request.match_info["job"] not in self._jobs:
            return web.json_response({"detail": "Request not found"}, status=404)
        return web.json_response({"status": "COMPLETED", "logs": []})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for status in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"):
            await response.write(f"data: {json.dumps({'status': status, 'logs': []})}\n\n".encode())
        return response

    async def result(self, request: web.Request) -> web.Response:
        order = self._jobs[request.match_info["job"]]
        if order.verb == BLOCKED:
            wrong: dict[str, Any] = {"loc": ["body", "prompt"], "msg": "Flagged.", "type": "content_policy_violation"}
            return web.json_response({"detail": [wrong]}, status=422)
        images = [{"url": self.keep(one), "content_type": "image/png"} for one in order.made]
        return web.json_response({"images": images, "has_nsfw_concepts": [False] * len(images)})
