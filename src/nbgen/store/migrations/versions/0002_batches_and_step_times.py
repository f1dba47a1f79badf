"""Tasks belong to batches and keep the times of their steps, decisions their child."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, empty."""
    op.add_column("tasks", sa.Column("batch_id", sa.String(60)))
    op.add_column("tasks", sa.Column("batch_row", sa.String(60)))
    op.create_index("ix_tasks_batch_id", "tasks", ["batch_id", "number"])
    op.add_column("tasks", sa.Column("step_times", sa.Text))
    op.add_column("decisions", sa.Column("child_id", sa.String(128)))
