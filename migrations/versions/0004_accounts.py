"""Accounts with budgets and limits, their ledger, and slots for tasks.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-21
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT, TIME = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
LINE = "state = 'queued' AND due_at IS NULL"
# Keys from before get an account without limits; what runs now has its slot already.
ACCOUNTS = """
INSERT INTO accounts (id, key_id, period, thresholds, window_at, spent, reserved, sequence, minute_at, minute_used,
    hour_at, hour_used, day_at, day_used, waiting, running, served_at)
SELECT id, id, 'total', '[]', created_at, 0, 0, 0, created_at, 0, created_at, 0, created_at, 0, 0,
    (SELECT count(*) FROM tasks WHERE key_id = virtual_keys.id AND due_at IS NOT NULL), created_at
FROM virtual_keys
"""
REFUSE = {
    "postgresql": (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'an entry of the ledger is never changed'; END $$",
        "CREATE TRIGGER entries_stand BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER entries_stay BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    ),
    "sqlite": tuple(
        f"CREATE TRIGGER entries_stand_{verb.lower()} BEFORE {verb} ON entries "
        "BEGIN SELECT RAISE(ABORT, 'an entry of the ledger is never changed'); END"
        for verb in ("UPDATE", "DELETE")
    ),
}


def upgrade() -> None:
    """To this revision."""
    dialect = op.get_bind().dialect.name
    _create_accounts()
    _create_entries()
    op.add_column("virtual_keys", sa.Column("owner", TEXT(), nullable=True))
    for column in (
        sa.Column("owner", TEXT(), nullable=True),
        sa.Column("rank", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("held", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("held_until", TIME(), nullable=True),
        sa.Column("stopped", TEXT(), nullable=True),
    ):
        op.add_column("tasks", column)
    op.add_column("attempts", sa.Column("quoted", sa.BigInteger(), nullable=True))
    op.add_column("attempts", sa.Column("priced_on", sa.Date(), nullable=True))
    _index("ix_tasks_key_id_rank", ["key_id", "rank"], LINE)
    _index("ix_tasks_deadline_at", ["deadline_at"], LINE)
    _index("ix_tasks_held_until", ["held_until"], "held_until IS NOT NULL")
    op.execute(ACCOUNTS)
    for statement in REFUSE[dialect]:
        op.execute(statement)


def downgrade() -> None:
    """Back to the one before. The ledger is lost."""
    for index in ("ix_tasks_key_id_rank", "ix_tasks_deadline_at", "ix_tasks_held_until"):
        op.drop_index(index, "tasks")
    for table, columns in (
        ("attempts", ("quoted", "priced_on")),
        ("tasks", ("owner", "rank", "held", "held_until", "stopped")),
        ("virtual_keys", ("owner",)),
    ):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.drop_column(column)
    op.drop_table("entries")
    op.drop_table("accounts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", TEXT(), nullable=False),
        sa.Column("key_id", TEXT(), nullable=True),
        sa.Column("budget", sa.BigInteger(), nullable=True),
        sa.Column("period", TEXT(), nullable=False),
        sa.Column(
            "thresholds",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column("window_at", TIME(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("per_minute", sa.Integer(), nullable=True),
        sa.Column("per_hour", sa.Integer(), nullable=True),
        sa.Column("per_day", sa.Integer(), nullable=True),
        sa.Column("minute_at", TIME(), nullable=False),
        sa.Column("minute_used", sa.Integer(), nullable=False),
        sa.Column("hour_at", TIME(), nullable=False),
        sa.Column("hour_used", sa.Integer(), nullable=False),
        sa.Column("day_at", TIME(), nullable=False),
        sa.Column("day_used", sa.Integer(), nullable=False),
        sa.Column("concurrent", sa.Integer(), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("served_at", TIME(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["virtual_keys.id"], name=op.f("fk_accounts_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_index(
        "ix_accounts_served_at", "accounts", ["served_at"], unique=False,
        sqlite_where=sa.text("waiting > 0"), postgresql_where=sa.text("waiting > 0"),
    )  # fmt: skip


def _create_entries() -> None:
    op.create_table(
        "entries",
        sa.Column("account_id", TEXT(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("task_id", TEXT(), nullable=False),
        sa.Column("kind", TEXT(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("window_at", TIME(), nullable=False),
        sa.Column("at", TIME(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_entries_account_id")),
        sa.PrimaryKeyConstraint("account_id", "sequence", name=op.f("pk_entries")),
    )
    op.create_index("ix_entries_task_id", "entries", ["task_id", "account_id", "kind"], unique=True)


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "tasks", columns, unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
