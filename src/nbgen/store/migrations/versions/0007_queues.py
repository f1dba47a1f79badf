"""The store is the queue: named queues, attempts, cancels that others obey."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and put all tasks into the default queue."""
    queues = op.create_table(
        "queues",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("runner", sa.String(32)),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
    )
    default = {"name": "default", "generation": 0, "paused": False, "beat": 0}
    op.bulk_insert(queues, [default])
    for column in (
        sa.Column("queue", sa.String(60), nullable=False, server_default="default"),
        sa.Column("generation", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lane", sa.String(120)),
        sa.Column("offered", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column(
            "cancel_asked", sa.Boolean, nullable=False, server_default=sa.false()
        ),
    ):
        op.add_column("tasks", column)
    op.execute("UPDATE tasks SET attempt = 1 WHERE started_at IS NOT NULL")
    waiting = sa.text("status = 'pending'")
    op.create_index(
        "ix_tasks_waiting",
        "tasks",
        ["queue", sa.text("priority DESC"), "number"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_table(
        "attempts",
        sa.Column("task", sa.Integer, sa.ForeignKey("tasks.number"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("lane", sa.String(120)),
        sa.Column("started_at", _MOMENT),
        sa.Column("ended_at", _MOMENT),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("result", sa.Text),
    )
