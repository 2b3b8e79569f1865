"""Streams: how a task goes on, told while it does: `stream: true`, as the OpenAI SDK reads it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from litestar import Response

from gateway.core import assets, tasks
from gateway.core.errors import GatewayError
from gateway.core.lifecycle import State
from gateway.core.ports import Note
from gateway.core.runtime import Runtime
from gateway.core.tasks import TaskRecord
from gateway.dialects.errors import after_acceptance, render
from gateway.dialects.wire import failure, task_headers
from gateway.web.sse import event, stream
from providers.contract import Preview

NAMES = {"edit": "image_edit"}
PARAMETERS = ("background", "quality")
# What the SDK reads of a usage.
TOKENS, DETAILS = ("input_tokens", "output_tokens", "total_tokens"), ("image_tokens", "text_tokens")


def streamed(rt: Runtime, task: TaskRecord, seconds: float) -> Response[Any]:
    """The reply that tells of previews as they come, then of each finished picture, or of what went wrong."""
    # From here on nothing is missed: whoever moves the task has had no chance yet to tell of it.
    return stream(_events(rt, task, seconds), task_headers(task))


async def _events(rt: Runtime, task: TaskRecord, seconds: float) -> AsyncGenerator[bytes, None]:
    name = NAMES.get(task.operation, "image_generation")
    shown = 0
    async with aclosing(follow(rt, task.id, seconds)) as notes:
        async for note in notes:
            if note.preview is not None and _is_next(task, shown, note.progress):
                yield event(f"{name}.partial_image", f"0.{shown}", _partial(name, task, note.preview, shown))
                shown += 1
    try:
        with after_acceptance(task):
            task = await tasks.get(rt, task.key_id, task.id)
            if task.state is not State.COMPLETED:
                raise failure(task) if task.final else _too_long(task)
            for number, asset in enumerate(task.assets):
                data = await assets.whole(rt, asset)
                body = _picture(task, data, f"{asset.width}x{asset.height}", asset.media_type)
                body |= {"type": f"{name}.completed", "usage": _usage(task.usage if number == 0 else None)}
                yield event(f"{name}.completed", f"{number + 1}", body)
    except GatewayError as error:
        yield event("error", "error", render(error).content)


async def follow(rt: Runtime, task_id: str, seconds: float) -> AsyncGenerator[Note, None]:
    """Notes of the task as they come, until it is final or the time is over."""
    with rt.hub.listening(task_id) as heard:
        final = asyncio.ensure_future(rt.waiter.final(task_id, seconds))
        coming: asyncio.Task[Note] | None = None
        try:
            while not final.done() or not heard.empty():
                coming = asyncio.ensure_future(heard.get())
                await asyncio.wait({coming, final}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    yield coming.result()
                else:
                    coming.cancel()
        finally:
            final.cancel()
            # Who listens may have gone while nothing came.
            if coming is not None:
                coming.cancel()


def _is_next(task: TaskRecord, shown: int, progress: int) -> bool:
    """Whether a preview is the next of as many as were asked for, spread over the work.

    Some providers push one with every step, of which the first are noise.
    """
    n: int = task.generation.get("n", 1)
    wanted: int = task.generation.get("partial_images", 0)
    return shown < n * wanted and progress >= 100 * (shown + 1) // (n * (wanted + 1))


def _partial(name: str, task: TaskRecord, preview: Preview, index: int) -> dict[str, Any]:
    body = _picture(task, preview.data, task.generation.get("size"), preview.media_type)
    return body | {"type": f"{name}.partial_image", "partial_image_index": index}


def _picture(task: TaskRecord, data: bytes, size: str | None, media_type: str) -> dict[str, Any]:
    parameters = task.generation.get("parameters", {})
    return {
        "b64_json": base64.b64encode(data).decode(), "created_at": int(task.created_at.timestamp()),
        "size": size or "auto", "output_format": media_type.removeprefix("image/"),
        **{name: parameters.get(name, "auto") for name in PARAMETERS},
    }  # fmt: skip


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tokens that were counted, none where nobody counts them: the SDK has these members in every last event."""
    counted = usage if usage and "total_tokens" in usage else {}
    details = counted.get("input_tokens_details")
    return {
        **dict.fromkeys(TOKENS, 0),
        **counted,
        "input_tokens_details": {**dict.fromkeys(DETAILS, 0), **(details or {})},
    }


def _too_long(task: TaskRecord) -> GatewayError:
    message = (
        f"The result is not ready yet, and this stream ends. The work goes on: GET /v1/tasks/{task.id} has the result "
        f"when it is done."
    )
    return GatewayError("timeout", message, task_id=task.id)
