"""Pages are in the order of the numbers of their tasks, whatever the clock says."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Have the index and the table of prompts hold that order."""
    op.drop_index("ix_tasks_status", "tasks")
    op.create_index("ix_tasks_status", "tasks", ["status", "number"])
    op.rename_table("prompts", "old_prompts")
    op.create_table(
        "prompts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["number"], ["tasks.number"], name="fk_prompts_number"),
    )
    op.execute("INSERT INTO prompts SELECT number, folded FROM old_prompts")
    op.drop_table("old_prompts")
