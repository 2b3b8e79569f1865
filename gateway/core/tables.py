"""The rows. Schema and migrations come from these classes; the hot statements use their tables directly."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


def _json(*, nullable: bool = False) -> Any:
    return Column(JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"), nullable=nullable)


def _big(*, nullable: bool = True) -> Any:
    return Column(BigInteger, nullable=nullable)


class Row(SQLModel):
    """The base of all tables: one metadata with predictable constraint names."""

    metadata = METADATA


class VirtualKey(Row, table=True):
    """A key that we issued. The text is not here: only its digest, and its last characters to recognise it by."""

    __tablename__ = "virtual_keys"

    id: str = Field(primary_key=True)
    digest: str = Field(unique=True)
    hint: str
    name: str
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None


class Task(Row, table=True):
    """The durable life of one Generation. `version`, `due_at` and `rings` are its turn; the rest is its story.

    `takes` counts turns taken since the last step that came to an end; `sequence` numbers its events. A wish to
    cancel is `cancel_asked_at`, not a state. `retry_of` is the failed task that this one repeats.
    Amounts are micro-USD.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        Index("ix_tasks_due_at", "due_at", sqlite_where=text("due_at IS NOT NULL"),
              postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_tasks_key_id_id", "key_id", "id"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="virtual_keys.id")
    kind: str
    operation: str
    model: str
    generation: dict[str, Any] = Field(sa_column=_json())
    adjusted: dict[str, Any] = Field(default_factory=dict, sa_column=_json())
    labels: dict[str, str] = Field(default_factory=dict, sa_column=_json())
    state: str
    progress: int = 0
    version: int = 0
    due_at: dt.datetime | None = None
    rings: int = 1
    takes: int = 0
    sequence: int = 0
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    deadline_at: dt.datetime
    cancel_asked_at: dt.datetime | None = None
    provider: str | None = None
    quoted: int | None = Field(default=None, sa_column=_big())
    charged: int | None = Field(default=None, sa_column=_big())
    usage: dict[str, Any] | None = Field(default=None, sa_column=_json(nullable=True))
    error_code: str | None = None
    error_message: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    error_param: str | None = None
    retry_of: str | None = None


class Claim(Row, table=True):
    """An Idempotency-Key that a caller has used, and the task that it stands for. Kept for a day."""

    __tablename__ = "claims"
    __table_args__ = (Index("ix_claims_created_at", "created_at"),)

    key_id: str = Field(primary_key=True, foreign_key="virtual_keys.id")
    text: str = Field(primary_key=True)
    fingerprint: str
    task_id: str = Field(foreign_key="tasks.id")
    created_at: dt.datetime


class Attempt(Row, table=True):
    """One try of a Task on one Route: written before the call, completed after it.

    `job` is the vendor's id. `outcome` is null while it is open, then `done` or an error class. `outputs` says
    what the vendor returned and how far each of it has come into our store: keys and facts, never bytes.
    """

    __tablename__ = "attempts"

    task_id: str = Field(primary_key=True, foreign_key="tasks.id")
    number: int = Field(primary_key=True)
    provider: str
    model: str
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    job: str | None = None
    outcome: str | None = None
    error_code: str | None = None
    error_message: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    outputs: list[dict[str, Any]] = Field(default_factory=list, sa_column=_json())
    cost: int | None = Field(default=None, sa_column=_big())


class Asset(Row, table=True):
    """Bytes that we keep, checked: where they are and what was measured of them. `deleted_at` hides it for good."""

    __tablename__ = "assets"
    __table_args__ = (
        Index("ix_assets_task_id_position", "task_id", "position", unique=True),
        Index("ix_assets_key_id_id", "key_id", "id"),
    )

    id: str = Field(primary_key=True)
    task_id: str = Field(foreign_key="tasks.id")
    key_id: str = Field(foreign_key="virtual_keys.id")
    position: int
    kind: str
    object_key: str
    media_type: str
    size: int = Field(sa_column=_big(nullable=False))
    sha256: str
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    revised_prompt: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    created_at: dt.datetime
    deleted_at: dt.datetime | None = None


class Event(Row, table=True):
    """A recorded fact about a Task, numbered within it from 1, never changed."""

    __tablename__ = "events"

    task_id: str = Field(primary_key=True, foreign_key="tasks.id")
    sequence: int = Field(primary_key=True)
    type: str
    at: dt.datetime
    data: dict[str, Any] = Field(default_factory=dict, sa_column=_json())


VIRTUAL_KEYS = VirtualKey.__table__  # type: ignore[attr-defined]  # SQLModel makes the attribute when the class is built
TASKS = Task.__table__  # type: ignore[attr-defined]  # as above
CLAIMS = Claim.__table__  # type: ignore[attr-defined]  # as above
ATTEMPTS = Attempt.__table__  # type: ignore[attr-defined]  # as above
ASSETS = Asset.__table__  # type: ignore[attr-defined]  # as above
EVENTS = Event.__table__  # type: ignore[attr-defined]  # as above
