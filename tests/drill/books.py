"""What was reserved and charged: the entries add up, never above a budget, and follow what the vendor bills."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import accumulate

from tests.drill.history import FINAL, History, Row
from tests.drill.rule import Violation
from tests.drill.stories import is_unknown

# What an entry of an amount does to (reserved, spent).
KINDS = {"reservation": (1, 0), "charge": (-1, 1), "overrun": (0, 1), "release": (-1, 0), "expiry": (-1, 0)}
ENDINGS = ("charge", "release", "expiry")
# Beyond what two clocks may differ by, and a request may wait.
SLACK, WAIT = 0.25, 5.0


def replayed(history: History) -> Iterator[Violation]:
    """Each account's entries, replayed in their order, give the balances that they and the account itself say."""
    for id in history.accounts.keys() | history.entries.keys():
        account, entries = history.accounts.get(id), history.entries.get(id, [])
        if account is None:
            yield Violation("ledger_broken", id, "it has entries, and there is no such account")
            continue
        reserved = spent = 0
        window = entries[0]["window_at"] if entries else account["window_at"]
        for number, entry in enumerate(entries, 1):
            by_reserved, by_spent = KINDS.get(entry["kind"], (0, 0))
            spent = spent if entry["window_at"] == window else 0
            reserved, spent = reserved + by_reserved * entry["amount"], spent + by_spent * entry["amount"]
            wrong = [
                what for what, is_so in (
                    (f"entry {number} has the number {entry['sequence']}", entry["sequence"] != number),
                    (f"there is no kind {entry['kind']}", entry["kind"] not in KINDS),
                    ("its amount is not above zero", entry["amount"] <= 0),
                    ("its balances do not add up", (entry["reserved"], entry["spent"]) != (reserved, spent)),
                    ("a balance is below zero", min(reserved, spent) < 0),
                    ("its window lies before the last one", entry["window_at"] < window),
                ) if is_so
            ]  # fmt: skip
            if wrong:
                yield Violation("ledger_broken", entry["task_id"], f"{id} {entry['sequence']}: {', '.join(wrong)}")
                break
            window = entry["window_at"]
        else:
            spent = spent if account["window_at"] == window else 0
            if (account["reserved"], account["spent"], account["sequence"]) != (reserved, spent, len(entries)):
                yield Violation("ledger_broken", id, f"its entries come to {reserved} reserved, {spent} spent")


def over_budget(history: History) -> Iterator[Violation]:
    """After no reservation is more reserved and spent than the budget allows; what an overrun added is on record."""
    for id, entries in history.entries.items():
        budget = history.accounts.get(id, {}).get("budget")
        beyond = 0 if budget is None else budget
        for entry in entries:
            beyond += entry["amount"] if entry["kind"] == "overrun" else 0
            total = entry["reserved"] + entry["spent"]
            if budget is not None and total > (budget if entry["kind"] == "reservation" else beyond):
                yield Violation("budget_exceeded", entry["task_id"], f"{id}: {total} of {budget} after {entry['kind']}")
                break


def holds(history: History) -> Iterator[Violation]:
    """What was reserved for a task is reserved once on each of its accounts, and ends once; then nothing is held."""
    for task in history.tasks.values():
        books = _books(history, task["id"])
        if books.keys() != (_accounts(task) if task["quoted"] else set()):
            yield Violation("ledger_broken", task["id"], f"it is booked on {', '.join(sorted(books)) or 'no account'}")
            continue
        for id, moved in books.items():
            yield from _hold(history, task, id, moved)


def unattached(history: History) -> Iterator[Violation]:
    """No money moves for a task that does not exist, and none twice in the same way."""
    for task_id, entries in history.entries_of_task.items():
        if task_id not in history.tasks:
            yield Violation("ledger_broken", task_id, "money was moved for it, and there is no such task")
        kinds = Counter((entry["account_id"], entry["kind"]) for entry in entries)
        for (id, kind), count in kinds.items():
            if count > 1:
                yield Violation("ledger_broken", task_id, f"{id} has {count} entries of the kind {kind} for it")


def charges(history: History) -> Iterator[Violation]:
    """A task is charged what the vendor bills for it: what was delivered, and nothing for what was not."""
    for task in history.tasks.values():
        if task["state"] not in FINAL:
            continue
        moved = _books(history, task["id"]).get(task["key_id"], Counter())
        booked, due = moved["charge"] + moved["overrun"], _due(history, task)
        if booked < due:
            yield Violation("charges_missing", task["id"], f"{booked} was charged, and the vendor bills {due}")
        elif booked > due:
            yield Violation("charges_extra", task["id"], f"{booked} was charged, and the vendor bills {due}")
        elif (task["charged"] or 0) != booked:
            yield Violation("ledger_broken", task["id"], f"it says {task['charged']}, and {booked} was charged")


