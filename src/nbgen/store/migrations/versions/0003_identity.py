"""A database has an identity, by which it is known where its pictures lie."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table and draw the identity."""
    identity = op.create_table(
        "identity", sa.Column("id", sa.String(32), primary_key=True)
    )
    op.bulk_insert(identity, [{"id": uuid4().hex}])
