"""The promises, checked on what is left when all is quiet: rows, entries, bytes, the vendors' books, what was told."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping, Table, select

from gateway.core.accounts import account_ids
from gateway.core.lifecycle import FINAL, State
from gateway.core.pricing import quote
from gateway.core.tables import ACCOUNTS, ASSETS, ATTEMPTS, CLAIMS, ENTRIES, EVENTS, TASKS
from gateway.core.webhook_tables import DELIVERIES, ENDPOINTS
from providers.contract import BadCredential, Generation, RateLimited, Unavailable
from tests.simulation.clients import Request
from tests.simulation.receiver import of_webhooks
from tests.simulation.vendor import Bought, Vendor

if TYPE_CHECKING:
    from tests.simulation.world import World

# Outcomes of an attempt after which the order may be sent elsewhere.
NOT_TAKEN = {kind.__name__ for kind in (BadCredential, RateLimited, Unavailable)}
# What moves of what is reserved and what is spent, for each kind of entry.
MOVES = {"reservation": (1, 0), "charge": (-1, 1), "overrun": (0, 1), "release": (-1, 0), "expiry": (-1, 0)}


class Findings:
    """Everything that is left of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks = {row["id"]: row for row in self._all(TASKS)}
        self.accounts = self._all(ACCOUNTS)
        self.claims = self._all(CLAIMS)
        self.endpoints = self._all(ENDPOINTS)
        self.deliveries = self._all(DELIVERIES)
        self.attempts = _by(self._all(ATTEMPTS), "task_id")
        self.events = _by(self._all(EVENTS), "task_id")
        self.assets = _by(sorted(self._all(ASSETS), key=lambda row: row["position"]), "task_id")
        self.entries = _by(self._all(ENTRIES), "account_id")
        self.orders: dict[str, list[tuple[Vendor, Bought]]] = defaultdict(list)
        for vendor in world.vendors:
            for bought in vendor.orders.values():
                self.orders[bought.task_id].append((vendor, bought))

    def _all(self, table: Table) -> Sequence[RowMapping]:
        order = list(table.primary_key.columns)
        return self.world.server.connection.execute(select(table).order_by(*order)).mappings().all()


async def broken(world: World) -> list[str]:
    """Which promises do not hold, in words."""
    left = Findings(world)
    return [
        *_of_clients(left), *_of_tasks(left), *_of_money(left), *_of_webhooks(left),
        *[one async for one in _of_bytes(left)],
    ]  # fmt: skip


def _by(rows: Sequence[RowMapping], name: str) -> dict[str, list[RowMapping]]:
    found: dict[str, list[RowMapping]] = defaultdict(list)
    for row in rows:
        found[row[name]].append(row)
    return found


# What clients were told.


def _of_clients(left: Findings) -> Iterator[str]:
    made = defaultdict(list)
    for task in left.tasks.values():
        made[task["labels"]["label"], task["retry_of"]].append(task["id"])
    for request in left.world.clients.requests:
        yield from _of_request(left, request, made)
    yield from _of_claims(left, made)
    for task_id in left.world.clients.cancelled:
        if left.tasks[task_id]["state"] != State.CANCELLED:
            yield f"{task_id}: a cancel was answered, and it became {left.tasks[task_id]['state']}"
    for task_id, record in left.world.clients.seen.items():
        if left.tasks[task_id]["state"] != record.state:
            yield f"{task_id} was seen {record.state}, and became {left.tasks[task_id]['state']}"


def _of_request(left: Findings, request: Request, made: Mapping[Any, list[str]]) -> Iterator[str]:
    if request.accepted is not None and request.accepted not in left.tasks:
        yield f"{request.label}: {request.accepted} was promised, and does not exist"
    if request.retry_of is not None:
        return
    mine = made[request.label, None]
    if len(mine) > 1:
        yield f"{request.label} made {len(mine)} tasks"
    if request.refused is not None and mine:
        yield f"{request.label} was refused ({request.refused}), and made {mine[0]}"
    if request.accepted is not None and request.text is None and mine != [request.accepted]:
        yield f"{request.label}: {request.accepted} was promised, and {mine} made"
    if request.named is not None and mine and mine != [request.named]:
        yield f"{request.label}: {request.named} was named, and {mine} made"


