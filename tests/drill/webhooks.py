"""What was told: each event comes to whoever wants to hear of it, signed, in order, and nothing else does."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator

from standardwebhooks import Webhook

from tests.drill.history import FINAL, History, Row
from tests.drill.rule import Violation

TAKEN = (200, 204)
# Beyond what two clocks may differ by: the gateway asks its database for the time, also over a line that is held up.
SLACK = 5.0


def missing(history: History) -> Iterator[Violation]:
    """Every event was taken at least once by everybody who wants to hear of it."""
    for task in history.tasks.values():
        for path, words in _hooks_of(history, task).items():
            taken = _sequences(one for one in history.arrivals.get((path, task["id"]), []) if one["status"] in TAKEN)
            for event in _wanted(history, task, words):
                if event["sequence"] not in taken:
                    yield Violation("webhooks_missing", task["id"], f"{path} has not heard of {event['type']}")


def unsigned(history: History) -> Iterator[Violation]:
    """Each is signed, with the secret of whom it came to, for a moment that was not yet to come."""
    for one in _all(history):
        secret, stamp = _secret(history, one["path"]), one["timestamp"] or ""
        if secret is None:
            yield _wrong(one, "nobody is there to hear of it")
        elif not stamp.isdigit() or int(stamp) > one["at"] + SLACK:
            yield _wrong(one, f"it was sent at {stamp or 'no time'}")
        else:
            sent_at = dt.datetime.fromtimestamp(int(stamp), dt.UTC)
            if Webhook(secret).sign(one["id"], sent_at, one["body"]) not in (one["signature"] or "").split(" "):
                yield _wrong(one, "its signature is not by the secret of whom it came to")


def reworded(history: History) -> Iterator[Violation]:
    """Whoever hears of an event again hears the same bytes."""
    first: dict[tuple[str, str], str] = {}
    for one in _all(history):
        if first.setdefault((one["path"], one["id"]), one["body"]) != one["body"]:
            yield _wrong(one, "it came in other words before")


def untrue(history: History) -> Iterator[Violation]:
    """Each tells of an event that has happened, to somebody who may hear of it and wants to."""
    for one in _all(history):
        told = one["told"]
        task, word = history.tasks.get(told.get("task_id", "")), told["type"].rpartition(".")[2]
        if task is None:
            yield _wrong(one, "there is no such task")
            continue
        words = _hooks_of(history, task).get(one["path"])
        events = [event for event in history.events.get(task["id"], []) if event["sequence"] == told["sequence"]]
        if words is None:
            yield _wrong(one, "it came to somebody whose task it is not")
        elif word not in words:
            yield _wrong(one, f"nobody wants to hear of {word} there")
        elif [event["type"] for event in events] != [told["type"]]:
            yield _wrong(one, f"{told['type']} is not what happened at {told['sequence']}")
        elif told["status"] != (word if word in FINAL else "processing"):
            yield _wrong(one, f"it says {told['status']} at {word}")
        elif one["at"] < events[0]["at"] - SLACK:
            yield _wrong(one, "it came before it happened")


def disordered(history: History) -> Iterator[Violation]:
    """No event comes before an earlier one was taken, and who keeps the highest sequence knows how the task ended."""
    for (path, task_id), came in history.arrivals.items():
        task = history.tasks.get(task_id)
        words = _hooks_of(history, task).get(path) if task else None
        if task is None or words is None:
            continue
        wanted = {event["sequence"] for event in _wanted(history, task, words)}
        taken: set[int] = set()
        for one in came:
            if early := {number for number in wanted if number < one["told"]["sequence"]} - taken:
                yield _wrong(one, f"it came before {min(early)}")
                break
            taken |= _sequences([one]) if one["status"] in TAKEN else set()
        last = max(came, key=lambda one: one["told"]["sequence"])
        if task["state"] in words and task["state"] in FINAL and last["told"]["status"] != task["state"]:
            yield _wrong(last, f"it is the last of all, and the task is {task['state']}")


def _all(history: History) -> Iterator[Row]:
    for came in history.arrivals.values():
        yield from came


def _wrong(one: Row, what: str) -> Violation:
    told = one["told"]
    words = f"{one['path']}: {one['id']}, which tells of {told['type']}: {what}"
    return Violation("webhooks_wrong", told.get("task_id") or one["id"], words)


def _hooks_of(history: History, task: Row) -> dict[str, tuple[str, ...]]:
    """Where a task is heard of, and which events are wanted there: by its own webhook, and by its key's endpoint."""
    found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    operation = task["generation"]["prompt"]
    sent = [line for line in history.operations.get(operation, []) if line["does"] == "create"]
    if sent and sent[0]["hears"] is not None:
        found[f"/tasks/{operation}"] = tuple(sent[0]["hears"]) or FINAL
    for hook in history.hooks:
        if hook["words"] and history.keys[hook["name"]] == task["key_id"]:
            found[f"/keys/{hook['name']}"] = tuple(hook["words"])
    return dict(found)


def _wanted(history: History, task: Row, words: tuple[str, ...]) -> list[Row]:
    return [event for event in history.events.get(task["id"], []) if event["type"].rpartition(".")[2] in words]


def _sequences(came: Iterator[Row] | list[Row]) -> set[int]:
    return {one["told"]["sequence"] for one in came}


def _secret(history: History, path: str) -> str | None:
    """With what a webhook to that path is signed: the secret of an endpoint, or of the single tasks of a key."""
    _, kind, name = path.split("/")
    single = kind == "tasks"
    if single:
        name = next((line["key"] for line in history.operations.get(name, []) if line["does"] == "create"), "")
    secrets = [hook["secret"] for hook in history.hooks if hook["name"] == name and (hook["words"] is None) == single]
    return secrets[0] if secrets else None


RULES = (missing, unsigned, reworded, untrue, disordered)
