"""The load: what clients do, planned from the seed alone, so that a run can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

# What the vendor is told to do with an order, and how often it is.
SCRIPTS = {
    "bytes": 22, "job": 26, "urls": 16, "once": 6, "never": 6, "fails": 5,
    "refuse": 4, "blocked": 3, "busy": 1, "down": 2, "drop": 5,
}  # fmt: skip
LONGEST = {"bytes": 2.0, "job": 4.0, "urls": 1.0, "fails": 1.5, "never": 0.0}
SIZES = ("64x64", "128x64")
WORDS = ("started", "progress", "completed", "failed", "cancelled")


@dataclass(frozen=True)
class Account:
    """What a virtual key is made with; `body` is what the administration is told besides its name."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One thing that a client wants, however often it has to send it.

    Its id is the prompt, and the Idempotency-Key if it has one. `patience` is how long the client waits for an
    answer before it hangs up, and `cancel_after` how long it waits before it changes its mind. `hears` are the events
    that it wants to hear of by a webhook of the task's own; with none of them named, how it ended.
    """

    id: str
    at: float
    key: str
    script: str
    n: int
    size: str
    synchronous: bool
    idempotent: bool
    patience: float
    cancel_after: float | None
    hears: tuple[str, ...] | None

    def body(self, hooks: str) -> dict[str, Any]:
        """What is posted, when webhooks go to that address."""
        webhook: dict[str, Any] = {} if self.hears is None else {"webhook_url": f"{hooks}/tasks/{self.id}"}
        if self.hears:
            webhook["webhook_events"] = list(self.hears)
        return webhook | {
            "model": "scripted-image", "prompt": self.id, "script": self.script, "n": self.n, "size": self.size,
            "async": not self.synchronous,
        }  # fmt: skip


def accounts() -> list[Account]:
    """The keys of a run: some may do anything, some run dry, some share an owner, some are held back."""

    def budget(limit: str) -> dict[str, Any]:
        return {"budget": {"limit": limit, "period": "total"}}

    return [
        *(Account(f"free-{number}", {}) for number in range(3)),
        *(Account(f"rich-{number}", budget("100.00")) for number in range(2)),
        *(Account(f"poor-{number}", budget("0.60")) for number in range(2)),
        *(Account(f"shared-{number}", {"owner": "team", **budget("5.00")}) for number in range(2)),
        Account("narrow", {"limits": {"concurrent": 2}}),
        Account("slow", {"limits": {"requests_per_minute": 20}}),
    ]


# What the owner of the shared keys may spend in all.
OWNERS = {"team": {"budget": {"limit": "2.00", "period": "total"}}}


# The keys that have an endpoint, and of what that hears.
ENDPOINTS = {
    "free-0": WORDS, "rich-0": WORDS[2:], "poor-0": ("completed",), "shared-0": ("started", "failed", "cancelled"),
    "narrow": WORDS,
}  # fmt: skip


def operations(seed: int, seconds: float, rate: float) -> list[Operation]:
    """What clients do in that time, so many a second."""
    random = Random(f"load {seed}")  # noqa: S311 - a plan that can be repeated
    keys = [account.name for account in accounts()]
    return [_operation(random, seed, number, number / rate, keys) for number in range(int(seconds * rate))]


def _operation(random: Random, seed: int, number: int, at: float, keys: list[str]) -> Operation:
    verb = random.choices(list(SCRIPTS), list(SCRIPTS.values()))[0]
    seconds = round(random.uniform(0, LONGEST.get(verb, 0.0)), 1) if random.random() < 0.8 else 0.0
    synchronous = verb != "never" and random.random() < 0.4
    changes_mind = verb == "never" or (not synchronous and random.random() < 0.12)
    return Operation(
        id=f"{seed}-{number:05}",
        at=at,
        key=random.choice(keys),
        script=f"{verb}:{seconds}" if seconds else verb,
        n=random.choice((1, 1, 1, 2, 3)),
        size=random.choice(SIZES),
        synchronous=synchronous,
        # Of what never ends somebody must know the id, to cancel it.
        idempotent=random.random() < 0.8 or verb == "never",
        patience=random.choice((0.5, 1.0, 2.0)) if random.random() < 0.15 and verb != "never" else 30.0,
        cancel_after=round(random.uniform(0, 3), 1) if changes_mind else None,
        hears=random.choice((None, None, (), WORDS, WORDS[:3])),
    )
