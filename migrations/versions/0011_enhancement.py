"""How a task's prompt is enhanced.

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    """To this revision. Prompts of tasks that were made before are not enhanced."""
    op.add_column("tasks", sa.Column("enhancement", JSON, nullable=True))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("enhancement")
