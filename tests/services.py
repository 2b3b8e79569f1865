"""Real services for tests: a database and a vhost that are made for one run, and removed at its end."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from storage.database import Database, DatabaseUnavailable

POSTGRES = "postgresql://postgres@127.0.0.1:5432"
"""The server that is used unless HELIOGRAPH_TEST_POSTGRES names another; its role must be allowed to make databases."""

SECONDS = 60


class Missing(Exception):
    """A service that a test needs cannot be had here; the message says which, and what would help."""


@contextmanager
def database() -> Iterator[str]:
    """A new, empty PostgreSQL database, as a `postgresql://` URL; dropped at the end, in use or not."""
    server = urlsplit(os.environ.get("HELIOGRAPH_TEST_POSTGRES") or POSTGRES)
    name = f"heliograph_{uuid4().hex[:12]}"
    maintenance = server._replace(path=server.path.rstrip("/") or "/postgres").geturl()
    try:
        _execute(maintenance, f"CREATE DATABASE {name}")
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        raise Missing(
            f"PostgreSQL (scripts/services up, or HELIOGRAPH_TEST_POSTGRES): {error.__cause__ or error}"
        ) from error
    try:
        yield server._replace(path=f"/{name}").geturl()
    finally:
        _execute(maintenance, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def vhost() -> Iterator[str]:
    """A new RabbitMQ vhost on this machine, as an `amqp://` URL; deleted at the end with all that it holds.

    HELIOGRAPH_TEST_BROKER names an empty vhost to use in its place: only the administrator of a broker can make one.
    """
    if given := os.environ.get("HELIOGRAPH_TEST_BROKER"):
        yield given
        return
    name = f"heliograph-{uuid4().hex[:12]}"
    try:
        _rabbitmqctl("add_vhost", name)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"RabbitMQ (scripts/services up as root, or HELIOGRAPH_TEST_BROKER): {error}") from error
    try:
        _rabbitmqctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        yield f"amqp://guest:guest@127.0.0.1:5672/{name}"
    finally:
        _rabbitmqctl("delete_vhost", name)


def _execute(url: str, statement: str) -> None:
    """Runs one statement in a thread of its own, so that it does not matter whether an event loop runs here."""

    async def execute() -> None:
        server = Database(url)
        try:
            async with server.write_one() as connection:
                await connection.execute(text(statement))
        finally:
            await server.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, execute()).result(SECONDS)


def _rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "--quiet", *arguments], check=True, capture_output=True, timeout=SECONDS)
