"""The pictures that came with a task.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    """To this revision. Tasks that were made before had no pictures."""
    op.add_column("tasks", sa.Column("inputs", JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("inputs")
