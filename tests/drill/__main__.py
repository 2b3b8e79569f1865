"""`python -m tests.drill`: drills, one after the other, until one of them finds something."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import click

from tests.drill.checker import show
from tests.drill.drill import Size, drill
from tests.drill.stage import Stage


@click.command()
@click.option("--seed", type=int, help="Of the first round; each further one has the next. By chance when not given.")
@click.option("--seconds", default=60.0, show_default=True, help="How long clients and faults go on in each round.")
@click.option("--rounds", default=1, show_default=True, help="How many drills.")
@click.option("--rate", default=6.0, show_default=True, help="Operations a second.")
@click.option("--webs", default=2, show_default=True, help="Web processes.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the records and logs of every round.")
def main(
    seed: int | None, seconds: float, rounds: int, rate: float, webs: int, workers: int, keep: Path | None
) -> None:
    """Runs Heliograph under load while everything around it fails, and says what became of each request."""
    first = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    size = Size(seconds, rate, webs, workers)
    for number in range(first, first + rounds):
        click.echo(f"seed {number}: {seconds:.0f} s, {rate:g} operations a second, {webs} web, {workers} workers")
        with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
            folder = keep / str(number) if keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            with Stage(folder) as stage:
                history, findings = drill(stage, number, size)
            if not show(history, findings):
                click.echo(
                    f"\nto repeat it: python -m tests.drill --seed {number} --seconds {seconds:g} --rate {rate:g}"
                )
                sys.exit(1)


if __name__ == "__main__":
    main()