def _of_claims(left: Findings, made: Mapping[Any, list[str]]) -> Iterator[str]:
    """Requests with one Idempotency-Key have one task, and those who were answered, were answered with it."""
    groups: dict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in left.world.clients.requests:
        if request.text is not None:
            groups[request.caller.key_id, request.text].append(request)
    claims = {(row["key_id"], row["text"]): row for row in left.claims}
    for name, group in groups.items():
        claim = claims.get(name)
        ids = {one.accepted for one in group if one.accepted is not None}
        if claim is None:
            if ids:
                yield f"{name} was accepted, and there is no claim"
            continue
        if ids - {claim["task_id"]}:
            yield f"{name} stands for {claim['task_id']}, and {ids} was promised"
        if any(one.accepted is not None and one.fingerprint != claim["fingerprint"] for one in group):
            yield f"{name} was accepted for another request"
        labels = {one.label for one in group if one.retry_of is None}
        several = [id for label in labels for id in made[label, None]]
        if len(several) > 1:
            yield f"{name} made {several}"


# What became of tasks and orders.


def _of_tasks(left: Findings) -> Iterator[str]:
    for task in left.tasks.values():
        for finding in (*_of_events(left, task), *_of_attempts(left, task), *_of_orders(left, task),
                        *_of_endings(left, task), *_of_charge(left, task)):  # fmt: skip
            yield f"{task['id']} ({task['state']}): {finding}"


def _of_events(left: Findings, task: RowMapping) -> Iterator[str]:
    events = left.events[task["id"]]
    words = [word for row in events if (word := row["type"].rpartition(".")[2]) != "progress"]
    middle = ["started"] if task["started_at"] is not None else []
    if words != ["queued", *middle, task["state"]]:
        yield f"its events are {words}"
    if [row["sequence"] for row in events] != list(range(1, task["sequence"] + 1)):
        yield f"its events are numbered {[row['sequence'] for row in events]}, up to {task['sequence']}"


def _of_attempts(left: Findings, task: RowMapping) -> Iterator[str]:
    attempts = left.attempts[task["id"]]
    if [row["number"] for row in attempts] != list(range(1, len(attempts) + 1)):
        yield "its attempts are not numbered one after the other"
    for row in attempts:
        if row["outcome"] is None or row["ended_at"] is None:
            yield f"attempt {row['number']} is open"
        if row["outcome"] in NOT_TAKEN and any(
            bought.key == f"{task['id']}-{row['number']}" for _, bought in left.orders[task["id"]]
        ):
            yield f"attempt {row['number']} ended {row['outcome']}, and was taken"
    if any(row["outcome"] not in NOT_TAKEN for row in attempts[:-1]):
        yield f"it went on after {[row['outcome'] for row in attempts]}"


def _of_orders(left: Findings, task: RowMapping) -> Iterator[str]:
    """Nothing is bought twice, and what was bought is owned up to."""
    orders = left.orders[task["id"]]
    if len(orders) > 1 or any(bought.times > 1 for _, bought in orders):
        yield f"bought {sum(bought.times for _, bought in orders)} times: {[bought.key for _, bought in orders]}"
    if not orders:
        if task["state"] == State.COMPLETED:
            yield "nothing was bought"
        return
    if task["stopped"] == "nothing_sent" or task["error_code"] == "model_overloaded":
        yield f"something was bought, and it says {task['stopped'] or task['error_code']}"
    _, bought = orders[0]
    if bought.prompt != _prompt(task):
        yield f"{bought.prompt!r} was sent, and {_prompt(task)!r} is recorded"
    if task["stopped"] == "at_provider" and not bought.stopped and bought.good:
        yield "it says that the provider stopped the order, and the provider goes on"
    if task["held_until"] is not None:
        yield "something is still held"


