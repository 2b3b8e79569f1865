"""The history of a run: the five records, read as they are. Nothing of the gateway's own code is asked."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tests.drill.record import lines
from tests.drill.sink import SINK

Row = dict[str, Any]
TABLES = {
    "tasks": "id", "attempts": "task_id, number", "assets": "task_id, position", "events": "task_id, sequence",
    "claims": "key_id, text", "accounts": "id", "entries": "account_id, sequence", "deliveries": "id",
    "delivery_attempts": "delivery_id, number",
}  # fmt: skip
DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
JSON_COLUMNS = ("generation", "outputs", "data", "thresholds", "pictures")
CLIENT, VENDOR = "clients.jsonl", "ledger.jsonl"
FINAL = ("completed", "failed", "cancelled")


@dataclass
class History:
    """What clients, vendor and sink noted, the rows, and the objects by their keys: (size, sha256).

    Times are Unix seconds, amounts micro-USD.
    """

    client: list[Row]
    vendor: list[Row]
    tables: dict[str, list[Row]]
    objects: dict[str, tuple[int, str]]
    sink: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> History:
        """One whose records are in the folder, all five."""
        tables, objects = (json.loads((folder / f"{name}.json").read_text()) for name in ("tables", "objects"))
        return cls(
            lines(folder / CLIENT), lines(folder / VENDOR), tables,
            {key: (size, sha256) for key, (size, sha256) in objects.items()}, lines(folder / SINK),
        )  # fmt: skip

    @cached_property
    def tasks(self) -> dict[str, Row]:
        """The tasks by their ids."""
        return {row["id"]: row for row in self.tables["tasks"]}

    @cached_property
    def tasks_of_prompt(self) -> dict[str, list[Row]]:
        """The tasks by what was asked for: the id of the operation that wanted them."""
        return _grouped(self.tables["tasks"], lambda row: row["generation"]["prompt"])

    @cached_property
    def attempts(self) -> dict[str, list[Row]]:
        """The attempts of each task, in order."""
        return _grouped(self.tables["attempts"], lambda row: row["task_id"])

    @cached_property
    def assets(self) -> dict[str, list[Row]]:
        """The assets of each task, in order."""
        return _grouped(self.tables["assets"], lambda row: row["task_id"])

    @cached_property
    def events(self) -> dict[str, list[Row]]:
        """The events of each task, in order."""
        return _grouped(self.tables["events"], lambda row: row["task_id"])

    @cached_property
    def accounts(self) -> dict[str, Row]:
        """The accounts by their ids."""
        return {row["id"]: row for row in self.tables["accounts"]}

    @cached_property
    def entries(self) -> dict[str, list[Row]]:
        """The entries of each account, in order."""
        return _grouped(self.tables["entries"], lambda row: row["account_id"])

    @cached_property
    def entries_of_task(self) -> dict[str, list[Row]]:
        """The entries of each task, of all accounts."""
        return _grouped(self.tables["entries"], lambda row: row["task_id"])

    @cached_property
    def operations(self) -> dict[str, list[Row]]:
        """What clients noted of each operation, in order."""
        return _grouped((line for line in self.client if "op" in line), lambda line: line["op"])

    @cached_property
    def keys(self) -> dict[str, str]:
        """The id of each key by the name that the clients have for it."""
        return {line["name"]: line["id"] for line in self.client if line["does"] == "key"}

    @cached_property
    def hooks(self) -> list[Row]:
        """What was made to hear: each key's endpoint (with its `words`), and the secret of its single tasks."""
        return [line for line in self.client if line["does"] == "hook"]

    @cached_property
    def arrivals(self) -> dict[tuple[str, str], list[Row]]:
        """The webhooks that came to a path about a task, in order, each with what it says as `told`."""
        found = [{**line, "told": _told(line["body"])} for line in self.sink]
        return _grouped(found, lambda line: (line["path"], line["told"].get("task_id", "")))

    @cached_property
    def deliveries(self) -> dict[str, list[Row]]:
        """The deliveries of each task, with their `tries`."""
        tries = _grouped(self.tables["delivery_attempts"], lambda row: row["delivery_id"])
        found = [{**row, "tries": tries.get(row["id"], [])} for row in self.tables["deliveries"]]
        return _grouped(found, lambda row: row["task_id"])

    @cached_property
    def orders(self) -> dict[str, list[Row]]:
        """The orders that the vendor accepted for each task, with `ended`: what it noted of their end, or None."""
        ends = {line["job"]: line for line in self.vendor if line["event"] != "accepted"}
        accepted = [{**line, "ended": ends.get(line["job"])} for line in self.vendor if line["event"] == "accepted"]
        return _grouped(accepted, lambda order: order["key"].rpartition("-")[0])


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection]:
    """A transaction in the database, past any proxy."""
    address = make_url(url)
    engine = create_async_engine(address.set(drivername=DRIVERS[address.get_backend_name()]))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def snapshot(url: str) -> dict[str, list[Row]]:
    """All rows as they stand at one moment, by plain SQL."""
    async with connected(url) as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        return {table: await _rows(connection, table, order) for table, order in TABLES.items()}


def survey(url: str, access_key: str = "", secret_key: str = "") -> dict[str, tuple[int, str]]:
    """Size and digest of every object in a bucket (`s3://…` as the gateway has it) or below a folder (`file://…`)."""
    address = urlsplit(url)
    if address.scheme == "file":
        root = Path(address.path)
        return {
            path.relative_to(root).as_posix(): _measured(path.read_bytes())
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
    session = boto3.Session(access_key, secret_key, region_name="us-east-1")
    s3 = session.client(
        "s3", endpoint_url=parse_qs(address.query)["endpoint"][0], config=Config(s3={"addressing_style": "path"})
    )
    bucket = address.netloc
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key: _measured(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys}


def _told(body: str) -> Row:
    """What a webhook says of its task, with its type."""
    whole: Row = json.loads(body)
    return {**whole["data"], "type": whole["type"]}


def _measured(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


async def _rows(connection: AsyncConnection, table: str, order: str) -> list[Row]:
    found = await connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))  # noqa: S608 - names of our own
    return [{name: _value(name, value) for name, value in row.items()} for row in found.mappings()]


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "at" or name.endswith("_at") or name == "held_until":
        time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    if name in JSON_COLUMNS and isinstance(value, str):
        return json.loads(value)
    return str(value) if isinstance(value, dt.date) else value


def _grouped(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    groups: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups
