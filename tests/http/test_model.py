"""The public API against a model of it: whatever a client and an operator do, in whatever order, both agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from gateway.core.pricing import dollars
from tests.http.server import ADMIN_KEY, ENVIRON, Heliograph, serving

CONFIG = """
[models.quick]
routes = [{ provider = "demo", model = "demo-image", price = { as_of = 2026-11-21, rows = [{ usd = "0.04" }] } }]
"""
PATH = "/v1/images/generations"
PRICE = 40_000
COUNTS = st.integers(1, 4)


@dataclass
class Known:
    """What the model knows of a task."""

    status: str
    quoted: int
    charged: int = 0


@dataclass
class Books:
    """What the model knows of a key. Amounts are micro-USD."""

    budget: int | None = None
    tasks: dict[str, Known] = field(default_factory=dict)

    @property
    def spent(self) -> int:
        """What was charged."""
        return sum(one.charged for one in self.tasks.values())

    @property
    def reserved(self) -> int:
        """What running tasks may cost."""
        return sum(one.quoted for one in self.tasks.values() if one.status == "processing")

    def covers(self, amount: int) -> bool:
        """Whether the budget has so much left."""
        return self.budget is None or self.spent + self.reserved + amount <= self.budget


class Gateway(RuleBasedStateMachine):
    """One key of a gateway that serves, and the books that the model keeps of it."""

    running: Heliograph
    tasks = Bundle("tasks")
    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.admin = self.running.client(ADMIN_KEY)
        key = self.admin.post("/admin/v1/keys", json={"name": "a key"}).json()
        self.address = f"/admin/v1/keys/{key['id']}"
        self.client = self.running.client(key["key"])
        self.claims = 0

    def teardown(self) -> None:
        self.client.close()
        self.admin.close()

    @rule(limit=st.one_of(st.none(), st.integers(0, 12)))
    def change_budget(self, limit: int | None) -> None:
        """The operator gives a budget for so many pictures, or takes it away; what runs is not touched."""
        self.books.budget = None if limit is None else limit * PRICE
        budget = None if limit is None else {"limit": dollars(limit * PRICE), "period": "total"}
        assert self.admin.patch(self.address, json={"budget": budget}).status_code == 200

    @rule(target=tasks, n=COUNTS, asynchronous=st.booleans())
    def make(self, n: int, asynchronous: bool) -> Any:
        """Pictures that are made at once."""
        body = {"model": "quick", "prompt": "a fox", "size": "256x256", "n": n, "async": asynchronous}
        reply = self.client.post(PATH, json=body)
        if not self.books.covers(n * PRICE):
            return self._refused(reply)
        assert reply.status_code == (202 if asynchronous else 200)
        return self._ended(reply, Known("completed", n * PRICE, n * PRICE))

    @rule(target=tasks, n=COUNTS)
    def begin(self, n: int) -> Any:
        """Pictures that are never done."""
        reply = self.client.post(PATH + "/async", json={"model": "patient-image", "prompt": "a fox", "n": n})
        if not self.books.covers(n * PRICE):
            return self._refused(reply)
        return self._note(reply, Known("processing", n * PRICE))

    @rule(target=tasks)
    def fail(self) -> Any:
        """A picture that the provider refuses after it was accepted."""
        body = {"model": "patient-image", "prompt": "refuse"}
        reply = self.client.post(PATH, json=body)
        if not self.books.covers(PRICE):
            return self._refused(reply)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "provider_refused")
        return self._note(reply, Known("failed", PRICE))

    @rule(member=st.sampled_from([{"n": 9}, {"size": "1x1"}, {"prompt": ""}, {"priority": 0}]))
    def mistake(self, member: dict[str, Any]) -> None:
        """A request that is wrong: it leaves nothing, with a budget or without."""
        assert self.client.post(PATH, json={"model": "quick", "prompt": "a fox"} | member).status_code == 400

    @rule(target=names, n=COUNTS)
    def claim(self, n: int) -> Any:
        """A request with an Idempotency-Key, for use again."""
        self.claims += 1
        name = f"request {self.claims}".replace(" ", "-")
        reply = self._claimed(name, n)
        if not self.books.covers(n * PRICE):
            self._refused(reply)
            return multiple()
        self._note(reply, Known("processing", n * PRICE))
        return name, n, reply.json()["id"]

    @rule(claim=names)
    def repeat(self, claim: tuple[str, int, str]) -> None:
        """The same request again is the same task, whatever became of it and of the budget."""
        name, n, task_id = claim
        reply = self._claimed(name, n)
        assert (reply.status_code, reply.json()["id"]) == (202, task_id)
        assert reply.headers["idempotent-replayed"] == "true"
        assert self._claimed(name, n % 4 + 1).json()["error"]["code"] == "idempotency_key_reused"

    @rule(task_id=consumes(tasks))
    def cancel(self, task_id: str) -> None:
        """A task that runs is cancelled, and costs nothing where the provider stops; one that has ended is not."""
        known = self.books.tasks[task_id]
        reply = self.client.post(f"/v1/tasks/{task_id}/cancel")
        if known.status != "processing":
            assert reply.json()["error"]["code"] == "task_not_cancellable"
            return
        assert (reply.json()["status"], reply.json()["cancellation"]["billed"]) == ("cancelled", "0.000000")
        known.status = "cancelled"

    @rule(task_id=tasks)
    def retry(self, task_id: str) -> None:
        """A failed task becomes a new one, which fails as well; another one does not."""
        reply = self.client.post(f"/v1/tasks/{task_id}/retry")
        if self.books.tasks[task_id].status != "failed":
            assert reply.json()["error"]["code"] == "task_not_retryable"
        elif self.books.covers(PRICE):
            self._ended(reply, Known("failed", PRICE))
        else:
            self._refused(reply)

    @precondition(lambda self: self.books.tasks)
    @invariant()
    def agrees(self) -> None:
        """Usage, list and ledger say what the model knows."""
        usage = self.client.get("/v1/usage").json()
        budget = usage["budget"]
        assert (budget["spent"], budget["reserved"]) == (dollars(self.books.spent), dollars(self.books.reserved))
        assert usage["mediaUsage"]["totalCost"] == dollars(self.books.spent)
        running = sum(one.status == "processing" for one in self.books.tasks.values())
        assert usage["limits"]["running"] + usage["limits"]["waiting"] == running
        listed = self.client.get("/v1/tasks?limit=100").json()["data"]
        seen = {one["id"]: "processing" if one["status"] == "queued" else one["status"] for one in listed}
        assert seen == {id: one.status for id, one in self.books.tasks.items()}

    def _claimed(self, name: str, n: int) -> httpx.Response:
        body = {"model": "patient-image", "prompt": "a fox", "n": n, "async": True}
        return self.client.post(PATH, json=body, headers={"Idempotency-Key": name})

    def _refused(self, reply: httpx.Response) -> Any:
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "insufficient_quota")
        return multiple()

    def _note(self, reply: httpx.Response, known: Known) -> str:
        task_id = reply.headers["x-heliograph-task-id"]
        self.books.tasks[task_id] = known
        return task_id

    def _ended(self, reply: httpx.Response, known: Known) -> str:
        task_id = self._note(reply, known)
        assert self.client.get(f"/v1/tasks/{task_id}?wait=20").json()["status"] == known.status
        return task_id


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway with a model that is done at once, and one that never is."""
    with serving(tmp_path_factory.mktemp("model"), CONFIG, ENVIRON) as heliograph:
        yield heliograph
        assert [record.getMessage() for record in heliograph.faults] == []


def test_the_api_agrees_with_its_model(running: Heliograph) -> None:
    """Random stories of requests, repetitions, cancels, retries and budgets: after each step both say the same."""
    made: Any = type("Machine", (Gateway,), {"running": running})
    machine = made.TestCase
    quiet = list(HealthCheck)
    machine.settings = settings(
        max_examples=18, stateful_step_count=20, derandomize=True, deadline=None, suppress_health_check=quiet
    )
    machine("runTest").debug()