def _prompt(task: RowMapping) -> str:
    """What every attempt was to send."""
    enhanced = task["enhancement"] or {}
    return str(enhanced.get("prompt", task["generation"]["prompt"]))


def _of_endings(left: Findings, task: RowMapping) -> Iterator[str]:
    """A wish to cancel is granted, and a job that came to a good end is delivered."""
    if task["cancel_asked_at"] is not None and task["state"] != State.CANCELLED:
        yield "its owner wished to cancel it"
    if task["state"] in FINAL and task["due_at"] is not None:
        yield "it is due for ever"
    attempts, orders = left.attempts[task["id"]], left.orders[task["id"]]
    if len(orders) != 1 or not attempts or attempts[-1]["job"] is None or task["cancel_asked_at"] is not None:
        return
    _, bought = orders[0]
    # Past its deadline a task gets one look, and one try to store what it brings. One whose turns came to nothing is
    # given up.
    if task["ended_at"] >= task["deadline_at"] or task["error_code"] == "internal_error":
        return
    in_time = bought.ready_at < left.world.seconds(task["deadline_at"])
    if bought.good and in_time and task["state"] != State.COMPLETED:
        yield f"its job was done, and it says {task['error_code']}"


# Money.


def _of_charge(left: Findings, task: RowMapping) -> Iterator[str]:
    """The charge is for what was delivered, and each hold ended once."""
    booked: Counter[str] = Counter()
    for row in left.entries[task["key_id"]]:
        if row["task_id"] == task["id"]:
            booked[row["kind"]] += row["amount"]
    if booked["reservation"] != (task["quoted"] or 0):
        yield f"{booked['reservation']} was reserved of {task['quoted']}"
    if booked["reservation"] != booked["charge"] + booked["release"] + booked["expiry"]:
        yield f"its hold did not end: {dict(booked)}"
    if task["held"]:
        yield f"{task['held']} is held"
    if booked["charge"] + booked["overrun"] != (task["charged"] or 0):
        yield f"{dict(booked)} is booked, and {task['charged']} charged"
    once = len(left.orders[task["id"]]) == 1
    if once and left.assets[task["id"]] and task["charged"] != _price(left, task):
        yield f"{task['charged']} was charged for what costs {_price(left, task)}"
    # Of a task that stopped its workers a provider may have had an order.
    unknown = task["error_code"] in ("outcome_unknown", "internal_error") or task["stopped"] == "unknown"
    if booked["expiry"] and not unknown:
        yield f"it ended {task['error_code'] or task['stopped']}, with {dict(booked)}"


def _price(left: Findings, task: RowMapping) -> int | None:
    """What is to be paid for the assets: the vendor's word, else the card's price of that many."""
    ((vendor, bought),) = left.orders[task["id"]]
    if bought.cost is not None:
        return bought.cost
    (card,) = vendor.card.models
    count = len(left.assets[task["id"]])
    generation = Generation(kind=card.kind, operation=card.operations[0], model=card.public_name, n=count)
    return quote(generation, card, card.price)


def _of_money(left: Findings) -> Iterator[str]:
    for account in left.accounts:
        for finding in (*_of_account(account), *_of_entries(account, left.entries[account["id"]])):
            yield f"{account['id']}: {finding}"
    yield from _of_owners(left)
    yield from _of_rates(left)


def _of_account(account: RowMapping) -> Iterator[str]:
    for name in ("reserved", "waiting", "running"):
        if account[name] != 0:
            yield f"{name} is {account[name]} in the end"


