"""`python -m tests.simulation`: one seed with its whole history, or many with what was seen in them."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.run import many, one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="live through this seed, and print its history")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--processes", type=int, default=1, help="processes of this machine to spread them over")
    given = parser.parse_args()
    if given.seed is not None:
        world = one(given.seed)
        print(*world.history, sep="\n")  # noqa: T201 - that is what it is for
        return 1 if world.violations else 0
    seen = many(range(given.first, given.first + given.seeds), given.processes)
    print(seen)  # noqa: T201 - as above
    return 1 if seen.broken else 0


if __name__ == "__main__":
    sys.exit(main())
