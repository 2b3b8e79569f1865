"""Which failed task a task repeats.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("tasks", sa.Column("retry_of", sqlmodel.sql.sqltypes.AutoString(), nullable=True))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("retry_of")
