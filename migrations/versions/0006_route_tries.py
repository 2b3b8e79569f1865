"""When the trouble of a route was last seen, and which order tries it.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sqlmodel.sql.sqltypes.UTCDateTime


def upgrade() -> None:
    """To this revision. What was wrong with routes is found out anew."""
    op.execute("DELETE FROM route_health")
    with op.batch_alter_table("route_health", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seen_at", TIME(), nullable=False))
        batch_op.add_column(sa.Column("tried_at", TIME(), nullable=True))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("route_health", schema=None) as batch_op:
        batch_op.drop_column("tried_at")
        batch_op.drop_column("seen_at")
