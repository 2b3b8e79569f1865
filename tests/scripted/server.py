"""The scripted vendor: a server that does what each order's script says, and writes down first what it accepted.

A script is `verb` or `verb:seconds`. `bytes` and `urls` answer at once or after that time, `job` answers with a job
that is done after it, `never` with one that never is, `fails` with one that fails. `refuse`, `blocked`, `busy` and
`down` answer with an error and accept nothing; `once` does so for the first order of a prompt. `drop` accepts, and
cuts the line. The ledger has one line of JSON for each accepted order, synced before anything is answered.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

ERRORS = {
    "refuse": (400, "invalid_value", "The script refuses."),
    "blocked": (400, "moderation_blocked", "The script blocks."),
    "busy": (429, "slow_down", "The script is busy."),
    "down": (503, "overloaded", "The script is down."),
}


class Vendor:
    """The vendor's state: its ledger, and the jobs that are running."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger.open("a", encoding="utf-8")
        self.accepted: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.seen: set[str] = set()
        self.pictures: dict[str, str] = {}

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Takes an order, or does not."""
        order = await request.json()
        verb, _, seconds = str(order["script"] or "bytes").partition(":")
        if verb == "once":
            verb = "bytes" if order["prompt"] in self.seen else "down"
            self.seen.add(order["prompt"])
        if verb in ERRORS:
            status, code, message = ERRORS[verb]
            return web.json_response({"error": {"code": code, "message": message}}, status=status)
        job = self._accept(order, verb, float(seconds or 0))
        if verb == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if verb in ("job", "never", "fails"):
            return web.json_response({"job": job, "state": "running", "progress": 0.0})
        await asyncio.sleep(float(seconds or 0))
        return web.json_response(self._done(request, self.jobs[job]))

    def _accept(self, order: dict[str, Any], verb: str, seconds: float) -> str:
        job = f"job-{len(self.accepted) + 1}"
        entry = {"job": job, "key": order["key"], "prompt": order["prompt"], "n": order["n"], "at": time.time()}
        self.ledger.write(json.dumps(entry) + "\n")
        self.ledger.flush()
        os.fsync(self.ledger.fileno())
        self.accepted.append(entry)
        self.jobs[job] = {**order, "verb": verb, "seconds": seconds, "started": time.monotonic(), "state": "running"}
        return job

    async def look(self, request: web.Request) -> web.Response:
        """How a job stands."""
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            return web.json_response({"error": {"code": "not_found", "message": "No such job."}}, status=404)
        passed = time.monotonic() - job["started"]
        if job["state"] == "cancelled" or (job["verb"] == "fails" and passed >= job["seconds"]):
            return web.json_response({"state": "failed"})
        if job["verb"] == "never" or passed < job["seconds"]:
            progress = 0.5 if job["verb"] == "never" else passed / job["seconds"]
            return web.json_response({"job": request.match_info["job"], "state": "running", "progress": progress})
        return web.json_response(self._done(request, job))

    async def cancel(self, request: web.Request) -> web.Response:
        """Stops a job."""
        self.jobs[request.match_info["job"]]["state"] = "cancelled"
        return web.json_response({})

    async def show(self, _: web.Request) -> web.Response:
        """What was accepted so far, and how jobs stand."""
        states = {job: entry["state"] for job, entry in self.jobs.items()}
        return web.json_response({"accepted": self.accepted, "states": states})

    async def file(self, request: web.Request) -> web.Response:
        """The picture behind a URL."""
        return web.Response(body=base64.b64decode(self._picture(request.match_info["size"])), content_type="image/png")

    def _done(self, request: web.Request, job: dict[str, Any]) -> dict[str, Any]:
        if job["verb"] == "urls":
            urls = [f"http://{request.host}/files/{job['size']}/{number}.png" for number in range(job["n"])]
            return {"state": "done", "urls": urls}
        return {"state": "done", "images": [self._picture(job["size"])] * job["n"]}

    def _picture(self, size: str) -> str:
        if size not in self.pictures:
            width, height = (int(edge) for edge in size.split("x"))
            file = io.BytesIO()
            Image.new("RGB", (width, height), (30, 120, 200)).save(file, "PNG")
            self.pictures[size] = base64.b64encode(file.getvalue()).decode()
        return self.pictures[size]


def application(ledger: Path) -> web.Application:
    """The vendor as a web application."""
    vendor = Vendor(ledger)
    app = web.Application()
    app.router.add_post("/submit", vendor.submit)
    app.router.add_get("/jobs/{job}", vendor.look)
    app.router.add_post("/jobs/{job}/cancel", vendor.cancel)
    app.router.add_get("/files/{size}/{name}", vendor.file)
    app.router.add_get("/ledger", vendor.show)
    return app


if __name__ == "__main__":
    web.run_app(application(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), print=None)
