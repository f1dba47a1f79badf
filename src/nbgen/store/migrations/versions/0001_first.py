"""The first tables, and what was kept before there were migrations.

A migration is never changed once it was released: what it made is on people's disks.
"""

from __future__ import annotations

import datetime as dt
import json

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and take over those of a database without migrations."""
    old = sa.inspect(op.get_bind()).has_table("tasks")
    if old:
        op.drop_index("ix_tasks_status", "tasks")
        op.drop_index("ix_decisions_task_id", "decisions")
        op.rename_table("decisions", "old_decisions")
        op.rename_table("tasks", "old_tasks")
    _make_tables()
    if old:
        _take_over()
        op.drop_table("old_decisions")
        op.drop_table("old_tasks")


def _make_tables() -> None:
    op.create_table(
        "tasks",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("parent_id", sa.String(128), sa.ForeignKey("tasks.id")),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("ended_at", _MOMENT),
        sa.Column("current_step", sa.Integer, nullable=False),
        sa.Column("stages", sa.Text),
        sa.Column("made_with", sa.Text),
        sa.Column("result", sa.Text),
    )
    op.create_index("ix_tasks_parent_id", "tasks", ["parent_id"])
    op.create_index("ix_tasks_created_at", "tasks", ["created_at", "number"])
    op.create_index("ix_tasks_status", "tasks", ["status", "created_at", "number"])
    op.create_table(
        "prompts",
        sa.Column("created_at", _MOMENT, primary_key=True),
        sa.Column(
            "number", sa.Integer, sa.ForeignKey("tasks.number"), primary_key=True
        ),
        sa.Column("folded", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "content",
        sa.Column("task_id", sa.String(128), primary_key=True),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("featured_image_url", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("reviewer_id", sa.Text, nullable=False),
        sa.Column("feedback", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("image", sa.String(40)),
        sa.Column("featured_image_url", sa.Text),
        sa.Column("decided_at", _MOMENT, nullable=False),
        sa.Column("supersedes", sa.Integer, sa.ForeignKey("decisions.sequence")),
        sa.UniqueConstraint("task_id", "version", name="uq_decisions_task_id"),
    )
    op.create_table(
        "publications",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column(
            "decision",
            sa.Integer,
            sa.ForeignKey("decisions.sequence"),
            nullable=False,
        ),
        sa.Column("task_id", sa.String(128), nullable=False),
        sa.Column("publisher", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", _MOMENT, nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("decision", "publisher", name="uq_publications_decision"),
    )
    op.create_index("ix_publications_task_id", "publications", ["task_id"])
    op.create_index("ix_publications_due", "publications", ["state", "next_at"])


def _take_over() -> None:
    """Copy tasks and decisions; only SQLite was ever kept so, with times as texts."""
    connection = op.get_bind()
    tables = sa.MetaData()
    tables.reflect(connection)
    old_tasks, old_decisions = (
        tables.tables["old_tasks"],
        tables.tables["old_decisions"],
    )
    for row in connection.execute(sa.select(old_tasks)).mappings():
        task = {**row, **_times(row, "created_at", "ended_at")}
        connection.execute(tables.tables["tasks"].insert().values(task))
        found = {
            "created_at": task["created_at"],
            "number": row["number"],
            "folded": json.loads(row["request"])["prompt"].casefold(),
        }
        connection.execute(tables.tables["prompts"].insert().values(found))
    for row in connection.execute(sa.select(old_decisions)).mappings():
        decision = {**row, **_times(row, "decided_at"), "version": 1, "tags": "[]"}
        decision["sequence"] = decision.pop("number")
        connection.execute(tables.tables["decisions"].insert().values(decision))


def _times(row: sa.RowMapping, *columns: str) -> dict[str, dt.datetime | None]:
    return {
        column: dt.datetime.fromisoformat(row[column]).replace(tzinfo=None)
        if row[column]
        else None
        for column in columns
    }
