"""MiniMax: pictures that come with the answer, edits of another API, and films that are tasks with a callback."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import av
from aiohttp import web

from tests.acceptance.vendors.standin import BLOCKED, Call, Order, StandIn, pictures_in

TEXT_TOKENS, PICTURE_TOKENS = 20, 300
GOOD = {"status_code": 0, "status_msg": "success"}


@dataclass
class Film:
    """An order of a film, where the callback goes, and whether it is done."""

    order: Order
    callback_url: str
    done: bool = False


class MiniMax(StandIn):
    """What is paid is one POST. Failures of the older APIs come with status 200."""

    name = "minimax"

    def __init__(self) -> None:
        super().__init__()
        self.films: dict[str, Film] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.post("/v1/image_generation", self.draw), web.post("/v1/images/edits", self.edit),
            web.get("/v2/query/video_generation", self.tasks), web.post("/v1/video_generation", self.film),
            web.get("/v1/query/video_generation", self.look), web.get("/v1/files/retrieve", self.retrieve),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        error = {"type": "authorized_error", "message": "login fail (1004)", "http_code": "401"}
        return web.json_response({"type": "error", "error": error}, status=401)

    async def tasks(self, _: web.Request) -> web.Response:
        return web.json_response({"items": [], "total": 0})

    async def draw(self, request: web.Request) -> web.Response:
        members = await request.json()
        order = self.take(members["prompt"], members)
        if order.verb == BLOCKED:
            return web.json_response({"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}})
        n = members.get("n", 1)
        order.make(n, f"{members['width']}x{members['height']}")
        counts = {"success_count": str(len(order.made)), "failed_count": str(n - len(order.made))}
        urls = [self.keep(one) for one in order.made]
        return web.json_response({"data": {"image_urls": urls}, "metadata": counts, "base_resp": GOOD})

    async def edit(self, request: web.Request) -> web.Response:
        members = await request.json()
        files = pictures_in({str(place): one["image_url"] for place, one in enumerate(members.pop("images"))})
        order = self.take(members["prompt"], members, files)
        order.make(members.get("n", 1), members["size"])
        order.usage = _usage(len(files), len(order.made))
        return web.json_response({"data": [{"url": self.keep(one)} for one in order.made], "usage": order.usage})

    async def film(self, request: web.Request) -> web.Response:
        """Takes an order only when its callback address repeats a challenge."""
        members, challenge = await request.json(), secrets.token_hex(8)
        status, answer = await self.call(members["callback_url"], json.dumps({"challenge": challenge}).encode())
        if (status, answer) != (200, f'{{"challenge":"{challenge}"}}'):
            return web.json_response({"base_resp": {"status_code": 2013, "status_msg": "invalid callback_url"}})
        files, url = pictures_in(members), members.pop("callback_url")
        order = self.take(members["prompt"], {name: one for name, one in members.items() if name not in files}, files)
        name = str(secrets.randbits(48))
        self.films[name] = Film(order, url)
        return web.json_response({"task_id": name, "base_resp": GOOD})

    async def look(self, request: web.Request) -> web.Response:
        name = request.query["task_id"]
        state = {"status": "Success", "file_id": name} if self.films[name].done else {"status": "Processing"}
        return web.json_response({"task_id": name, **state, "base_resp": GOOD})

    async def retrieve(self, request: web.Request) -> web.Response:
        url = self.keep(self.films[request.query["file_id"]].order.made[0], "video/mp4")
        return web.json_response({"file": {"filename": "output.mp4", "download_url": url}, "base_resp": GOOD})

    def looks(self, prompt: str) -> list[Call]:
        """The looks at a film so far."""
        name, _ = self._named(prompt)
        return self.called(f"/v1/query/video_generation?task_id={name}")

    def finish(self, prompt: str) -> int:
        """Finishes a film, and calls back; the status that answers it."""
        name, film = self._named(prompt)
        film.order.made, film.done = [_film(film.order.members["duration"])], True
        status, _ = self.ring(film.callback_url, json.dumps({"task_id": name, "status": "success"}).encode())
        return status

    def _named(self, prompt: str) -> tuple[str, Film]:
        return next((name, one) for name, one in self.films.items() if one.order.prompt == prompt)


def _film(seconds: int) -> bytes:
    """A film of so many pictures, one for each second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(seconds):
            container.mux(stream.encode(av.VideoFrame(64, 48, "rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _usage(seen: int, made: int) -> Mapping[str, Any]:
    return {
        "input_tokens_details": {"text_tokens": TEXT_TOKENS, "image_tokens": PICTURE_TOKENS * seen},
        "output_tokens": PICTURE_TOKENS * made, "total_tokens": TEXT_TOKENS + PICTURE_TOKENS * (seen + made),
    }  # fmt: skip
