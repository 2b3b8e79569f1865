"""The scripted vendor: a server that does what each order's script says, and writes down first what it accepted.

A script is `verb` or `verb:seconds`. `bytes` and `urls` answer at once or after that time, `job` answers with a job
that is done after it, `never` with one that never is, `fails` with one that fails. `refuse`, `blocked`, `busy` and
`down` answer with an error and accept nothing; `once` does so for the first order of a prompt. `drop` accepts, and
cuts the line. The ledger has a line of JSON for each accepted order, with what it costs, and one for how it ended:
`delivered` (the first time that it is answered with pictures, and their digests), `finished` (there was nothing left
to cancel), `failed` or `cancelled`, which cost nothing. Each is synced before anything is answered.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import struct
import sys
import time
import zlib
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
# Micro-USD of one picture, as the card has it.
PRICE = 40_000
IEND = 12


class Vendor:
    """The vendor's state: its ledger, and the jobs that are running."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger.open("a", encoding="utf-8")
        self.accepted: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looked: dict[str, float] = {}
        self.seen: set[str] = set()
        self.pictures: dict[str, bytes] = {}

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
        return web.json_response(self._done(request, job))

    def _accept(self, order: dict[str, Any], verb: str, seconds: float) -> str:
        job = f"job-{len(self.accepted) + 1}"
        entry = {
            "event": "accepted", "job": job, "key": order["key"], "prompt": order["prompt"], "n": order["n"],
            "verb": verb, "cost": PRICE * order["n"], "at": time.time(),
        }  # fmt: skip
        self._write(entry)
        self.accepted.append(entry)
        self.jobs[job] = {**order, "verb": verb, "seconds": seconds, "started": time.monotonic(), "state": "running"}
        return job

    def _write(self, entry: dict[str, Any]) -> None:
        self.ledger.write(json.dumps(entry) + "\n")
        self.ledger.flush()
        os.fsync(self.ledger.fileno())

    def _end(self, job: str, event: str, **facts: Any) -> None:
        """Writes down how an order ended, once; but one that was found finished may be delivered yet."""
        if self.jobs[job].get("ended") in (None, "finished"):
            self.jobs[job]["ended"] = event
            self._write({"event": event, "job": job, "at": time.time(), **facts})

    async def look(self, request: web.Request) -> web.Response:
        """How a job stands."""
        name = request.match_info["job"]
        job = self.jobs.get(name)
        if job is None:
            return web.json_response({"error": {"code": "not_found", "message": "No such job."}}, status=404)
        self.looked[name] = time.time()
        if job["state"] == "cancelled":
            return web.json_response({"state": "failed"})
        if not _is_over(job):
            passed = time.monotonic() - job["started"]
            progress = 0.5 if job["verb"] == "never" else passed / job["seconds"]
            return web.json_response({"job": name, "state": "running", "progress": progress})
        if job["verb"] == "fails":
            self._end(name, "failed")
            return web.json_response({"state": "failed"})
        return web.json_response(self._done(request, name))

    async def cancel(self, request: web.Request) -> web.Response:
        """Stops a job; one that is over stays as it is."""
        name = request.match_info["job"]
        job = self.jobs[name]
        if _is_over(job):
            self._end(name, "failed" if job["verb"] == "fails" else "finished")
        else:
            job["state"] = "cancelled"
            self._end(name, "cancelled")
        return web.json_response({})

    async def show(self, _: web.Request) -> web.Response:
        """What was accepted so far, and how jobs stand."""
        states = {job: entry["state"] for job, entry in self.jobs.items()}
        return web.json_response({"accepted": self.accepted, "states": states, "looked": self.looked})

    async def file(self, request: web.Request) -> web.Response:
        """The picture behind a URL."""
        job, number = request.match_info["job"], int(request.match_info["number"])
        return web.Response(body=self._picture(job, number), content_type="image/png")

    def _done(self, request: web.Request, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        pictures = [self._picture(name, number) for number in range(job["n"])]
        self._end(name, "delivered", sha256=[hashlib.sha256(picture).hexdigest() for picture in pictures])
        if job["verb"] == "urls":
            urls = [f"http://{request.host}/files/{name}/{number}.png" for number in range(job["n"])]
            return {"state": "done", "urls": urls}
        return {"state": "done", "images": [base64.b64encode(picture).decode() for picture in pictures]}

    def _picture(self, job: str, number: int) -> bytes:
        """A picture that no other order has: all of a size look alike, but a comment in each says whose it is."""
        plain = self._plain(self.jobs[job]["size"])
        return plain[:-IEND] + _comment(f"{job}/{number}") + plain[-IEND:]

    def _plain(self, size: str) -> bytes:
        if size not in self.pictures:
            width, height = (int(edge) for edge in size.split("x"))
            file = io.BytesIO()
            Image.new("RGB", (width, height), (30, 120, 200)).save(file, "PNG")
            self.pictures[size] = file.getvalue()
        return self.pictures[size]


def _is_over(job: dict[str, Any]) -> bool:
    """Whether a job has come to its end, be it a good one."""
    if job["state"] == "cancelled" or job["verb"] == "never":
        return False
    return bool(time.monotonic() - job["started"] >= job["seconds"])


def _comment(text: str) -> bytes:
    """A PNG chunk that holds the text."""
    body = b"tEXt" + b"Comment\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def application(ledger: Path) -> web.Application:
    """The vendor as a web application."""
    vendor = Vendor(ledger)
    app = web.Application()
    app.router.add_post("/submit", vendor.submit)
    app.router.add_get("/jobs/{job}", vendor.look)
    app.router.add_post("/jobs/{job}/cancel", vendor.cancel)
    app.router.add_get(r"/files/{job}/{number:\d+}.png", vendor.file)
    app.router.add_get("/ledger", vendor.show)
    return app


if __name__ == "__main__":
    web.run_app(application(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), print=None)
