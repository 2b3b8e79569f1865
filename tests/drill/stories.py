"""What becomes of tasks: each ends, once, in a way that its order explains, and is bought once at most."""

from __future__ import annotations

from collections.abc import Iterator

from tests.drill.history import FINAL, History, Row
from tests.drill.rule import Violation

UNKNOWN = "outcome_unknown"
# How a task may end, by what the vendor was told to do with its order. An order may always have been cut off.
ENDS = {
    "bytes": {"completed"}, "job": {"completed"}, "urls": {"completed"}, "once": {"completed"}, "never": set(),
    "fails": {"provider_error"}, "refuse": {"provider_refused"}, "blocked": {"content_policy_violation"},
    "busy": {"model_overloaded"}, "down": {"model_overloaded"}, "drop": set(),
}  # fmt: skip


def is_unknown(history: History, task: Row) -> bool:
    """Whether nobody knows what became of its order."""
    return _last_attempt(history, task).get("error_code") == UNKNOWN


def open_tasks(history: History) -> Iterator[Violation]:
    """When all faults are healed, no task is left behind, and none that has ended is due or open."""
    for task in history.tasks.values():
        if task["state"] not in FINAL:
            yield Violation("unexpected", task["id"], f"it is still {task['state']}")
        elif task["due_at"] is not None or task["ended_at"] is None:
            yield Violation("unexpected", task["id"], f"it is {task['state']}, and somebody would still take its turn")
        elif any(one["outcome"] is None or one["ended_at"] is None for one in history.attempts.get(task["id"], [])):
            yield Violation("unexpected", task["id"], f"it is {task['state']}, and an attempt is open")


def strange_ends(history: History) -> Iterator[Violation]:
    """A task ends as its script says; as cancelled, if somebody wished so; or as unknown, if its order was cut off."""
    for task in history.tasks.values():
        verb = _verb(task)
        if task["state"] not in FINAL or verb not in ENDS:
            continue
        end = task["error_code"] if task["state"] == "failed" else task["state"]
        if end == "cancelled" and task["cancel_asked_at"] is not None:
            continue
        if end == UNKNOWN and _last_attempt(history, task).get("job") is None:
            continue
        if end not in ENDS[verb]:
            yield Violation("unexpected", task["id"], f"{verb}: it ended as {end}")


def uncancelled(history: History) -> Iterator[Violation]:
    """Nobody's task is cancelled but who has asked for it."""
    for task in history.tasks.values():
        lines = history.operations.get(task["generation"]["prompt"], [])
        if task["cancel_asked_at"] is not None and not any(line["does"] == "cancel" for line in lines):
            yield Violation("unexpected", task["id"], "nobody has asked to cancel it")


def broken_stories(history: History) -> Iterator[Violation]:
    """Events are numbered from 1; one of them ends the task as its row says, and nothing comes after it."""
    for task in history.tasks.values():
        events = history.events.get(task["id"], [])
        words = [event["type"].rpartition(".")[2] for event in events]
        ends = [word for word in words if word in FINAL]
        if [event["sequence"] for event in events] != list(range(1, task["sequence"] + 1)):
            yield Violation("unexpected", task["id"], "its events have gaps")
        elif words[:1] != ["queued"] or words.count("queued") != 1 or words.count("started") > 1:
            yield Violation("unexpected", task["id"], f"it does not begin well: {', '.join(words)}")
        elif task["state"] in FINAL and (ends != [task["state"]] or words[-1] != ends[0]):
            yield Violation("unexpected", task["id"], f"it is {task['state']} after the events {', '.join(words)}")


def bought_twice(history: History) -> Iterator[Violation]:
    """The vendor has accepted one order of a task at most, and one of what a client wanted."""
    for task, orders in history.orders.items():
        if len(orders) > 1:
            yield Violation("double_paid", task, f"the vendor accepted {', '.join(order['job'] for order in orders)}")
        if task not in history.tasks:
            yield Violation("unexpected", task, f"the vendor accepted {orders[0]['job']}, and there is no such task")
    for prompt, tasks in history.tasks_of_prompt.items():
        bought = [task["id"] for task in tasks if history.orders.get(task["id"])]
        if len(bought) > 1:
            yield Violation("double_paid", bought[0], f"{prompt} was bought again as {', '.join(bought[1:])}")


def thrown_away(history: History) -> Iterator[Violation]:
    """What the vendor has delivered is not thrown away: its task completes, or is cancelled, or did not hear of it."""
    for task in history.tasks.values():
        for order in history.orders.get(task["id"], []):
            ended = (order["ended"] or {}).get("event")
            if task["state"] == "failed" and ended in ("delivered", "finished") and not is_unknown(history, task):
                yield Violation("unexpected", task["id"], f"{order['job']} was {ended}, and the task failed")
            elif task["state"] == "completed" and ended != "delivered":
                yield Violation("unexpected", task["id"], f"it is completed, and {order['job']} was {ended}")
            elif ended is None and _left_running(history, task):
                yield Violation("unexpected", task["id"], f"it is {task['state']}, and {order['job']} runs on")
        if task["state"] == "completed" and not history.orders.get(task["id"]):
            yield Violation("unexpected", task["id"], "it is completed, and was never ordered")


def _left_running(history: History, task: Row) -> bool:
    """Whether a task has ended that knew its job, and neither saw its end nor could not stop it."""
    known = _last_attempt(history, task).get("job") is not None
    return task["state"] in FINAL and known and task["stopped"] != "not_stopped"


def _last_attempt(history: History, task: Row) -> Row:
    return history.attempts.get(task["id"], [{}])[-1]


def _verb(task: Row) -> str:
    script: str = task["generation"]["extras"].get("script", "")
    return script.partition(":")[0]


RULES = (open_tasks, strange_ends, uncancelled, broken_stories, bought_twice, thrown_away)
