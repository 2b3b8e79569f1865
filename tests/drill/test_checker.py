"""The checker finds what it is there for: each kind of harm, done to a past in which all was well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.drill.checker import FAULTS, check, show
from tests.drill.harm import (
    Harm,
    add,
    add_entry,
    add_event,
    all_of,
    change,
    hear,
    hear_again,
    hear_first,
    note,
    note_again,
    remove,
    remove_entries,
    remove_task,
    store,
    tell,
    tell_again,
    unhear,
    unnote,
    unstore,
    untell,
)
from tests.drill.history import History
from tests.drill.past import PRICE, Past, clean

OTHER = "0" * 64
T3, T4 = {"id": "task_3"}, {"id": "task_4"}
OF_1, OF_4 = {"task_id": "task_1"}, {"task_id": "task_4"}
LONE, TEAM, FIRST = {"id": "lone"}, {"id": "owner:team"}, {"id": "first"}
THIRD = {"account_id": "lone", "sequence": 3}
CHARGE_10, RELEASE_5 = {"task_id": "task_10", "kind": "charge"}, {"task_id": "task_5", "kind": "release"}

PROMISES: dict[str, tuple[Harm, str, str]] = {
    "a promised task is not there": (remove_task("task_3"), "lost", "there is no such task"),
    "its owner does not find a task": (tell("1", "look", status=404, state=None), "lost", "look was answered 404"),
    "two tasks for one request": (add("tasks", T3, id="task_3b"), "duplicated", "task_3, task_3b"),
    "two answers to one request": (tell_again("1", task="task_10"), "duplicated", "task_1, task_10"),
    "a task of nobody": (untell("10"), "unexpected", "nobody has asked for it"),
    "a task that was refused": (tell("10", status=429, task=None), "unexpected", "was refused, and it exists"),
    "a task that was refused at last": (
        tell_again("10", status=429, code="insufficient_quota"), "unexpected", "was refused, and it exists",
    ),
    "a task of another key": (tell("3", key="first"), "unexpected", "who has not asked"),
    "another end than was told": (tell("3", "look", state="completed", images=0), "unexpected", "told completed"),
    "another failure than was told": (tell("3", code="provider_error"), "unexpected", "told provider_error"),
    "fewer pictures than were told of": (tell("1", "look", images=3), "unexpected", "told of 3 pictures"),
    "a cancel in vain": (tell_again("5", "cancel", task="task_3", state=None), "unexpected", "cancel was accepted"),
    "a cancel of nobody": (untell("5", "cancel"), "unexpected", "nobody has asked to cancel"),
    "a fault of our own": (tell("9", status=500, code="internal_error"), "unexpected", "answered 500"),
    "a key that is refused": (tell("9", status=401), "unexpected", "its key was refused"),
}  # fmt: skip

STORIES: dict[str, tuple[Harm, str, str]] = {
    "a task that has not ended": (change("tasks", T3, state="waiting"), "unexpected", "still waiting"),
    "a task that would be taken up": (change("tasks", T3, due_at=1.0), "unexpected", "still take its turn"),
    "an attempt that is open": (change("attempts", OF_1, ended_at=None), "unexpected", "an attempt is open"),
    "a strange end": (change("tasks", T3, error_code="internal_error"), "unexpected", "ended as internal_error"),
    "an unknown end of a known job": (change("attempts", OF_4, job="j"), "unexpected", "ended as outcome_unknown"),
    "an event after the end": (add_event("task_1", "started", 4), "unexpected", "does not begin well"),
    "a second end": (add_event("task_1", "failed", 4), "unexpected", "after the events"),
    "an event that is missing": (remove("events", {**OF_1, "sequence": 2}), "unexpected", "gaps"),
    "an order that was accepted twice": (
        note_again("task_1", "accepted", job="again", key="task_1-2"), "double_paid", "job-task_1, again",
    ),
    "a request that was bought as two tasks": (
        all_of(add("tasks", T4, id="task_4b"), note_again("task_4", "accepted", job="again", key="task_4b-1")),
        "double_paid", "bought again as task_4b",
    ),
    "an order of nobody": (note_again("task_7", "accepted", job="x", key="task_x-1"), "unexpected", "no such task"),
    "a result that was never ordered": (unnote("task_2", "accepted"), "unexpected", "never ordered"),
    "a result that was thrown away": (
        change("tasks", {"id": "task_10"}, state="failed"), "unexpected", "was delivered, and the task failed",
    ),
    "a cancelled job that runs on": (unnote("task_5", "cancelled"), "unexpected", "runs on"),
}  # fmt: skip

MEDIA: dict[str, tuple[Harm, str, str]] = {
    "another digest in the row": (change("assets", OF_1, sha256=OTHER), "assets_missing", "not what its row says"),
    "other bytes in the store": (store("media/task_1/1-0"), "assets_missing", "not what its row says"),
    "other pictures than were delivered": (
        note("task_1", "delivered", sha256=[OTHER, OTHER]), "assets_missing", "not what the vendor delivered",
    ),
    "an object that is missing": (unstore("media/task_1/1-0"), "assets_missing", "not in the store"),
    "a row that is missing": (remove("assets", {**OF_1, "position": 1}), "assets_missing", "it has others"),
    "a picture of another key": (change("assets", OF_1, key_id="lone"), "assets_missing", "belongs to another key"),
    "a small picture that is missing": (unstore("media/task_1/1-0.thumbnail"), "assets_missing", "a small picture"),
    "a small picture of no asset": (store("media/task_1/1-2.thumbnail"), "assets_extra", "not named by any"),
    "an object of no task": (store("media/task_x/1-0"), "assets_extra", "belongs to no task"),
    "an object of no attempt": (store("media/task_5/2-0"), "assets_extra", "belongs to no attempt"),
    "an object too many": (store("media/task_1/1-2"), "assets_extra", "not named by any"),
    "an object too many of a cancelled task": (store("media/task_6/1-1"), "assets_extra", "beside those"),
    "pictures of a failed task": (change("assets", OF_1, task_id="task_3"), "assets_extra", "failed, and has pictures"),
}  # fmt: skip

BOOKS: dict[str, tuple[Harm, str, str]] = {
    "a charge that is missing": (change("entries", CHARGE_10, kind="release"), "charges_missing", "0 was charged"),
    "a charge that is too low": (note("task_2", "accepted", cost=2 * PRICE), "charges_missing", "bills 80000"),
    "a charge for nothing": (add_entry("task_3", "lone", "overrun", 1), "charges_extra", "1 was charged"),
    "a charge for what was cancelled": (change("entries", RELEASE_5, kind="charge"), "charges_extra", "bills 0"),
    "a charge for what is unknown": (
        all_of(add_entry("task_4", "second", "charge", PRICE), add_entry("task_4", "owner:team", "charge", PRICE)),
        "charges_extra", "bills 0",
    ),
    "two charges for one task": (add_entry("task_2", "lone", "charge", PRICE), "charges_extra", "80000 was charged"),
    "two charges in one way": (add_entry("task_2", "lone", "charge", PRICE), "ledger_broken", "2 entries of the kind"),
    "a charge that the task denies": (change("tasks", {"id": "task_2"}, charged=1), "ledger_broken", "it says 1"),
    "a budget that was exceeded": (change("accounts", LONE, budget=100_000), "budget_exceeded", "160000 of 100000"),
    "an owner's budget that was exceeded": (change("accounts", TEAM, budget=100_000), "budget_exceeded", "owner:team"),
    "a balance that does not add up": (change("entries", THIRD, spent=1), "ledger_broken", "do not add up"),
    "an amount that was changed": (change("entries", THIRD, amount=1), "ledger_broken", "do not add up"),
    "an entry of no known kind": (change("entries", THIRD, kind="gift"), "ledger_broken", "there is no kind gift"),
    "an entry that is missing": (remove("entries", THIRD), "ledger_broken", "entry 3 has the number 4"),
    "a window that goes back": (change("entries", THIRD, window_at=1.0), "ledger_broken", "before the last one"),
    "an account that does not agree": (change("accounts", LONE, spent=0), "ledger_broken", "its entries come to"),
    "an account that is missing": (remove("accounts", LONE), "ledger_broken", "there is no such account"),
    "entries on one account of two": (remove_entries("owner:team"), "ledger_broken", "booked on first"),
    "entries of no task": (change("tasks", T3, id="task_3b"), "ledger_broken", "money was moved for it"),
    "a hold that never ended": (remove("entries", CHARGE_10), "ledger_broken", "120000 is held, and it says 0"),
    "a hold that ended twice": (add_entry("task_3", "lone", "expiry", PRICE), "ledger_broken", "-40000 is held"),
    "a hold without an end": (change("tasks", T4, held_until=None), "ledger_broken", "still held"),
    "a hold that the task denies": (change("tasks", T4, held=0), "ledger_broken", "40000 is held, and it says 0"),
    "a hold that expired for no reason": (
        change("entries", RELEASE_5, kind="expiry"), "ledger_broken", "its outcome was known",
    ),
    "an overrun beside a release": (
        add_entry("task_3", "lone", "overrun", 1), "ledger_broken", "not all of its hold was charged",
    ),
    "a hold of another amount": (change("tasks", T4, quoted=1), "ledger_broken", "40000 reserved of 1"),
    "a slot that was not given back": (change("accounts", FIRST, running=1), "ledger_broken", "0 wait and 1 run"),
    "too many at the same time": (
        change("events", {"task_id": "task_10", "sequence": 2}, at=1.0), "unexpected", "ran at the same time",
    ),
    "too many in a minute": (change("accounts", LONE, per_minute=0), "unexpected", "accepted in a minute"),
}  # fmt: skip
OWN_1, OWN_3, OF_FIRST = "/tasks/1", "/tasks/3", "/keys/first"


def forged(task: str, word: str, sequence: int, path: str = OWN_1, key: str = "first", **status: str) -> Harm:
    """A webhook, well signed, that says something else."""
    past = Past()
    past._now = PRICE * PRICE
    past._tell({"id": task, "sequence": sequence, **status}, path, word, past._secret(key, None))
    return lambda history: history.sink.append(past.sink[0])


WEBHOOKS: dict[str, tuple[Harm, str, str]] = {
    "an event of nobody's knowledge": (unhear(OWN_1, 3), "webhooks_missing", "/tasks/1 has not heard of image"),
    "an event that an endpoint missed": (unhear(OF_FIRST, 2), "webhooks_missing", "/keys/first has not heard of"),
    "an event that was never taken": (hear(OWN_3, 3, status=500), "webhooks_missing", "image.generation.failed"),
    "an event whose taker hung up": (hear(OWN_3, 3, status=None), "webhooks_missing", "image.generation.failed"),
    "a signature of nobody": (hear(OWN_1, 3, signature="v1,AAAA"), "webhooks_wrong", "its signature is not"),
    "no signature": (hear(OWN_1, 3, signature=None), "webhooks_wrong", "its signature is not"),
    "a signature of another moment": (hear(OWN_1, 3, timestamp="1800000000"), "webhooks_wrong", "its signature is not"),
    "a signature under another id": (hear(OWN_1, 3, id="evt_other"), "webhooks_wrong", "its signature is not"),
    "a moment to come": (hear(OWN_1, 3, timestamp="1900000000"), "webhooks_wrong", "it was sent at 1900000000"),
    "the secret of another key": (hear(OWN_1, 3, path="/tasks/2"), "webhooks_wrong", "its signature is not"),
    "other bytes of the same id": (
        hear_again(OWN_1, 3, body='{"type":"image.generation.completed","data":{"task_id":"task_1","sequence":3,'
                   '"status":"completed","more":1}}'), "webhooks_wrong", "other words before",
    ),
    "a place where nobody is": (hear_again(OWN_1, 3, path="/keys/second"), "webhooks_wrong", "nobody is there"),
    "an event of no task": (forged("task_x", "completed", 3), "webhooks_wrong", "there is no such task"),
    "an event of another's task": (forged("task_2", "completed", 3), "webhooks_wrong", "whose task it is not"),
    "an event that nobody wants": (forged("task_1", "queued", 1), "webhooks_wrong", "nobody wants to hear of queued"),
    "a state that never was": (
        forged("task_3", "completed", 3, OWN_3, "lone"), "webhooks_wrong", "completed is not what happened at 3",
    ),
    "an event that never was": (forged("task_1", "completed", 4), "webhooks_wrong", "is not what happened at 4"),
    "an event before its time": (hear_again(OWN_1, 3, at=1.0, timestamp="1"), "webhooks_wrong", "before it happened"),
    "an end before the beginning": (hear_first(OF_FIRST, 3), "webhooks_wrong", "it came before 2"),
    "another end at last": (forged("task_1", "started", 9), "webhooks_wrong", "it is the last of all"),
}  # fmt: skip
HARMS = PROMISES | STORIES | MEDIA | BOOKS | WEBHOOKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the clean past."""
    folder = tmp_path_factory.mktemp("past")
    clean().record(folder)
    return folder


