"""The clients: they send what the plan says, resend it where that is safe, and write down each answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import httpx

from tests.drill.load import Operation
from tests.drill.record import Record

PAUSE = 0.5
LOOK_SECONDS = 5
LONGEST_LOOK = 30
FINAL = ("completed", "failed", "cancelled")


class Clients:
    """All clients of a run. `keys` has the text of each key by its name, `hooks` is where webhooks go.

    `until` is when they give up (monotonic).
    """

    def __init__(
        self, addresses: Sequence[str], keys: dict[str, str], hooks: str, record: Record, until: float
    ) -> None:
        self._addresses = cycle(addresses)
        self.keys = keys
        self.hooks = hooks
        self.record = record
        self.until = until
        self._http = httpx.AsyncClient(limits=httpx.Limits(max_connections=500, max_keepalive_connections=50))

    async def run(self, operations: Sequence[Operation]) -> None:
        """Does everything at its time, and returns when the last operation has come to an end."""
        began = time.monotonic()
        async with self._http, asyncio.TaskGroup() as group:
            for operation in operations:
                await asyncio.sleep(max(0.0, began + operation.at - time.monotonic()))
                group.create_task(self.do(operation))

    async def do(self, operation: Operation) -> None:
        """Creates a task, then follows it to its end, or cancels it."""
        task = await self._create(operation)
        if task is None:
            return
        if operation.cancel_after is not None:
            await asyncio.sleep(operation.cancel_after)
            await self._cancel(operation, task)
        if not operation.synchronous:
            await self._follow(operation, task)

    async def _create(self, operation: Operation) -> str | None:
        """The id of the task that was made; None when there is none, or nobody said so."""
        headers = {"Idempotency-Key": operation.id} if operation.idempotent else {}
        while time.monotonic() < self.until:
            reply = await self._send(
                operation, "create", "POST", "/v1/images/generations", operation.patience,
                json=operation.body(self.hooks), headers=headers,
            )  # fmt: skip
            if reply is not None and _code(reply) != "database_unavailable":
                task: str | None = reply.headers.get("x-heliograph-task-id")
                return task
            safe = reply is not None and reply.headers.get("x-should-retry") == "true"
            if not (safe or operation.idempotent):
                return None
            await asyncio.sleep(PAUSE)
        return None

    async def _cancel(self, operation: Operation, task: str) -> None:
        while time.monotonic() < self.until:
            reply = await self._send(operation, "cancel", "POST", f"/v1/tasks/{task}/cancel", 30)
            if reply is not None and reply.status_code < 500:
                return
            await asyncio.sleep(PAUSE)

    async def _follow(self, operation: Operation, task: str) -> None:
        """Looks at the task until it is final, or the client has something better to do."""
        until = min(self.until, time.monotonic() + LONGEST_LOOK)
        while time.monotonic() < until:
            reply = await self._send(operation, "look", "GET", f"/v1/tasks/{task}?wait={LOOK_SECONDS}", 15)
            if reply is not None and reply.status_code == 200 and reply.json()["status"] in FINAL:
                return
            if reply is None or reply.status_code != 200:
                await asyncio.sleep(PAUSE)

    async def _send(
        self, operation: Operation, does: str, method: str, path: str, patience: float, **more: Any
    ) -> httpx.Response | None:
        """One request to one of the web processes, in turn; None when the line died and nobody knows what became."""
        facts: dict[str, Any] = {"op": operation.id, "does": does, "sent_at": time.time()}
        headers = {"Authorization": f"Bearer {self.keys[operation.key]}", **more.pop("headers", {})}
        url = next(self._addresses) + path
        try:
            reply = await self._http.request(method, url, headers=headers, timeout=patience, **more)
        except (httpx.TransportError, asyncio.CancelledError) as error:
            self.record.write(**facts, **_of_operation(operation, does), unknown=type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                raise
            return None
        self.record.write(**facts, **_of_operation(operation, does), **_of_reply(reply))
        return reply


def _of_operation(operation: Operation, does: str) -> dict[str, Any]:
    if does != "create":
        return {}
    return {
        "key": operation.key, "script": operation.script, "n": operation.n, "idempotent": operation.idempotent,
        "synchronous": operation.synchronous, "hears": operation.hears,
    }  # fmt: skip


def _code(reply: httpx.Response) -> str | None:
    code: str | None = _of_body(reply.json()).get("code")
    return code


def _of_reply(reply: httpx.Response) -> dict[str, Any]:
    """What the client was told: status, which task, and its state or what went wrong."""
    facts: dict[str, Any] = {"status": reply.status_code, "task": reply.headers.get("x-heliograph-task-id")}
    if "idempotent-replayed" in reply.headers:
        facts["replayed"] = True
    return facts | _of_body(reply.json())


def _of_body(body: dict[str, Any]) -> dict[str, Any]:
    if isinstance(body.get("error"), dict):
        return {"code": body["error"]["code"]}
    if body.get("object") == "task":
        pictures = body["result"]["data"] if body["result"] else []
        return {"state": body["status"], "progress": body["progress"], "images": len(pictures)}
    return {"state": "completed", "images": len(body["data"])}
