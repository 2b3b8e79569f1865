"""Fixtures for all tests: the real services. One that is missing skips a test here, and fails it where CI is set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.browser import Browser, chromium
from tests.node import Node, installed
from tests.seaweed import Seaweed
from tests.services import Missing, database, vhost

T = TypeVar("T")


@pytest.fixture(scope="session")
def stack() -> Iterator[ExitStack]:
    """What is open for the whole run, and closed at its end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def new_database(stack: ExitStack) -> Callable[[], str]:
    """Makes a new, empty PostgreSQL database at each call, and returns its `postgresql://` URL."""
    return lambda: _open(stack, database())


@pytest.fixture(scope="session")
def postgres_url(new_database: Callable[[], str]) -> str:
    """A PostgreSQL database for this run, as a `postgresql://` URL."""
    return new_database()


@pytest.fixture(scope="session")
def broker(stack: ExitStack) -> str:
    """A RabbitMQ vhost for this run, as an `amqp://` URL."""
    return _open(stack, vhost())


@pytest.fixture(scope="session")
def seaweed(stack: ExitStack) -> Seaweed:
    """An S3 server for this run, with a bucket."""
    return _open(stack, Seaweed())


@pytest.fixture(scope="session")
def node(stack: ExitStack) -> Node:
    """Node.js with the official SDK."""
    return _open(stack, installed(Path(__file__).parent / "acceptance/node"))


@pytest.fixture(scope="session")
def browser(stack: ExitStack) -> Browser:
    """A browser for this run."""
    return _open(stack, chromium())


def _open(stack: ExitStack, service: AbstractContextManager[T]) -> T:
    try:
        return stack.enter_context(service)
    except Missing as error:
        if os.environ.get("CI"):
            pytest.fail(f"missing: {error}")
        pytest.skip(f"missing: {error}")