def counts(history: History) -> Iterator[Violation]:
    """Each account knows how many tasks of its key run and wait, and every key has one."""
    waiting: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for task in history.tasks.values():
        if task["state"] not in FINAL:
            (waiting if task["due_at"] is None else running)[task["key_id"]] += 1
    for id, account in history.accounts.items():
        if (account["waiting"], account["running"]) != (waiting[id], running[id]):
            stands = f"{account['waiting']} wait and {account['running']} run"
            yield Violation("ledger_broken", id, f"it says that {stands}: {waiting[id]} wait and {running[id]} run")
    for id in sorted(set(history.keys.values()) - history.accounts.keys()):
        yield Violation("ledger_broken", id, "the key has no account")


def over_limit(history: History) -> Iterator[Violation]:
    """No key had more tasks accepted in a minute, or more running at a moment, than it may."""
    tasks: defaultdict[str, list[Row]] = defaultdict(list)
    for task in history.tasks.values():
        tasks[task["key_id"]].append(task)
    for id, account in history.accounts.items():
        minutes = Counter(task["created_at"] // 60 for task in tasks[id] if task["created_at"] % 60 < 60 - WAIT)
        most = max(minutes.values(), default=0)
        if account["per_minute"] is not None and most > account["per_minute"]:
            yield Violation("unexpected", id, f"{most} tasks were accepted in a minute, of {account['per_minute']}")
        most = _most_at_once(history, tasks[id])
        if account["concurrent"] is not None and most > account["concurrent"]:
            yield Violation("unexpected", id, f"{most} tasks ran at the same time, of {account['concurrent']}")


def _hold(history: History, task: Row, id: str, moved: Counter[str]) -> Iterator[Violation]:
    held = moved["reservation"] - sum(moved[kind] for kind in ENDINGS)
    unknown = is_unknown(history, task)
    if moved["reservation"] != task["quoted"]:
        yield Violation("ledger_broken", task["id"], f"{id}: {moved['reservation']} reserved of {task['quoted']}")
    elif held != task["held"]:
        yield Violation("ledger_broken", task["id"], f"{id}: {held} is held, and it says {task['held']}")
    elif task["state"] in FINAL and held and not (unknown and task["held_until"]):
        yield Violation("ledger_broken", task["id"], f"{id}: it is {task['state']}, and {held} is still held")
    elif moved["overrun"] and moved["charge"] < moved["reservation"]:
        yield Violation("ledger_broken", task["id"], f"{id}: an overrun, and not all of its hold was charged")
    elif moved["expiry"] and not unknown:
        yield Violation("ledger_broken", task["id"], f"{id}: its hold expired, and its outcome was known")


def _due(history: History, task: Row) -> int:
    """What the vendor bills for a task, as far as anybody knows: for an unknown outcome nothing is charged."""
    if task["state"] != "completed" and is_unknown(history, task):
        return 0
    total = 0
    for order in history.orders.get(task["id"], []):
        ended = (order["ended"] or {}).get("event")
        if ended in ("delivered", "finished") or (ended is None and task["stopped"] == "not_stopped"):
            total += order["cost"]
    return total


def _books(history: History, task_id: str) -> dict[str, Counter[str]]:
    """What was moved for a task on each account, by kind."""
    books: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in history.entries_of_task.get(task_id, []):
        books[entry["account_id"]][entry["kind"]] += entry["amount"]
    return dict(books)


def _accounts(task: Row) -> set[str]:
    return {task["key_id"]} | ({f"owner:{task['owner']}"} if task["owner"] else set())


def _most_at_once(history: History, tasks: list[Row]) -> int:
    """How many tasks surely ran at one moment: from their first turn to their end."""
    moves = []
    for task in tasks:
        began = [event["at"] for event in history.events.get(task["id"], []) if event["type"].endswith(".started")]
        if began and task["ended_at"] is not None:
            moves += [(began[0] + SLACK, 1), (max(task["ended_at"], began[0] + SLACK), -1)]
    return max(accumulate(step for _, step in sorted(moves)), default=0)


RULES = (replayed, over_budget, holds, unattached, charges, counts, over_limit)
