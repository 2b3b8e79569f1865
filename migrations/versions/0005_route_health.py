"""The health of routes, the credential of an attempt, and models to fall back on.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT, TIME = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "route_health",
        sa.Column("provider", TEXT(), nullable=False),
        sa.Column("credential", TEXT(), nullable=False),
        sa.Column("model", TEXT(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("reason", TEXT(), nullable=False),
        sa.Column("since", TIME(), nullable=False),
        sa.Column("until", TIME(), nullable=True),
        sa.PrimaryKeyConstraint("provider", "credential", "model", name=op.f("pk_route_health")),
    )
    op.add_column("attempts", sa.Column("credential", TEXT(), nullable=False, server_default="default"))
    op.add_column("attempts", sa.Column("choice", sa.Integer(), nullable=False, server_default="0"))
    fallbacks = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
    )
    op.add_column("tasks", sa.Column("fallbacks", fallbacks, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Back to the one before."""
    for table, columns in (("tasks", ("fallbacks",)), ("attempts", ("credential", "choice"))):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.drop_column(column)
    op.drop_table("route_health")
