"""Harm: ways to spoil a recorded history, for the tests of the checker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.drill.books import KINDS
from tests.drill.history import History, Row

Harm = Callable[[History], object]
NONSENSE = (8, "0" * 64)


def all_of(*harms: Harm) -> Harm:
    """One after the other."""
    return lambda history: [harm(history) for harm in harms]


def change(table: str, where: Row, **values: Any) -> Harm:
    """Other values in a row."""
    return lambda history: _row(history, table, where).update(values)


def remove(table: str, where: Row) -> Harm:
    """A row that is not there."""
    return lambda history: history.tables[table].remove(_row(history, table, where))


def add(table: str, where: Row, **values: Any) -> Harm:
    """A row after another one and like it, but for those values."""

    def plant(history: History) -> None:
        rows, found = history.tables[table], _row(history, table, where)
        rows.insert(rows.index(found) + 1, {**found, **values})

    return plant


def add_event(task: str, word: str, sequence: int) -> Harm:
    """One event more at the end of a task's story."""
    last, type = {"task_id": task, "sequence": sequence - 1}, f"image.generation.{word}"
    return all_of(add("events", last, sequence=sequence, type=type), change("tasks", {"id": task}, sequence=sequence))


def add_entry(task: str, account: str, kind: str, amount: int) -> Harm:
    """One entry more at the end of an account, with balances that fit."""

    def plant(history: History) -> None:
        last = [one for one in history.tables["entries"] if one["account_id"] == account][-1]
        by_reserved, by_spent = KINDS[kind]
        values = {
            "reserved": last["reserved"] + by_reserved * amount, "spent": last["spent"] + by_spent * amount,
            "sequence": last["sequence"] + 1,
        }  # fmt: skip
        add("entries", last, task_id=task, kind=kind, amount=amount, **values)(history)
        _row(history, "accounts", {"id": account}).update(values)

    return plant


def remove_task(task: str) -> Harm:
    """All rows of a task gone, as if its transaction had not been committed."""

    def plant(history: History) -> None:
        for table, rows in history.tables.items():
            name = "id" if table == "tasks" else "task_id"
            rows[:] = [one for one in rows if one.get(name) != task]

    return plant


def remove_entries(account: str) -> Harm:
    """No entries on an account."""

    def plant(history: History) -> None:
        entries = history.tables["entries"]
        entries[:] = [one for one in entries if one["account_id"] != account]

    return plant


def tell(op: str, does: str = "create", **values: Any) -> Harm:
    """Another answer than the last that a client got."""
    return lambda history: _told(history, op, does).update(values)


def tell_again(op: str, does: str = "create", **values: Any) -> Harm:
    """One answer more, with other values."""
    return lambda history: history.client.append({**_told(history, op, does), **values})


def untell(op: str, does: str = "create") -> Harm:
    """The last answer that a client got is not on record."""
    return lambda history: history.client.remove(_told(history, op, does))


def note(task: str, event: str, **values: Any) -> Harm:
    """Another note of the vendor."""
    return lambda history: _noted(history, task, event).update(values)


def note_again(task: str, event: str, **values: Any) -> Harm:
    """One note more, with other values."""
    return lambda history: history.vendor.append({**_noted(history, task, event), **values})


def unnote(task: str, event: str) -> Harm:
    """The vendor has not noted it."""
    return lambda history: history.vendor.remove(_noted(history, task, event))


def store(key: str) -> Harm:
    """Something else under that key."""
    return lambda history: history.objects.update({key: NONSENSE})


def unstore(key: str) -> Harm:
    """Nothing under that key."""
    return lambda history: history.objects.pop(key)


def hear(where: str, sequence: int, **values: Any) -> Harm:
    """Another webhook than the last that came there with that number; of its body, `body` alone."""
    return lambda history: _heard(history, where, sequence).update(values)


def hear_again(where: str, sequence: int, **values: Any) -> Harm:
    """One webhook more, with other values."""
    return lambda history: history.sink.append({**_heard(history, where, sequence), **values})


def hear_first(path: str, sequence: int) -> Harm:
    """The webhook came before all others."""

    def plant(history: History) -> None:
        found = _heard(history, path, sequence)
        history.sink.remove(found)
        history.sink.insert(0, found)

    return plant


def unhear(path: str, sequence: int) -> Harm:
    """The webhook that was taken has not come."""
    return lambda history: history.sink.remove(_heard(history, path, sequence))


def _heard(history: History, path: str, sequence: int) -> Row:
    found = [one for one in history.sink if one["path"] == path]
    return [one for one in found if json.loads(one["body"])["data"]["sequence"] == sequence][-1]


def _row(history: History, table: str, where: Row) -> Row:
    return next(row for row in history.tables[table] if where.items() <= row.items())


def _told(history: History, op: str, does: str) -> Row:
    return [line for line in history.client if line.get("op") == op and line["does"] == does][-1]


def _noted(history: History, task: str, event: str) -> Row:
    return next(line for line in history.vendor if line["job"] == f"job-{task}" and line["event"] == event)
