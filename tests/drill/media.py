"""What lies in the store: each picture that a row names is there, and is what the vendor delivered."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.drill.history import FINAL, History, Row
from tests.drill.rule import Violation

KEY = re.compile(r"media/(?P<task>[^/]+)/(?P<attempt>\d+)-(?P<position>\d+)(\.(?P<picture>[a-z]+))?")


def missing(history: History) -> Iterator[Violation]:
    """A completed task has all that was delivered, once each; every row's object is there, with its size and digest."""
    for task in history.tasks.values():
        assets = history.assets.get(task["id"], [])
        for asset in assets:
            yield from _missing(history, task, asset)
        delivered = _delivered(history, task)
        if task["state"] == "completed" and sorted(asset["sha256"] for asset in assets) != sorted(delivered):
            yield Violation("assets_missing", task["id"], f"{len(delivered)} pictures were delivered, it has others")
        if [asset["position"] for asset in assets] != list(range(len(assets))):
            yield Violation("assets_missing", task["id"], "the places of its pictures have gaps")


def extra(history: History) -> Iterator[Violation]:
    """No object lies there that nobody will ever ask for.

    That is one of no task or attempt, or one that a completed task does not name. What a task left that ended
    otherwise, between the storing of its pictures and the commit, is for a sweep to find, and only counted.
    """
    named = {asset["object_key"] for assets in history.assets.values() for asset in assets if not asset["deleted_at"]}
    for key in sorted(key for key in history.objects if _asset(key) not in named):
        place = KEY.fullmatch(key)
        task = history.tasks.get(place["task"]) if place else None
        if place is None or task is None:
            yield Violation("assets_extra", key, "it belongs to no task")
        elif int(place["attempt"]) > len(history.attempts.get(task["id"], [])):
            yield Violation("assets_extra", task["id"], f"{key} belongs to no attempt")
        elif task["state"] == "completed":
            yield Violation("assets_extra", task["id"], f"{key} is not named by any of its rows")
        elif task["state"] in FINAL and history.assets.get(task["id"]):
            yield Violation("assets_extra", task["id"], f"{key} is not named beside those that are kept")


def unbought(history: History) -> Iterator[Violation]:
    """A task that has pictures has bought them: completed, or cancelled too late."""
    for task_id in history.assets:
        task = history.tasks.get(task_id)
        if task is None or task["state"] not in ("completed", "cancelled"):
            yield Violation("assets_extra", task_id, f"it is {task and task['state']}, and has pictures")


def leftovers(history: History) -> int:
    """How many objects were left by tasks that did not complete."""
    named = {asset["object_key"] for assets in history.assets.values() for asset in assets}
    return sum(_asset(key) not in named for key in history.objects) - sum(1 for _ in extra(history))


def _asset(key: str) -> str:
    """The key of the asset beside which a small picture lies: it is deleted with it, also when no row names it."""
    place = KEY.fullmatch(key)
    return key.removesuffix(f".{place['picture']}") if place and place["picture"] else key


def _keys(asset: Row) -> Iterator[str]:
    """Where an asset lies, and the small pictures of it."""
    yield asset["object_key"]
    yield from (f"{asset['object_key']}.{name}" for name in asset["pictures"])


def _missing(history: History, task: Row, asset: Row) -> Iterator[Violation]:
    found = history.objects.get(asset["object_key"])
    if asset["deleted_at"] is not None:
        return
    if found is None:
        yield Violation("assets_missing", task["id"], f"{asset['object_key']} is not in the store")
    elif found != (asset["size"], asset["sha256"]):
        yield Violation("assets_missing", task["id"], f"{asset['object_key']} is not what its row says")
    elif not {*_keys(asset)} <= history.objects.keys():
        yield Violation("assets_missing", task["id"], f"a small picture of {asset['object_key']} is not in the store")
    elif asset["key_id"] != task["key_id"]:
        yield Violation("assets_missing", task["id"], f"{asset['id']} belongs to another key")
    elif asset["sha256"] not in _delivered(history, task):
        yield Violation("assets_missing", task["id"], f"{asset['object_key']} is not what the vendor delivered")


def _delivered(history: History, task: Row) -> list[str]:
    """The digests of the pictures that the vendor has delivered for the task."""
    ends = [order["ended"] or {} for order in history.orders.get(task["id"], [])]
    return [sha256 for end in ends for sha256 in end.get("sha256", [])]


RULES = (missing, extra, unbought)
