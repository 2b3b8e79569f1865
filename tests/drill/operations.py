"""What clients were promised: an id that was answered stands, one request is one task, nobody is told two stories."""

from __future__ import annotations

from collections.abc import Iterator

from tests.drill.history import FINAL, History, Row
from tests.drill.rule import Violation

REFUSALS = ("insufficient_quota", "rate_limit_exceeded")
# Errors that say nothing about the task, which goes on.
PASSING = ("timeout", "database_unavailable", "storage_unavailable")
BELIEVABLE = (502, 503, 504)


def acknowledged(line: Row) -> str | None:
    """The id of the task that an answer to a create has promised.

    "The database does not answer" may name a task that perhaps does not stand; it says so, and promises nothing.
    """
    if line["does"] != "create" or line.get("code") == "database_unavailable":
        return None
    task: str | None = line.get("task")
    return task


def refused(lines: list[Row]) -> bool:
    """Whether the client knows that there is no task: each of its sendings was answered, and none was accepted.

    With an Idempotency-Key a refusal is also the word on all the sendings before it.
    """
    creates = [line for line in lines if line["does"] == "create"]
    if creates[-1]["idempotent"] and creates[-1].get("code") in REFUSALS:
        return True
    return all("status" in line and line.get("task") is None for line in creates)


def lost(history: History) -> Iterator[Violation]:
    """A task that was promised exists, and whoever may see it finds it."""
    for lines in history.operations.values():
        for task in {task for line in lines if (task := acknowledged(line)) and task not in history.tasks}:
            yield Violation("lost", task, f"it was promised to {lines[0]['op']}, and there is no such task")
        for line in lines:
            if line["does"] != "create" and line.get("status") in (401, 403, 404):
                yield Violation("lost", lines[0]["op"], f"{line['does']} was answered {line['status']}")


def duplicated(history: History) -> Iterator[Violation]:
    """One request makes one task, however often it had to be sent."""
    for operation, lines in history.operations.items():
        told = {task for line in lines if (task := acknowledged(line))}
        made = {task["id"] for task in history.tasks_of_prompt.get(operation, [])}
        if len(told | made) > 1:
            yield Violation("duplicated", operation, f"it has the tasks {', '.join(sorted(told | made))}")


def unasked(history: History) -> Iterator[Violation]:
    """Each task was asked for, by the key that it belongs to, and was not refused."""
    for task in history.tasks.values():
        lines = history.operations.get(task["generation"]["prompt"])
        if lines is None:
            yield Violation("unexpected", task["id"], "nobody has asked for it")
        elif refused(lines):
            yield Violation("unexpected", task["id"], f"{lines[0]['op']} was refused, and it exists")
        elif task["key_id"] != history.keys[_first(lines)["key"]]:
            yield Violation("unexpected", task["id"], f"it belongs to {task['key_id']}, who has not asked for it")


def told_otherwise(history: History) -> Iterator[Violation]:
    """What a client was told of a task that had ended is how it stands."""
    for lines in history.operations.values():
        for line in lines:
            task = history.tasks.get(line.get("task") or "")
            if task is None:
                continue
            if line.get("state") in FINAL and line["state"] != task["state"]:
                yield Violation("unexpected", task["id"], f"a client was told {line['state']}, it is {task['state']}")
            elif line.get("state") == "completed" and line["images"] != len(history.assets.get(task["id"], [])):
                yield Violation("unexpected", task["id"], f"a client was told of {line['images']} pictures")
            elif _failure(line) not in (None, task["error_code"]) and task["state"] != "cancelled":
                yield Violation("unexpected", task["id"], f"a client was told {line['code']}, it is {task['state']}")


def cancelled_in_vain(history: History) -> Iterator[Violation]:
    """A cancel that was accepted is kept to. One that is answered with a task that has ended otherwise is not."""
    for lines in history.operations.values():
        for line in lines:
            task = history.tasks.get(line.get("task") or "")
            accepted = line["does"] == "cancel" and line.get("status") == 200
            if (
                accepted
                and line.get("state") not in ("completed", "failed")
                and task
                and task["state"] in FINAL
                and task["state"] != "cancelled"
            ):
                yield Violation("unexpected", task["id"], f"its cancel was accepted, and it is {task['state']}")


def unbelievable(history: History) -> Iterator[Violation]:
    """No answer is a fault of our own: of the statuses from 500 on, only those that say what does not answer."""
    for operation, lines in history.operations.items():
        for line in lines:
            status = line.get("status", 0)
            if status >= 500 and status not in BELIEVABLE:
                yield Violation("unexpected", operation, f"{line['does']} was answered {status} {line.get('code')}")
            elif status == 401 and line["does"] == "create":
                yield Violation("unexpected", operation, "its key was refused")


def _first(lines: list[Row]) -> Row:
    """The first sending of an operation, which says what was wanted."""
    return next(line for line in lines if line["does"] == "create")


def _failure(line: Row) -> str | None:
    """The code of the failure of a task, when that is what a create was answered with."""
    if acknowledged(line) is None or line.get("code") in PASSING or line.get("code") == "cancelled":
        return None
    code: str | None = line.get("code")
    return code


RULES = (lost, duplicated, unasked, told_otherwise, cancelled_in_vain, unbelievable)
