"""The nemesis: injects faults by a schedule that follows from the seed alone, and heals each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sqlalchemy import text

from tests.drill.echo import Echo
from tests.drill.fleet import Fleet, Member
from tests.drill.history import connected
from tests.drill.record import Record
from tests.drill.stage import Stage

GAP = 3.0
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'heliograph' AND datname = current_database()
"""


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how often it is chosen, and how many seconds it lasts."""

    weight: int
    shortest: float = 0.0
    longest: float = 0.0


KINDS = {
    "kill": Kind(8, 0.0, 3.0),
    "stop": Kind(2, 0.0, 1.0),
    "freeze": Kind(4, 4.0, 8.0),
    "cut broker": Kind(2, 0.0, 6.0),
    "mute broker": Kind(1, 0.0, 4.0),
    "stall broker": Kind(1, 1.0, 6.0),
    "cut database": Kind(2, 0.0, 6.0),
    "mute database": Kind(2, 0.0, 3.0),
    "stall database": Kind(1, 1.0, 6.0),
    "terminate": Kind(3),
    "kill store": Kind(2, 0.0, 4.0),
    "cut store": Kind(1, 0.0, 4.0),
    "mute store": Kind(1, 0.0, 4.0),
    "stall store": Kind(1, 1.0, 6.0),
    "cut sink": Kind(2, 0.0, 3.0),
    "purge": Kind(2),
    "garbage": Kind(1),
}


@dataclass(frozen=True)
class Fault:
    """What happens when, for how long, and to which process where it happens to one."""

    at: float
    kind: str
    seconds: float
    target: int


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run: every kind once, in an order of chance, then any."""
    random = Random(f"nemesis {seed}")  # noqa: S311 - a schedule that can be repeated
    first = random.sample(list(KINDS), len(KINDS))
    faults: list[Fault] = []
    at = random.uniform(1, GAP)
    while at < seconds:
        kind = first.pop() if first else random.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
        lasts = random.uniform(KINDS[kind].shortest, KINDS[kind].longest)
        faults.append(Fault(round(at, 2), kind, round(lasts, 2), random.randrange(1000)))
        at += random.expovariate(1 / GAP)
    return faults


class Nemesis:
    """Plays faults. One that would hit what is down already is left out, and the record says so."""

    def __init__(self, stage: Stage, fleet: Fleet, echo: Echo, record: Record) -> None:
        self.stage = stage
        self.fleet = fleet
        self.echo = echo
        self.record = record
        self._busy: set[str] = set()

    async def run(self, faults: Sequence[Fault]) -> None:
        """Plays all faults, and returns when each has been healed."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                group.create_task(self._play(fault))

    async def _play(self, fault: Fault) -> None:
        verb, _, place = fault.kind.partition(" ")
        member = self.fleet.members[fault.target % len(self.fleet.members)]
        place = member.name if verb in ("kill", "stop", "freeze") and not place else place or verb
        facts = {"kind": fault.kind, "place": place, "seconds": fault.seconds}
        if place in self._busy:
            return self.record.write(fault="left out", **facts)
        self._busy.add(place)
        self.record.write(fault="begins", **facts)
        try:
            await self._harm(verb, place, member, fault.seconds)
        finally:
            self._busy.remove(place)
            self.record.write(fault="ended", **facts)

    async def _harm(self, verb: str, place: str, member: Member, seconds: float) -> None:
        if place == "terminate":
            await self._terminate()
        elif place == "purge":
            await self.echo.purge()
        elif place == "garbage":
            await self.echo.garbage()
        elif (verb, place) == ("kill", "store"):
            await _for_a_while(self.stage.kill_store, self.stage.start_store, seconds)
        elif place in self.stage.lines:
            line = self.stage.lines[place]
            harm = {"cut": line.cut, "mute": line.mute, "stall": line.stall}[verb]
            await _for_a_while(harm, line.mend, seconds)
        elif verb == "freeze":
            await _for_a_while(member.freeze, member.thaw, seconds)
        else:
            await _for_a_while(member.kill if verb == "kill" else member.stop, member.start_again, seconds)

    async def _terminate(self) -> None:
        """Ends every connection of the gateway at the database's side, wherever its transaction stands."""
        async with connected(self.stage.database_url) as connection:
            await connection.execute(text(TERMINATE))


async def _for_a_while(harm: Callable[[], None], heal: Callable[[], None], seconds: float) -> None:
    await asyncio.to_thread(harm)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(heal)
