"""The numbers of deleted decisions and publications are never used again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Rebuild the tables of SQLite, which uses the last number again otherwise."""
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_publications_task_id", "publications")
        op.drop_index("ix_publications_due", "publications")
        for name in ("publications", "decisions"):
            op.rename_table(name, f"old_{name}")
        _make_tables()
        for name in ("decisions", "publications"):
            op.execute(f"INSERT INTO {name} SELECT * FROM old_{name}")  # noqa: S608
        for name in ("publications", "decisions"):
            op.drop_table(f"old_{name}")
    superseding = sa.text("supersedes IS NOT NULL")
    op.create_index(
        "ix_decisions_supersedes",
        "decisions",
        ["supersedes"],
        sqlite_where=superseding,
        postgresql_where=superseding,
    )


def _make_tables() -> None:
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
        sa.Column("child_id", sa.String(128)),
        sa.UniqueConstraint("task_id", "version", name="uq_decisions_task_id"),
        sqlite_autoincrement=True,
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
        sqlite_autoincrement=True,
    )
    op.create_index("ix_publications_task_id", "publications", ["task_id"])
    op.create_index("ix_publications_due", "publications", ["state", "next_at"])
