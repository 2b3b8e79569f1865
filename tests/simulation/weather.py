"""The weather: which faults a seed has, how often they strike, and how long things take."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import NamedTuple

from gateway.core.crashing import POINTS


class Fault(NamedTuple):
    """How likely a fault strikes where it could, and how often at most in one seed."""

    rate: float
    most: int


# What may happen at each moment at which a process waits for something outside.
FAULTS = {
    "crash": Fault(0.008, 5),
    "freeze": Fault(0.006, 4),
    # a transaction: not begun, broken off at a statement or at its commit, or standing with the answer lost
    "database.before": Fault(0.03, 12),
    "database.statement": Fault(0.02, 8),
    "database.commit": Fault(0.05, 8),
    "database.after": Fault(0.06, 8),
    "database.slow": Fault(0.01, 4),
    "store.before": Fault(0.2, 6),
    "store.after": Fault(0.2, 6),
    # a message: refused, refused and sent all the same, lost, doubled, late
    "queue.refused": Fault(0.1, 20),
    "queue.refused_but_sent": Fault(0.1, 20),
    "message.lost": Fault(0.3, 40),
    "message.doubled": Fault(0.3, 40),
    "message.late": Fault(0.3, 40),
    # an order or a look: lost on its way there or back, late, answered never
    "order.lost": Fault(0.1, 4),
    "order.late": Fault(0.15, 4),
    "answer.lost": Fault(0.12, 4),
    "answer.slow": Fault(0.15, 6),
    "answer.never": Fault(0.06, 3),
    "look.fails": Fault(0.2, 8),
    "download.fails": Fault(0.25, 6),
    # a webhook: not brought there, answered 500, taken with the answer lost
    "webhook.lost": Fault(0.15, 2),
    "webhook.refused": Fault(0.15, 1),
    "webhook.unanswered": Fault(0.15, 2),
}
# What is away for a while, for everybody.
OUTAGES = ("database", "store", "vendor", "queue")
# Named moments of the core at which it may die, beside those at which it waits.
AT_A_POINT = 0.04
# In each seed there is one kind of moment that attracts crashes and freezes, for else the rare ones never saw any.
WAITS = (
    "database.statement", "database.answer", "database.commit", "database.committed", "store.put", "store.putting",
    "store.stored", "queue.send", "queue.sent", "order.sending", "order.answer", "poll.sending", "poll.answer",
    "find.sending", "find.answer", "cancel.sending", "cancel.answer", "download.begin", "download.chunk",
    "webhook.sending", "webhook.answer",
)  # fmt: skip
HOT = 0.15


class Weather:
    """The faults of one seed. Each seed has only some kinds: together they would hide what each does by itself."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.counts: Counter[str] = Counter()
        self.calm = random.random() < 0.03
        self._left = {kind: fault.most for kind, fault in FAULTS.items() if random.random() < 0.45}
        self._scale = random.choice((0.5, 1.0, 1.0, 2.0))
        self._away: dict[str, float] = {}
        self._hot = random.choice((*WAITS, *POINTS))
        # How often a wait takes no time, no more than a round of the loop, or longer.
        self._still = random.choice((0.3, 0.6, 0.8))
        self._slow = random.choice((0.02, 0.1, 0.5))

    def strikes(self, kind: str, rate: float | None = None) -> bool:
        """Whether a fault of that kind happens now."""
        left = 0 if self.calm else self._left.get(kind, 0)
        if not left or self.random.random() >= (FAULTS[kind].rate * self._scale if rate is None else rate):
            return False
        self._left[kind] = left - 1
        self.counts[kind] += 1
        return True

    def befalls(self, kind: str, point: str) -> bool:
        """Whether a process dies or freezes (`kind`) at that moment."""
        if point == self._hot:
            return self.strikes(kind, HOT)
        return self.strikes(kind, AT_A_POINT if point in POINTS else None)

    def begin_outage(self, what: str, until: float) -> None:
        """From now on that is away, until then."""
        self._away[what] = until
        self.counts[f"{what}.away"] += 1

    def is_away(self, what: str, now: float) -> bool:
        """Whether that is away."""
        return now < self._away.get(what, 0)

    def clear_up(self) -> None:
        """Ends all faults."""
        self.calm = True
        self._away.clear()

    def pause(self) -> float | None:
        """How long a step outside takes: None when it is over at once, 0 for a round of the loop, or seconds."""
        drawn = self.random.random()
        if drawn < self._still:
            return None
        return 0.0 if drawn < 0.92 else self.random.random() * self._slow
