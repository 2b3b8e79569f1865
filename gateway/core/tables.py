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


# A task that has no slot yet.
LINE = "state = 'queued' AND due_at IS NULL"
# A task that has ended, and of which more than its bill is left.
KEPT = "ended_at IS NOT NULL AND erased_at IS NULL"
# An asset that nobody finds any more, whose bytes may still be there.
DOOMED = "deleted_at IS NOT NULL AND erased_at IS NULL"


def json_column(*, nullable: bool = False) -> Any:
    """A column of JSON, as each database has it."""
    return Column(JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"), nullable=nullable)


def big_column(*, nullable: bool = True) -> Any:
    """A column of whole numbers of 64 bits."""
    return Column(BigInteger, nullable=nullable)


class Row(SQLModel):
    """The base of all tables: one metadata with predictable constraint names."""

    metadata = METADATA


class VirtualKey(Row, table=True):
    """A key that we issued. The text is not here: only its digest, and its last characters to recognise it by.

    `retention_days` is how long what it makes is kept: 0 for ever, null as the setting says.
    """

    __tablename__ = "virtual_keys"

    id: str = Field(primary_key=True)
    digest: str = Field(unique=True)
    hint: str
    name: str
    owner: str | None = None
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None
    retention_days: int | None = None


class Account(Row, table=True):
    """What a virtual key, or an owner whose keys share it, may spend and do, and what of that is used.

    `budget` (null: no end) counts from `window_at`, the beginning of its period. `spent` and `reserved` always
    together make what `budget` is compared with. `sequence` numbers the account's entries. `minute_used` counts the
    requests of the minute that began at `minute_at`, and so on. Of a key's tasks `running` have a slot and `waiting`
    have none yet; `served_at` is when one of them last got one. Amounts are micro-USD.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        Index("ix_accounts_served_at", "served_at", sqlite_where=text("waiting > 0"),
              postgresql_where=text("waiting > 0")),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key_id: str | None = Field(default=None, foreign_key="virtual_keys.id")
    budget: int | None = Field(default=None, sa_column=big_column())
    period: str = "total"
    thresholds: list[int] = Field(default_factory=list, sa_column=json_column())
    window_at: dt.datetime
    spent: int = Field(default=0, sa_column=big_column(nullable=False))
    reserved: int = Field(default=0, sa_column=big_column(nullable=False))
    sequence: int = 0
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    minute_at: dt.datetime
    minute_used: int = 0
    hour_at: dt.datetime
    hour_used: int = 0
    day_at: dt.datetime
    day_used: int = 0
    concurrent: int | None = None
    waiting: int = 0
    running: int = 0
    served_at: dt.datetime


class Entry(Row, table=True):
    """One movement of money on an account, never changed: the database itself refuses to.

    `spent` and `reserved` are the account's balances after it. Amounts are positive micro-USD.
    """

    __tablename__ = "entries"
    __table_args__ = (Index("ix_entries_task_id", "task_id", "account_id", "kind", unique=True),)

    account_id: str = Field(primary_key=True, foreign_key="accounts.id")
    sequence: int = Field(primary_key=True)
    task_id: str
    kind: str
    amount: int = Field(sa_column=big_column(nullable=False))
    spent: int = Field(sa_column=big_column(nullable=False))
    reserved: int = Field(sa_column=big_column(nullable=False))
    window_at: dt.datetime
    at: dt.datetime


class Task(Row, table=True):
    """The durable life of one Generation. `version`, `due_at` and `rings` are its turn; the rest is its story.

    `takes` counts turns taken since the last step that came to an end; `sequence` numbers its events. A wish to
    cancel is `cancel_asked_at`, not a state. `retry_of` is the failed task that this one repeats.
    `inputs` says where the pictures are that came with it, never what they show.
    `fallbacks` are the generations for the models that are tried after the first, with what is adjusted for each.
    A queued task whose `due_at` is null has no slot yet: it waits among the others of its key, by `rank`.
    `held` is what is reserved for it now; `held_until` ends that for an order of which nobody knows the outcome.
    `enhancement` says how its prompt is enhanced, null if it is not, and what came of that before anything was sent.
    `stopped` says what a cancel or a deadline could stop. `deleted_at` hides it where videos are listed, whose owner
    deleted them. Since `erased_at` it is nothing but a bill: what was asked for, with the pictures that came with it,
    is gone. Amounts are micro-USD.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        Index("ix_tasks_due_at", "due_at", sqlite_where=text("due_at IS NOT NULL"),
              postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_tasks_key_id_id", "key_id", "id"),
        Index("ix_tasks_key_id_rank", "key_id", "rank", sqlite_where=text(LINE), postgresql_where=text(LINE)),
        Index("ix_tasks_deadline_at", "deadline_at", sqlite_where=text(LINE), postgresql_where=text(LINE)),
        Index("ix_tasks_held_until", "held_until", sqlite_where=text("held_until IS NOT NULL"),
              postgresql_where=text("held_until IS NOT NULL")),
        Index("ix_tasks_ended_at", "ended_at", sqlite_where=text(KEPT), postgresql_where=text(KEPT)),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="virtual_keys.id")
    owner: str | None = None
    kind: str
    operation: str
    model: str
    generation: dict[str, Any] = Field(sa_column=json_column())
    adjusted: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    fallbacks: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    labels: dict[str, str] = Field(default_factory=dict, sa_column=json_column())
    inputs: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    enhancement: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    state: str
    progress: int = 0
    version: int = 0
    due_at: dt.datetime | None = None
    rings: int = 0
    takes: int = 0
    sequence: int = 0
    rank: int = Field(default=0, sa_column=big_column(nullable=False))
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    deadline_at: dt.datetime
    cancel_asked_at: dt.datetime | None = None
    provider: str | None = None
    quoted: int | None = Field(default=None, sa_column=big_column())
    held: int = Field(default=0, sa_column=big_column(nullable=False))
    held_until: dt.datetime | None = None
    charged: int | None = Field(default=None, sa_column=big_column())
    stopped: str | None = None
    usage: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    error_code: str | None = None
    error_message: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    error_param: str | None = None
    retry_of: str | None = None
    deleted_at: dt.datetime | None = None
    erased_at: dt.datetime | None = None
    webhook_url: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


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
    `choice` says which of the models that were asked for it serves: 0 is the first, the others are its fallbacks.
    `quoted` (micro-USD) is its price there, by the card as of `priced_on`.
    """

    __tablename__ = "attempts"

    task_id: str = Field(primary_key=True, foreign_key="tasks.id")
    number: int = Field(primary_key=True)
    provider: str
    credential: str = "default"
    model: str
    choice: int = 0
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    job: str | None = None
    outcome: str | None = None
    error_code: str | None = None
    error_message: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    outputs: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    cost: int | None = Field(default=None, sa_column=big_column())
    quoted: int | None = Field(default=None, sa_column=big_column())
    priced_on: dt.date | None = None


class RouteHealth(Row, table=True):
    """Trouble with a route. There is no row for a route that is well.

    `model` is "*" where the credential itself is rejected. `failures` counts orders in a row that failed, `reason` is
    the class of the last error, at `seen_at`. Until `until` the route is left alone; after that one order tries it,
    since `tried_at`, and the others wait for it until `until`.
    """

    __tablename__ = "route_health"

    provider: str = Field(primary_key=True)
    credential: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    failures: int
    reason: str
    since: dt.datetime
    seen_at: dt.datetime
    until: dt.datetime | None = None
    tried_at: dt.datetime | None = None


class Asset(Row, table=True):
    """Bytes that we keep, checked: where they are and what was measured of them. `deleted_at` hides it for good.

    `pictures` are the small ones made of it, by name: each has a media type, a size and a digest, and lies beside it.
    Since `erased_at` the bytes are surely gone from the store.
    """

    __tablename__ = "assets"
    __table_args__ = (
        Index("ix_assets_task_id_position", "task_id", "position", unique=True),
        Index("ix_assets_key_id_id", "key_id", "id"),
        Index("ix_assets_deleted_at", "deleted_at", sqlite_where=text(DOOMED), postgresql_where=text(DOOMED)),
    )

    id: str = Field(primary_key=True)
    task_id: str = Field(foreign_key="tasks.id")
    key_id: str = Field(foreign_key="virtual_keys.id")
    position: int
    kind: str
    object_key: str
    media_type: str
    size: int = Field(sa_column=big_column(nullable=False))
    sha256: str
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    fps: float | None = None
    blurhash: str | None = None
    pictures: dict[str, dict[str, Any]] = Field(default_factory=dict, sa_column=json_column())
    revised_prompt: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    created_at: dt.datetime
    deleted_at: dt.datetime | None = None
    erased_at: dt.datetime | None = None


class Cleanup(Row, table=True):
    """The one row by which processes agree who cleans up, and when next: `version`, `due_at` and `rings` are its turn.

    `schedule` is the one that `due_at` was computed from; `started_at` is null while nobody is at it. `report` says
    what the last run did. `mark` is what this installation puts into its store, to tell it from another's.
    """

    __tablename__ = "cleanups"

    id: str = Field(primary_key=True)
    mark: str
    schedule: str
    version: int = 0
    due_at: dt.datetime | None = None
    rings: int = 0
    takes: int = 0
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    report: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))


class Event(Row, table=True):
    """A recorded fact about a Task, numbered within it from 1, never changed."""

    __tablename__ = "events"

    task_id: str = Field(primary_key=True, foreign_key="tasks.id")
    sequence: int = Field(primary_key=True)
    type: str
    at: dt.datetime
    data: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())


VIRTUAL_KEYS = VirtualKey.__table__  # type: ignore[attr-defined]  # SQLModel makes the attribute when the class is built
ACCOUNTS = Account.__table__  # type: ignore[attr-defined]  # as above
ENTRIES = Entry.__table__  # type: ignore[attr-defined]  # as above
TASKS = Task.__table__  # type: ignore[attr-defined]  # as above
CLAIMS = Claim.__table__  # type: ignore[attr-defined]  # as above
ATTEMPTS = Attempt.__table__  # type: ignore[attr-defined]  # as above
ROUTE_HEALTH = RouteHealth.__table__  # type: ignore[attr-defined]  # as above
ASSETS = Asset.__table__  # type: ignore[attr-defined]  # as above
CLEANUPS = Cleanup.__table__  # type: ignore[attr-defined]  # as above
EVENTS = Event.__table__  # type: ignore[attr-defined]  # as above
