"""The house itself: what the rules of the architecture say, checked on the code as it stands."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Float

from gateway.core import webhook_tables  # noqa: F401 - its tables are part of the schema
from gateway.core.lifecycle import EDGES, FINAL, State
from gateway.core.settings import HINTS, NAMES
from gateway.core.tables import METADATA
from providers.registry import Registry

ROOT = Path(__file__).parent.parent
ROOMS = ("gateway", "workers", "providers", "storage", "migrations")
LONGEST_FUNCTION, LONGEST_FILE = 60, 400


def sources(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """Every Python file of the rooms, by its path, parsed."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_the_import_contract_holds() -> None:
    """import-linter finds no broken contract."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_only_the_settings_know_the_environment() -> None:
    """`os.environ` is read by the command line, which hands it to the settings, and by nobody else."""
    readers = {
        path
        for path, tree in sources(*ROOMS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os"
    }
    assert readers == {"gateway/__main__.py"}


def test_no_vendor_is_named_outside_its_own_file() -> None:
    """No code of the core, the workers, the store or the providers' frame holds a vendor's name as a value."""
    registry = Registry.load()
    vendors = {*registry.cards, *registry.absent}
    named = {
        (path, node.value)
        for path, tree in sources("gateway/core", "gateway/web", "workers", "storage", "providers")
        if not path.startswith("providers/vendors/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in vendors
    }
    assert named == set()


def test_every_vendor_is_an_adapter_and_a_card_and_nothing_else() -> None:
    """providers/vendors holds pairs of `x.py` and `x.toml`."""
    files = [path for path in (ROOT / "providers/vendors").iterdir() if path.is_file() and path.stem != "__init__"]
    cards = {path.stem for path in files if path.suffix == ".toml"}
    registry = Registry.load()
    assert cards == {path.stem for path in files if path.suffix == ".py"} == {*registry.cards, *registry.absent}


def test_every_setting_is_documented() -> None:
    """Each field of the settings has a description, from which docs/settings.md is made."""
    silent = [
        name
        for name in NAMES
        if not any(
            isinstance(meta, msgspec.Meta) and meta.description for meta in getattr(HINTS[name], "__metadata__", ())
        )
    ]
    assert silent == []


def test_functions_and_files_are_short() -> None:
    """No function and no file has grown beyond what can be read at a glance."""
    long_functions, long_files = [], []
    for path, tree in sources(*ROOMS):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not path.startswith("migrations/versions"):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long_functions.append((path, node.name, length))
        if len((ROOT / path).read_text(encoding="utf-8").splitlines()) > LONGEST_FILE:
            long_files.append(path)
    assert (long_functions, long_files) == ([], [])


def test_no_float_is_made_where_money_is_counted() -> None:
    """No module that counts money calls `float`, and no table has a column of that type but for measures of media."""
    calls = {
        node.func.id
        for folder, name in (("gateway/core", "pricing.py"), ("providers", "card.py"))
        for path, tree in sources(folder)
        if path.endswith(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "float" not in calls
    floats = {
        f"{table.name}.{column.name}"
        for table in METADATA.tables.values()
        for column in table.columns
        if isinstance(column.type, Float)
    }
    assert floats == {"assets.seconds", "assets.fps"}


@pytest.mark.parametrize("state", list(State))
def test_every_state_leads_to_an_end(state: State) -> None:
    """From each state some final one can be reached, and a final one leads nowhere."""
    reached = {state}
    while True:
        further = reached | {target for source in reached for target in EDGES[source]}
        if further == reached:
            break
        reached = further
    assert reached & FINAL
    assert (state in FINAL) == (reached == {state})


def test_every_test_says_what_it_proves() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path}::{node.name}"
        for path, tree in sources("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_tests_do_not_sleep_for_effect() -> None:
    """No unit test imports `time.sleep`'s module to wait: waiting belongs to processes, which cannot be told a time."""
    sleepers = {
        path
        for path, tree in sources("tests/core", "tests/contracts", "tests/vendors", "tests/providers")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    }
    assert sleepers == set()
