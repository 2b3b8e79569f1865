"""Webhooks: endpoints with their secrets, and deliveries with their attempts.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TEXT, TIME = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    """To this revision."""
    op.add_column("tasks", sa.Column("webhook_url", sa.Text(), nullable=True))
    _create_endpoints()
    _create_deliveries()


def _create_endpoints() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", TEXT(), nullable=False),
        sa.Column("key_id", TEXT(), nullable=False),
        sa.Column("task_id", TEXT(), nullable=True),
        sa.Column("name", TEXT(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("event_types", JSON, nullable=False),
        sa.Column("base", TEXT(), nullable=False),
        sa.Column("created_at", TIME(), nullable=False),
        sa.Column("updated_at", TIME(), nullable=False),
        sa.Column("failing_since", TIME(), nullable=True),
        sa.Column("disabled_at", TIME(), nullable=True),
        sa.Column("reason", TEXT(), nullable=True),
        sa.Column("deleted_at", TIME(), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["virtual_keys.id"], name=op.f("fk_endpoints_key_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_endpoints_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
    )
    _index("ix_endpoints_key_id_id", "endpoints", ["key_id", "id"], where="task_id IS NULL")
    op.create_index(op.f("ix_endpoints_task_id"), "endpoints", ["task_id"], unique=True)
    op.create_table(
        "endpoint_secrets",
        sa.Column("owner_id", TEXT(), nullable=False),
        sa.Column("salt", TEXT(), nullable=False),
        sa.Column("created_at", TIME(), nullable=False),
        sa.Column("until", TIME(), nullable=True),
        sa.PrimaryKeyConstraint("owner_id", "salt", name=op.f("pk_endpoint_secrets")),
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", TEXT(), nullable=False),
        sa.Column("endpoint_id", TEXT(), nullable=False),
        sa.Column("key_id", TEXT(), nullable=False),
        sa.Column("task_id", TEXT(), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("event_id", TEXT(), nullable=False),
        sa.Column("type", TEXT(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("destination", TEXT(), nullable=False),
        sa.Column("state", TEXT(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME(), nullable=True),
        sa.Column("rings", sa.Integer(), nullable=False),
        sa.Column("takes", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME(), nullable=False),
        sa.Column("ended_at", TIME(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_deliveries_endpoint_id")),
        sa.ForeignKeyConstraint(["key_id"], ["virtual_keys.id"], name=op.f("fk_deliveries_key_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_deliveries_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    _index("ix_deliveries_due_at", "deliveries", ["due_at"], where="due_at IS NOT NULL")
    for columns in (["endpoint_id", "id"], ["endpoint_id", "event_id"], ["task_id", "endpoint_id"], ["ended_at"]):
        op.create_index(op.f(f"ix_deliveries_{'_'.join(columns)}"), "deliveries", columns)
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", TEXT(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", TIME(), nullable=False),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", TEXT(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name=op.f("fk_delivery_attempts_delivery_id")),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_delivery_attempts")),
    )


def _index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(op.f(name), table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Back to the one before."""
    for table in ("delivery_attempts", "deliveries", "endpoint_secrets", "endpoints"):
        op.drop_table(table)
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("webhook_url")
