"""What a drill does follows from its seed."""

from __future__ import annotations

from tests.drill.load import SCRIPTS, accounts, operations
from tests.drill.nemesis import KINDS, schedule
from tests.drill.stories import ENDS


def test_a_seed_gives_the_same_load_and_the_same_faults() -> None:
    """The plans of one seed are equal whenever they are made; those of another differ."""
    assert operations(7, 60, 5) == operations(7, 60, 5) != operations(8, 60, 5)
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)


def test_a_plan_has_everything_in_it() -> None:
    """In a few minutes every kind of fault, of script and of key comes, at a time within the plan."""
    faults, load = schedule(1, 300), operations(1, 300, 5)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {operation.script.partition(":")[0] for operation in load} == set(SCRIPTS)
    assert {operation.key for operation in load} == {account.name for account in accounts()}
    assert all(0 < fault.at < 300 for fault in faults)
    assert len({operation.id for operation in load}) == len(load) == 1500


def test_the_checker_knows_how_every_script_ends() -> None:
    """No script is in the load whose end nobody would judge."""
    assert set(SCRIPTS) == set(ENDS)
