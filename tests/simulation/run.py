"""Many seeds, one after the other or in several processes, and what was seen in all of them."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.simulation.world import Violated, World


@dataclass
class Seen:
    """What a number of seeds came to."""

    seeds: int = 0
    tasks: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Counts the other's seeds as well."""
        self.seeds += other.seeds
        self.tasks += other.tasks
        self.faults += other.faults
        self.crashes += other.crashes
        self.states += other.states
        self.broken += other.broken

    def __str__(self) -> str:
        """A short report."""
        speed = self.seeds / self.seconds * 60 if self.seconds else 0
        lines = [f"{self.seeds} seeds, {speed:.0f} a minute, {self.tasks} tasks, {len(self.broken)} violations"]
        for name in ("states", "faults", "crashes"):
            counted = ", ".join(f"{kind} {count}" for kind, count in sorted(getattr(self, name).items()))
            lines.append(f"{name}: {counted}")
        return "\n".join(lines + self.broken)


def one(seed: int) -> World:
    """The world of a seed, lived through; what is broken in it stands in its `violations`."""
    world = World(seed)
    with suppress(Violated):
        world.run()
    return world


def several(seeds: Iterable[int]) -> Seen:
    """Lives through the worlds of these seeds."""
    seen = Seen()
    for seed in seeds:
        world = one(seed)
        seen.seeds += 1
        seen.tasks += len(world.watch.rows)
        seen.faults += world.weather.counts
        seen.crashes += world.crashes
        seen.states += world.watch.states
        seen.broken += [f"seed {seed}: {promise}" for promise in world.violations[:1]]
    return seen


def many(seeds: range, processes: int = 1) -> Seen:
    """As `several`, spread over processes of this machine."""
    begun = time.monotonic()
    total = Seen()
    if processes == 1:
        total.add(several(seeds))
    else:
        parts = [seeds[start : start + 50] for start in range(0, len(seeds), 50)]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for part in pool.imap_unordered(several, parts):
                total.add(part)
    total.broken.sort(key=lambda line: int(line.split(":")[0].split()[1]))
    total.seconds = time.monotonic() - begun
    return total
