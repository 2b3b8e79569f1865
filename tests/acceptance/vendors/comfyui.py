"""ComfyUI behind a proxy that wants a key: a queue of workflows, uploads, files, and a socket that shows previews."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.acceptance.vendors.pictures import picture
from tests.acceptance.vendors.standin import BLOCKED, Order, StandIn, form

DEFINITIONS = Path(__file__).parents[2] / "vendors/comfyui/captured/object_info.json"
CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
NEVER = "never"
STEPS = 4
MODERATED = {
    "node_type": "StabilityStableImageUltraNode", "exception_type": "Exception",
    "exception_message": "Stable Image Ultra generation failed: CONTENT_FILTERED.",
}  # fmt: skip


@dataclass
class Job:
    """A workflow in the queue, what goes along with it, and how it stands."""

    order: Order
    sent: dict[str, Any]
    status: str = "in_progress"
    looked_at: asyncio.Event = field(default_factory=asyncio.Event)


class ComfyUI(StandIn):
    """What counts as paid is a workflow that was queued. One for `never` runs until it is cancelled."""

    name = "comfyui"

    def __init__(self) -> None:
        super().__init__()
        self.previews: list[bytes] = []
        self.jobs: dict[str, Job] = {}
        self._definitions: dict[str, Any] = json.loads(DEFINITIONS.read_bytes())
        self._definitions["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = [CHECKPOINT]
        self._uploads: dict[str, bytes] = {}
        self._made: dict[str, bytes] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return [
            web.get("/object_info", self.object_info), web.get("/queue", self.queue), web.get("/ws", self.socket),
            web.post("/upload/image", self.upload), web.post("/prompt", self.prompt), web.get("/view", self.view),
            web.get("/api/jobs/{job}", self.job), web.post("/api/jobs/{job}/cancel", self.cancel),
        ]  # fmt: skip

    def stranger(self) -> web.Response:
        return web.Response(status=401, text="<html>401 Authorization Required</html>", content_type="text/html")

    async def object_info(self, _: web.Request) -> web.Response:
        return web.json_response(self._definitions)

    async def queue(self, _: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def upload(self, request: web.Request) -> web.Response:
        texts, files = await form(request)
        self._uploads[f"{texts['subfolder']}/{len(self._uploads)}.png"] = files["image"]
        return web.json_response({"name": f"{len(self._uploads) - 1}.png", "subfolder": texts["subfolder"]})

    async def prompt(self, request: web.Request) -> web.Response:
        sent = await request.json()
        nodes = {step["class_type"]: step["inputs"] for step in sent["prompt"].values()}
        if not set(nodes) <= set(self._definitions):
            return web.json_response({"error": {"type": "missing_node_type", "message": "?"}}, status=400)
        job = Job(self._order(sent["prompt"], nodes), sent)
        self.jobs[sent["prompt_id"]] = job
        if job.order.verb == BLOCKED:
            job.status = "failed"
        elif job.order.verb != NEVER and "preview_method" not in sent["extra_data"]:
            self._finish(job)
        return web.json_response({"prompt_id": sent["prompt_id"], "number": len(self.jobs), "node_errors": {}})

    def _order(self, graph: dict[str, Any], nodes: dict[str, Any]) -> Order:
        text = graph[nodes["KSampler"]["positive"][0]]["inputs"]["text"]
        members = {**nodes.get("EmptyLatentImage", {}), **nodes["CheckpointLoaderSimple"], "prompt": text}
        pictures = {"image": self._uploads[nodes["LoadImage"]["image"]]} if "LoadImage" in nodes else {}
        return self.take(text, members, pictures)

    def _finish(self, job: Job) -> None:
        members = job.order.members
        job.order.make(members.get("batch_size", 1), f"{members.get('width', 64)}x{members.get('height', 64)}")
        job.status = "completed"

    async def job(self, request: web.Request) -> web.Response:
        name = request.match_info["job"]
        if name not in self.jobs:
            return web.json_response({"error": "Job not found"}, status=404)
        job = self.jobs[name]
        job.looked_at.set()
        files = [self._file(f"{name}-{place}.png", data) for place, data in enumerate(job.order.made)]
        body = {
            "id": name, "status": job.status, "outputs": {"9": {"images": files}} if files else {},
            "workflow": {"prompt": job.sent["prompt"], "extra_data": job.sent["extra_data"]},
            "execution_error": MODERATED if job.status == "failed" else None,
        }  # fmt: skip
        return web.json_response(body)

    def _file(self, name: str, data: bytes) -> dict[str, str]:
        self._made[name] = data
        return {"filename": name, "subfolder": "", "type": "output"}

    async def view(self, request: web.Request) -> web.Response:
        return web.Response(body=self._made[request.query["filename"]], content_type="image/png")

    async def cancel(self, request: web.Request) -> web.Response:
        self.jobs[request.match_info["job"]].status = "cancelled"
        return web.json_response({"cancelled": True})

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        name, socket = request.query["clientId"], web.WebSocketResponse()
        job = self.jobs[name]
        await socket.prepare(request)
        await socket.receive_json()
        if "preview_method" in job.sent["extra_data"]:
            # Nothing is told twice, and of a job that is over nothing is listened to: it begins when it was asked for.
            await job.looked_at.wait()
            await self._show(socket, name, job)
        await socket.close()
        return socket

    async def _show(self, socket: web.WebSocketResponse, name: str, job: Job) -> None:
        """Tells of each step, and how it looks."""
        await socket.send_json({"type": "execution_start", "data": {"prompt_id": name}})
        for step in range(1, STEPS + 1):
            await socket.send_json({"type": "progress", "data": {"prompt_id": name, "value": step, "max": STEPS}})
            owner = json.dumps({"prompt_id": name}).encode()
            self.previews.append(picture())
            await socket.send_bytes(b"\0\0\0\4" + len(owner).to_bytes(4) + owner + self.previews[-1])
        self._finish(job)
        await socket.send_json({"type": "execution_success", "data": {"prompt_id": name}})
