"""The schema's history, and the way to its newest state."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from storage.database import DatabaseUnavailable, async_url

HERE = Path(__file__).parent


def config(url: str | URL) -> Config:
    """Alembic's configuration for a database, made in code so that an installed package can migrate as well."""
    made = Config()
    made.set_main_option("script_location", str(HERE))
    made.attributes["url"] = async_url(url) if isinstance(url, str) else url
    return made


async def upgrade(url: str) -> None:
    """Brings the database to the newest schema; does nothing where it stands there already.

    Raises DatabaseUnavailable when it cannot be reached, or its file not be made.
    """
    try:
        if file := _file(url):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(command.upgrade, config(url), "head")
    except OSError as error:
        raise DatabaseUnavailable(type(error).__name__) from error


def absent(url: str) -> bool:
    """Whether it is a database in a file that was never made; of another one only itself could tell."""
    file = _file(url)
    return file is not None and not file.exists()


async def behind(url: str) -> bool:
    """Whether the database has an older schema than this package knows."""
    engine = create_async_engine(async_url(url), poolclass=NullPool)
    newest = ScriptDirectory.from_config(config(url)).get_current_head()
    try:
        async with engine.connect() as connection:
            current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    finally:
        await engine.dispose()
    return current != newest


def _file(url: str) -> Path | None:
    return Path(async_url(url).database or "") if url.startswith("sqlite") else None
