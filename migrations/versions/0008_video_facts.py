"""What is measured of films, the small pictures beside an asset, and videos that their owner deleted.

Revision ID: 0008
Revises: 0006
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision. What is kept already has no small pictures."""
    pictures = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
    )
    op.add_column("assets", sa.Column("fps", sa.Float(), nullable=True))
    op.add_column("assets", sa.Column("blurhash", sqlmodel.sql.sqltypes.AutoString(), nullable=True))
    op.add_column("assets", sa.Column("pictures", pictures, nullable=False, server_default="{}"))
    op.add_column("tasks", sa.Column("deleted_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("deleted_at")
    with op.batch_alter_table("assets", schema=None) as batch_op:
        batch_op.drop_column("pictures")
        batch_op.drop_column("blurhash")
        batch_op.drop_column("fps")