@pytest.fixture
def history(folder: Path) -> History:
    """The clean past, for one test to spoil."""
    return History.load(folder)


def test_a_clean_past_is_clean(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all went as promised every fault counts 0, and the figures say what became of each request."""
    findings = check(history)
    assert findings.violations == []
    assert findings.faults == dict.fromkeys(FAULTS, 0)
    assert findings.figures == {
        "attempted": 10, "acknowledged": 7, "ok": 7, "recovered": 1, "unknown": 1, "refused": 1,
    }  # fmt: skip
    assert show(history, findings)
    assert "lost 0" in capsys.readouterr().out


@pytest.mark.parametrize(("harm", "counter", "words"), HARMS.values(), ids=HARMS)
def test_harm_is_found(
    harm: Harm, counter: str, words: str, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each harm is counted where it belongs, is told with the timeline of whom it was done to, and is a failure."""
    harm(history)
    findings = check(history)
    assert [one for one in findings.violations if one.counter == counter and words in f"{one.subject} {one.what}"]
    assert not show(history, findings)
    assert words in capsys.readouterr().out


def test_a_record_can_be_checked_again(folder: Path) -> None:
    """What a drill has kept is all that a check needs: the same is found in it again."""
    assert check(History.load(folder)) == check(History.load(folder))
    assert json.loads((folder / "tables.json").read_text())["tasks"]
