"""The deployments as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.deployments import Deployment, Distributed, Embedded, Vendor

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

SECRET = "acceptance-tests-use-this-secret-and-nobody-else-does"


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    """One scripted vendor for all tests: each recognises its orders by their prompts."""
    vendor = Vendor(tmp_path_factory.mktemp("vendor"))
    yield vendor
    vendor.process.kill()


@pytest.fixture(scope="session")
def services(new_database: Callable[[], str], broker: str, seaweed: Seaweed) -> Callable[[], dict[str, str]]:
    """Makes the settings of a distributed deployment: a database of its own, the run's vhost and bucket."""

    def make() -> dict[str, str]:
        return {
            "HELIOGRAPH_DATABASE_URL": new_database(),
            "HELIOGRAPH_BROKER_URL": broker,
            "HELIOGRAPH_STORAGE_URL": seaweed.url,
            "HELIOGRAPH_S3_ACCESS_KEY": seaweed.access_key,
            "HELIOGRAPH_S3_SECRET_KEY": seaweed.secret_key,
            "HELIOGRAPH_SECRET": SECRET,
        }

    return make


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    """Further settings of the deployment, for modules that have some."""
    return {}


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def deployment(
    request: pytest.FixtureRequest, vendor: Vendor, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A running deployment, shared by the tests of a module: once of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    made: Deployment
    if request.param == "embedded":
        made = Embedded(folder, vendor, environ)
    else:
        made = Distributed(folder, vendor, request.getfixturevalue("services")() | environ)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def key(deployment: Deployment) -> str:
    """A virtual key of the deployment."""
    return deployment.new_key()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a deployment that a test starts for itself."""
    return tmp_path
