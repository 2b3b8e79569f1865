"""The rows of webhooks, in the same schema as all others."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field

from gateway.core.tables import Row, json_column


class Endpoint(Row, table=True):
    """A webhook target: a key's own, or that of the single task `task_id`, with the events that it wants.

    `headers` are the owner's, encrypted. `base` is the address that the owner called, for links when no public one is
    set. Since `failing_since` nothing was delivered; `reason` says why it is disabled.
    """

    __tablename__ = "endpoints"
    __table_args__ = (
        Index("ix_endpoints_key_id_id", "key_id", "id", sqlite_where=text("task_id IS NULL"),
              postgresql_where=text("task_id IS NULL")),
        Index("ix_endpoints_task_id", "task_id", unique=True),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    key_id: str = Field(foreign_key="virtual_keys.id")
    task_id: str | None = Field(default=None, foreign_key="tasks.id")
    name: str
    url: str = Field(sa_column=Column(Text, nullable=False))
    headers: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    event_types: list[str] = Field(sa_column=json_column())
    base: str
    created_at: dt.datetime
    updated_at: dt.datetime
    failing_since: dt.datetime | None = None
    disabled_at: dt.datetime | None = None
    reason: str | None = None
    deleted_at: dt.datetime | None = None


class EndpointSecret(Row, table=True):
    """One of an endpoint's secrets, or of a key's for its tasks: not its text, but what that is derived from.

    It signs until `until`. An owner without any has the one whose salt is empty.
    """

    __tablename__ = "endpoint_secrets"

    owner_id: str = Field(primary_key=True)
    salt: str = Field(primary_key=True)
    created_at: dt.datetime
    until: dt.datetime | None = None


class Delivery(Row, table=True):
    """One Event on its way to one Endpoint. `version`, `due_at`, `rings` and `takes` are its turn.

    `body` are the very characters that every attempt sends and signs, under `event_id`. Those of one task go to an
    endpoint by `sequence`. `retries` is its place on the schedule, `attempts` counts all that were made.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due_at", "due_at", sqlite_where=text("due_at IS NOT NULL"),
              postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_deliveries_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_deliveries_endpoint_id_event_id", "endpoint_id", "event_id"),
        Index("ix_deliveries_task_id_endpoint_id", "task_id", "endpoint_id"),
        Index("ix_deliveries_ended_at", "ended_at"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    endpoint_id: str = Field(foreign_key="endpoints.id")
    key_id: str = Field(foreign_key="virtual_keys.id")
    task_id: str | None = Field(default=None, foreign_key="tasks.id")
    sequence: int = 0
    event_id: str
    type: str
    body: str = Field(sa_column=Column(Text, nullable=False))
    destination: str
    state: str
    version: int = 0
    due_at: dt.datetime | None = None
    rings: int = 0
    takes: int = 0
    retries: int = 0
    attempts: int = 0
    created_at: dt.datetime
    ended_at: dt.datetime | None = None


class DeliveryAttempt(Row, table=True):
    """One try of a Delivery: the receiver's status, or why there is none, and the beginning of what it said."""

    __tablename__ = "delivery_attempts"

    delivery_id: str = Field(primary_key=True, foreign_key="deliveries.id")
    number: int = Field(primary_key=True)
    at: dt.datetime
    milliseconds: int
    status: int | None = None
    error: str | None = None
    reply: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


ENDPOINTS = Endpoint.__table__  # type: ignore[attr-defined]  # see tables
ENDPOINT_SECRETS = EndpointSecret.__table__  # type: ignore[attr-defined]  # as above
DELIVERIES = Delivery.__table__  # type: ignore[attr-defined]  # as above
DELIVERY_ATTEMPTS = DeliveryAttempt.__table__  # type: ignore[attr-defined]  # as above
