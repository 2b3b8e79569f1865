"""The timeline of a task: all that any record knows of it, in the order of time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from tests.drill.history import History, Row

HIDDEN = ("at", "op", "task_id", "account_id", "sent_at", "generation", "key", "prompt", "does", "event", "job")
OF_TASK = ("state", "error_code", "version", "takes", "quoted", "held", "charged", "stopped", "due_at")


def timeline(history: History, subject: str) -> list[str]:
    """One line for each fact about a task, an operation or an account, by whatever name it is called."""
    operation, tasks = _resolve(history, subject)
    facts = [*_of_operation(history, operation), *(fact for task in tasks for fact in _of_task(history, task))]
    if subject in history.accounts:
        facts += [(entry["at"], "ledger", entry["kind"], entry) for entry in history.entries.get(subject, [])]
    facts.sort(key=lambda fact: fact[0])
    return [f"{_clock(at)} {who:7} {what:12} {_rest(row)}" for at, who, what, row in facts]


Fact = tuple[float, str, str, Row]


def _resolve(history: History, subject: str) -> tuple[str, list[str]]:
    """The operation that the subject belongs to, and its tasks."""
    for name in (subject, *subject.split("/")):
        if name in history.tasks:
            return history.tasks[name]["generation"]["prompt"], [name]
        if name in history.operations:
            return name, [task["id"] for task in history.tasks_of_prompt.get(name, [])]
    return "", [subject]


def _of_operation(history: History, operation: str) -> Iterator[Fact]:
    for line in history.operations.get(operation, []):
        yield line["sent_at"], "client", f"{line['does']} ->", {"script": line.get("script")}
        yield line["at"], "client", f"{line['does']} <-", line


def _of_task(history: History, task_id: str) -> Iterator[Fact]:
    for event in history.events.get(task_id, []):
        yield event["at"], "event", event["type"].rpartition(".")[2], {"sequence": event["sequence"]}
    for attempt in history.attempts.get(task_id, []):
        yield attempt["started_at"], "attempt", "begins", {"number": attempt["number"]}
        if attempt["ended_at"]:
            names = ("number", "outcome", "error_code")
            yield attempt["ended_at"], "attempt", "ends", {name: attempt[name] for name in names}
    for order in history.orders.get(task_id, []):
        yield order["at"], "vendor", "accepted", {"job": order["job"], "n": order["n"], "verb": order["verb"]}
        if order["ended"]:
            yield order["ended"]["at"], "vendor", order["ended"]["event"], {}
    for entry in history.entries_of_task.get(task_id, []):
        yield entry["at"], "ledger", entry["kind"], {"on": entry["account_id"], **entry}
    yield from _of_webhooks(history, task_id)
    for asset in history.assets.get(task_id, []):
        names = ("object_key", "size", "sha256")
        yield asset["created_at"], "asset", str(asset["position"]), {name: asset[name] for name in names}
    task = history.tasks.get(task_id)
    if task:
        yield task["ended_at"] or float("inf"), "task", "is", {name: task[name] for name in OF_TASK}


def _of_webhooks(history: History, task_id: str) -> Iterator[Fact]:
    for delivery in history.deliveries.get(task_id, []):
        facts = {name: delivery[name] for name in ("id", "event_id", "sequence", "state", "version", "due_at")}
        yield delivery["created_at"], "webhook", delivery["type"].rpartition(".")[2], facts
        for tried in delivery["tries"]:
            names = ("number", "status", "error", "milliseconds")
            yield tried["at"], "webhook", "attempt", {"of": delivery["id"], **{name: tried[name] for name in names}}
    for (path, of_task), came in history.arrivals.items():
        for one in came if of_task == task_id else ():
            facts = {"path": path, "sequence": one["told"]["sequence"], "status": one["status"], "id": one["id"]}
            yield one["at"], "sink", one["does"], facts


def _clock(at: float) -> str:
    return "at the end  " if at == float("inf") else dt.datetime.fromtimestamp(at, dt.UTC).strftime("%H:%M:%S.%f")[:12]


def _rest(row: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in row.items() if name not in HIDDEN and value is not None)
