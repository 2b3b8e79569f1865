"""The checker: holds five records of a run against each other, and counts what must not be.

`python -m tests.drill.checker FOLDER` checks a history that was kept, again.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click

from tests.drill import books, media, operations, stories, webhooks
from tests.drill.history import History
from tests.drill.report import timeline
from tests.drill.rule import Violation

FIGURES = ("attempted", "acknowledged", "ok", "recovered", "unknown")
FAULTS = (
    "lost", "duplicated", "unexpected", "double_paid", "charges_missing", "charges_extra", "assets_missing",
    "assets_extra", "budget_exceeded", "ledger_broken", "webhooks_missing", "webhooks_wrong",
)  # fmt: skip
RULES = (*operations.RULES, *stories.RULES, *media.RULES, *books.RULES, *webhooks.RULES)


@dataclass
class Findings:
    """What a check has found. `figures` are for information; each of `faults` must be 0."""

    figures: dict[str, int]
    faults: dict[str, int]
    ends: dict[str, int]
    leftovers: int
    violations: list[Violation]


def check(history: History) -> Findings:
    """Applies every rule."""
    violations = [violation for rule in RULES for violation in rule(history)]
    faults = Counter(violation.counter for violation in violations)
    ends = Counter(task["error_code"] or task["state"] for task in history.tasks.values())
    return Findings(
        _figures(history, {violation.subject for violation in violations}),
        {name: faults[name] for name in FAULTS}, dict(ends.most_common()), media.leftovers(history), violations,
    )  # fmt: skip


def _figures(history: History, suspects: set[str]) -> dict[str, int]:
    figures = dict.fromkeys(FIGURES, 0)
    figures["refused"] = 0
    for operation, lines in history.operations.items():
        figures["attempted"] += 1
        tasks = {task["id"] for task in history.tasks_of_prompt.get(operation, [])}
        if any(operations.acknowledged(line) for line in lines):
            figures["acknowledged"] += 1
            figures["ok"] += bool(tasks) and not suspects & {operation, *tasks}
        elif tasks:
            figures["recovered"] += 1
        else:
            figures["refused" if operations.refused(lines) else "unknown"] += 1
    return figures


def show(history: History, findings: Findings, most: int = 20) -> bool:
    """Prints what was found, with the timeline of each task that something is wrong with; whether all is well."""
    for names in (findings.figures, findings.faults):
        click.echo("  ".join(f"{name} {count}" for name, count in names.items()))
    click.echo("tasks: " + ", ".join(f"{count} {end}" for end, count in findings.ends.items()))
    click.echo(f"objects left by tasks that did not complete: {findings.leftovers}")
    told = sum(line["status"] in webhooks.TAKEN for line in history.sink)
    click.echo(f"webhooks: {told} taken of {len(history.sink)} that came")
    for violation in findings.violations[:most]:
        click.echo(f"\n{violation.counter}: {violation.subject}: {violation.what}")
        for line in timeline(history, violation.subject):
            click.echo(f"    {line}")
    if len(findings.violations) > most:
        click.echo(f"\n… and {len(findings.violations) - most} more")
    return not findings.violations


if __name__ == "__main__":
    kept = History.load(Path(sys.argv[1]))
    sys.exit(0 if show(kept, check(kept)) else 1)
