"""Stability AI's services: a form for each picture, answered with it, or with a job whose result is the picture."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from aiohttp import web

from tests.acceptance.vendors.pictures import picture
from tests.acceptance.vendors.standin import BLOCKED, FEWER, Order, StandIn, form

SLOW = "upscale/creative"
SERVICES = f"generate/core|edit/inpaint|{SLOW}"


class Stability(StandIn):
    """What is paid is one POST for each picture. Of `fewer` the filter blurs the first one."""

    name = "stability"

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, Order] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.get("/v1/user/balance", self.balance), web.get("/v2beta/results/{job}", self.result),
            web.post(f"/v2beta/stable-image/{{service:{SERVICES}}}", self.make),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        return _error(401, "unauthorized", "authorization: invalid or missing header value")

    async def balance(self, _: web.Request) -> web.Response:
        return web.json_response({"credits": 12.5})

    async def make(self, request: web.Request) -> web.Response:
        texts, files = await form(request)
        order = self.take(texts["prompt"], texts, files)
        if order.verb == BLOCKED:
            return _error(403, "content_moderation", "Your request was flagged by our content moderation system.")
        if order.verb == FEWER and self.of(order.prompt) == [order]:
            return _picture(picture(), "CONTENT_FILTERED")
        order.made = [picture()]
        if request.match_info["service"] == SLOW:
            job = secrets.token_hex(32)
            self._jobs[job] = order
            return web.json_response({"id": job})
        return _picture(order.made[0])

    async def result(self, request: web.Request) -> web.Response:
        return _picture(self._jobs[request.match_info["job"]].made[0])


def _picture(data: bytes, reason: str = "SUCCESS") -> web.Response:
    return web.Response(body=data, content_type="image/png", headers={"finish-reason": reason, "seed": "7"})


def _error(status: int, name: str, words: str) -> web.Response:
    return web.json_response({"id": secrets.token_hex(16), "name": name, "errors": [words]}, status=status)
