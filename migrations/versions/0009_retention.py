"""How long what a key makes is kept, what was erased of it, and who cleans up.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sqlmodel.sql.sqltypes.UTCDateTime
TEXT = sqlmodel.sql.sqltypes.AutoString
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")
KEPT = sa.text("ended_at IS NOT NULL AND erased_at IS NULL")
DOOMED = sa.text("deleted_at IS NOT NULL AND erased_at IS NULL")


def upgrade() -> None:
    """To this revision. The bytes of media that were deleted before are deleted once more, for nobody wrote it down."""
    op.add_column("virtual_keys", sa.Column("retention_days", sa.Integer(), nullable=True))
    op.add_column("tasks", sa.Column("erased_at", TIME(), nullable=True))
    op.add_column("assets", sa.Column("erased_at", TIME(), nullable=True))
    op.create_index("ix_tasks_ended_at", "tasks", ["ended_at"], sqlite_where=KEPT, postgresql_where=KEPT)
    op.create_index("ix_assets_deleted_at", "assets", ["deleted_at"], sqlite_where=DOOMED, postgresql_where=DOOMED)
    op.create_table(
        "cleanups",
        sa.Column("id", TEXT(), nullable=False),
        sa.Column("mark", TEXT(), nullable=False),
        sa.Column("schedule", TEXT(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME(), nullable=True),
        sa.Column("rings", sa.Integer(), nullable=False),
        sa.Column("takes", sa.Integer(), nullable=False),
        sa.Column("started_at", TIME(), nullable=True),
        sa.Column("ended_at", TIME(), nullable=True),
        sa.Column("report", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cleanups")),
    )


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("cleanups")
    op.drop_index("ix_assets_deleted_at", table_name="assets")
    op.drop_index("ix_tasks_ended_at", table_name="tasks")
    for table, column in (("assets", "erased_at"), ("tasks", "erased_at"), ("virtual_keys", "retention_days")):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
