"""One gateway for all tests of HTTP, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.http.server import ADMIN_KEY, CONFIG, ENVIRON, Heliograph, serving


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """The gateway, gone before the tests of other packages: bodies and heads have one second."""
    with serving(tmp_path_factory.mktemp("heliograph"), CONFIG, ENVIRON) as heliograph:
        yield heliograph


@pytest.fixture
def heliograph(running: Heliograph) -> Iterator[Heliograph]:
    """The gateway; whatever a test sends, nothing may be logged as an error of ours."""
    yield running
    faults = [record.getMessage() for record in running.faults]
    running.faults.clear()
    assert faults == []


@pytest.fixture
def client(heliograph: Heliograph) -> Iterator[httpx.Client]:
    """A client with a key."""
    with heliograph.client() as client:
        yield client


@pytest.fixture
def admin(heliograph: Heliograph) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with heliograph.client(ADMIN_KEY) as client:
        yield client


@pytest.fixture
def task(client: httpx.Client) -> str:
    """The id of a task that never ends."""
    reply = client.post("/v1/images/generations/async", json={"model": "patient-image", "prompt": "a fox"})
    assert reply.status_code == 202
    return str(reply.json()["id"])
