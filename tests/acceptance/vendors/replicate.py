"""Replicate: an order becomes a prediction, which is answered when it is done, or tells so by a signed webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.acceptance.vendors.standin import BLOCKED, Call, Order, StandIn, form, pictures_in

MODELS = "flux-schnell|flux-kontext-pro"
FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005) (uIJ6l3ruRD)"


@dataclass
class Prediction:
    """An order, the model that it is for, where the webhook goes, and whether it is done."""

    order: Order
    model: str
    webhook: str | None
    done: bool = False


class Replicate(StandIn):
    """What is paid is one POST of a prediction. Who waits for the answer gets it done."""

    name = "replicate"
    root = "/v1"

    def __init__(self) -> None:
        super().__init__()
        self.predictions: dict[str, Prediction] = {}
        self._key = secrets.token_bytes(24)
        self._uploads: dict[str, bytes] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.get("/v1/account", self.account), web.get("/v1/webhooks/default/secret", self.key),
            web.post(f"/v1/models/black-forest-labs/{{model:{MODELS}}}/predictions", self.predict),
            web.post("/v1/files", self.upload), web.get("/v1/predictions/{id}", self.look),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        body = {"title": "Unauthenticated", "detail": "You did not pass a valid authentication token", "status": 401}
        return web.json_response(body, status=401)

    async def account(self, _: web.Request) -> web.Response:
        return web.json_response({"type": "organization", "username": "acme"})

    async def key(self, _: web.Request) -> web.Response:
        return web.json_response({"key": f"whsec_{base64.b64encode(self._key).decode()}"})

    async def upload(self, request: web.Request) -> web.Response:
        _, files = await form(request)
        address = f"{self.url}/v1/files/{secrets.token_hex(8)}"
        self._uploads[address] = files["content"]
        return web.json_response({"id": address[-16:], "urls": {"get": address}}, status=201)

    async def predict(self, request: web.Request) -> web.Response:
        sent = await request.json()
        members = sent["input"]
        files = pictures_in(members) | {
            name: self._uploads[value]
            for name, value in members.items()
            if isinstance(value, str) and value in self._uploads
        }
        order = self.take(members["prompt"], {name: one for name, one in members.items() if name not in files}, files)
        made = Prediction(order, request.match_info["model"], sent.get("webhook"))
        if "prefer" in request.headers:
            self._finish(made)
        name = secrets.token_hex(13)
        self.predictions[name] = made
        return web.json_response(self._body(name), status=201)

    async def look(self, request: web.Request) -> web.Response:
        return web.json_response(self._body(request.match_info["id"]))

    def looks(self, prompt: str) -> list[Call]:
        """The looks at a prediction so far; none before there is one."""
        return [call for name in self._named(prompt) for call in self.called(f"/v1/predictions/{name}")]

    def finish(self, prompt: str, *, forged: bool = False) -> int:
        """Finishes a prediction, and calls back; the status that answers it. A `forged` one is signed by a stranger."""
        (name,) = self._named(prompt)
        made = self.predictions[name]
        assert made.webhook is not None
        if not forged:
            self._finish(made)
        body, identity, stamp = json.dumps(self._body(name)).encode(), f"msg_{name}", str(int(time.time()))
        key = b"no key of theirs" if forged else self._key
        signed = hmac.new(key, f"{identity}.{stamp}.".encode() + body, hashlib.sha256).digest()
        signature = f"v1,{base64.b64encode(signed).decode()}"
        headers = {"webhook-id": identity, "webhook-timestamp": stamp, "webhook-signature": signature}
        status, _ = self.ring(made.webhook, body, headers)
        return status

    def _named(self, prompt: str) -> list[str]:
        return [name for name, one in self.predictions.items() if one.order.prompt == prompt]

    def _finish(self, made: Prediction) -> None:
        made.done = True
        if made.order.verb != BLOCKED and not made.order.made:
            made.order.make(made.order.members.get("num_outputs", 1))

    def _body(self, name: str) -> dict[str, Any]:
        made = self.predictions[name]
        blocked = made.order.verb == BLOCKED
        return {
            "id": name, "model": f"black-forest-labs/{made.model}", "version": "hidden", "input": {}, "logs": "",
            "status": "starting" if not made.done else "failed" if blocked else "succeeded",
            "output": [self.keep(one) for one in made.order.made] if made.done and not blocked else None,
            "error": FLAGGED if made.done and blocked else None,
        }  # fmt: skip
