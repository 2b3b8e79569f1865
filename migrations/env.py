"""How Alembic reaches the database: with the same async drivers as the gateway."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gateway.core import webhook_tables  # noqa: F401 - its tables are part of the schema
from gateway.core.tables import METADATA

# Several processes may start at once and migrate: one does it, the others wait and find it done.
LOCK = 4_713_296_017


def migrate(connection: Connection) -> None:
    """Runs what is asked for on an open connection."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    """Opens a connection for one run and closes it."""
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(connect())
