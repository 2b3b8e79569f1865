"""Payloads: what webhooks say, in the very characters that are signed and sent.

Receivers exist that check the signature over `JSON.stringify(JSON.parse(body))`. So a body is what JavaScript makes of
it: no spaces, keys in the order in which JavaScript keeps them, numbers that are whole or short, nothing escaped that
need not be. No prompt is in it, and no bytes of media.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core import assets
from gateway.core.assets import AssetRecord
from gateway.core.lifecycle import STAGE, STATUS, State
from gateway.core.pricing import dollars
from gateway.core.runtime import Runtime

# A key that is an index of an array: JavaScript puts those first, in their order.
INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
# What OpenAI calls events of films, by our last word.
OPENAI = {"completed": "video.completed", "failed": "video.failed", "cancelled": "video.failed"}


# What of a task is still said of it when it was erased: what its bill says, and how it ended.
LEFT = (
    "id", "task_id", "status", "stage", "progress", "model", "operation", "created_at", "started_at", "completed_at",
    "generation_time", "error_code", "cost", "retry_of", "sequence",
)  # fmt: skip


class News(msgspec.Struct, frozen=True):
    """A fact that webhooks tell: its id, which is the same for all who hear of it, its type, and when it happened."""

    id: str
    type: str
    at: dt.datetime


def body(news: News, data: Mapping[str, Any]) -> str:
    """The body that tells of it."""
    whole = {"id": news.id, "type": news.type, "created_at": int(news.at.timestamp()), "object": "event", "data": data}
    return _written(whole)


def erased(text: str) -> str:
    """A body of an event of a task, without what goes when the task is erased: links, labels, words about a failure."""
    whole = json.loads(text)
    return _written({**whole, "data": {name: whole["data"][name] for name in LEFT if name in whole["data"]}})


def of_task(
    rt: Runtime, type: str, task: Mapping[str, Any], kept: Sequence[AssetRecord], base: str, sequence: int
) -> dict[str, Any]:
    """What an event of a task says of it: how it stands and what it brought, with links below `base`.

    Of a film, under OpenAI's name, also the `id` that OpenAI's clients ask for.
    """
    state = State(task["state"])
    data: dict[str, Any] = {"id": task["id"]} if type in OPENAI.values() else {}
    data |= {
        "task_id": task["id"], "status": STATUS[state], "stage": STAGE.get(state), "progress": task["progress"],
        "model": task["model"], "operation": f"{task['kind']}.{task['operation']}", "metadata": task["labels"],
        "created_at": _unix(task["created_at"]), "started_at": _unix(task["started_at"]),
        "completed_at": _unix(task["ended_at"]), "generation_time": _milliseconds(task),
        **_result(rt, task, kept, base), "error": task["error_message"], "error_code": task["error_code"],
        "cost": None if task["charged"] is None else dollars(task["charged"]), "retry_of": task["retry_of"],
    }  # fmt: skip
    return {name: value for name, value in data.items() if value is not None} | {"sequence": sequence}


def _written(whole: Mapping[str, Any]) -> str:
    return json.dumps(_as_javascript(whole), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _result(rt: Runtime, task: Mapping[str, Any], kept: Sequence[AssetRecord], base: str) -> dict[str, Any]:
    if not kept:
        return {}
    data = [_asset(rt, one, base) for one in kept]
    urls, kind = [one["url"] for one in data], task["kind"]
    return {"url": urls[0], f"{kind}_url": urls[0], f"{kind}_urls": urls, "file_size": kept[0].size, "data": data}


def _asset(rt: Runtime, asset: AssetRecord, base: str) -> dict[str, Any]:
    facts = {
        "id": asset.id, "url": assets.link(rt, asset, base), "media_type": asset.media_type, "width": asset.width,
        "height": asset.height, "seconds": asset.seconds, "bytes": asset.size, "sha256": asset.sha256,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value is not None}


def _unix(time: dt.datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


def _milliseconds(task: Mapping[str, Any]) -> int | None:
    """How long it took from its first order to its end."""
    if task["started_at"] is None or task["ended_at"] is None:
        return None
    return int((task["ended_at"] - task["started_at"]).total_seconds() * 1000)


def _as_javascript(value: Any) -> Any:
    """The value such that JavaScript, having read it, would write it in the same way."""
    if isinstance(value, Mapping):
        return {name: _as_javascript(value[name]) for name in sorted(value, key=_place)}
    if isinstance(value, list | tuple):
        return [_as_javascript(one) for one in value]
    if isinstance(value, float):
        short = round(value, 3)
        return int(short) if short.is_integer() else short
    return value


def _place(name: str) -> tuple[int, int]:
    """Sorting is stable: all but indices stay as they are."""
    return (0, int(name)) if INDEX.fullmatch(name) and int(name) < 2**32 - 1 else (1, 0)