def _of_entries(account: RowMapping, entries: Sequence[RowMapping]) -> Iterator[str]:
    """Told again from the first, the entries come to what they and the account say; none is beyond the budget."""
    spent = reserved = 0
    window_at = entries[0]["window_at"] if entries else account["window_at"]
    for number, row in enumerate(entries, 1):
        if row["window_at"] > window_at:
            spent, window_at = 0, row["window_at"]
        of_reserved, of_spent = MOVES[row["kind"]]
        reserved, spent = reserved + of_reserved * row["amount"], spent + of_spent * row["amount"]
        if (row["sequence"], row["spent"], row["reserved"]) != (number, spent, reserved) or row["amount"] <= 0:
            yield f"entry {number} says {row['spent']} and {row['reserved']}, and it is {spent} and {reserved}"
        if account["budget"] is not None and row["kind"] == "reservation" and spent + reserved > account["budget"]:
            yield f"{spent + reserved} of {account['budget']} after entry {number}"
    if entries and (account["sequence"], account["reserved"]) != (len(entries), reserved):
        yield f"it stands at {account['sequence']} and {account['reserved']}, not {len(entries)} and {reserved}"


def _of_owners(left: Findings) -> Iterator[str]:
    """Each movement of a key is also one of its owner."""
    for account in left.accounts:
        if account["key_id"] is not None:
            continue
        keys = [id for one in left.world.callers for id in account_ids(one.key_id, one.owner)[:1]
                if account["id"] in account_ids(one.key_id, one.owner)]  # fmt: skip
        theirs = Counter(_movement(row) for key in keys for row in left.entries[key])
        if theirs != Counter(_movement(row) for row in left.entries[account["id"]]):
            yield f"{account['id']} has other movements than its keys"


def _movement(row: RowMapping) -> tuple[str, str, int]:
    return row["task_id"], row["kind"], row["amount"]


def _of_rates(left: Findings) -> Iterator[str]:
    """No account was let make more tasks in a minute than its limit."""
    made: Counter[tuple[str, Any]] = Counter()
    for task in left.tasks.values():
        minute = task["created_at"].replace(second=0, microsecond=0)
        made.update((id, minute) for id in account_ids(task["key_id"], task["owner"]))
    for account in left.accounts:
        most = account["per_minute"]
        for (id, minute), count in made.items():
            if id == account["id"] and most is not None and count > most + 1:
                yield f"{id} made {count} tasks in the minute of {minute}, of {most}"


# Webhooks.


def _of_webhooks(left: Findings) -> Iterator[str]:
    keys = {id: task["key_id"] for id, task in left.tasks.items()}
    events = {id: [{**row, "key_id": keys[id]} for row in rows] for id, rows in left.events.items()}
    return of_webhooks(left.world.receiver.arrivals, left.endpoints, left.deliveries, events)


# Bytes.


async def _of_bytes(left: Findings) -> Any:
    for task in left.tasks.values():
        assets = left.assets[task["id"]]
        if bool(assets) != (task["state"] == State.COMPLETED or task["stopped"] == "delivered"):
            yield f"{task['id']} ({task['state']}, {task['stopped']}) has {len(assets)} assets"
        if not assets:
            continue
        wanted = [one for _, bought in left.orders[task["id"]] for one in bought.good]
        late = task["ended_at"] >= task["deadline_at"]
        if not late and [row["position"] for row in assets] != list(range(len(wanted))):
            yield f"{task['id']} has {len(assets)} assets of {len(wanted)} pictures"
        for row, whole in zip(assets, wanted if len(wanted) == len(assets) else (), strict=False):
            kept = await _kept(left, row["object_key"])
            if kept != whole or row["sha256"] != hashlib.sha256(whole).hexdigest() or row["size"] != len(whole):
                yield f"{row['id']} is not the picture that the vendor made"


async def _kept(left: Findings, key: str) -> bytes | None:
    if await left.world.objects.find(key) is None:
        return None
    return b"".join([chunk async for chunk in left.world.objects.read(key)])
