"""The stage as a fixture: services that are missing skip a test here, and fail it where CI is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drill.stage import Stage
from tests.services import Missing


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Everything that a drill stands on."""
    try:
        made = Stage(tmp_path).__enter__()
    except Missing as error:
        if os.environ.get("CI"):
            pytest.fail(f"missing: {error}")
        pytest.skip(f"missing: {error}")
    yield made
    made.__exit__(None, None, None)
