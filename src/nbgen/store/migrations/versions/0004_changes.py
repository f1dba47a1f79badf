"""Each change is an entry of a feed, which others follow."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


# One round trip for what takes three statements. Each of them sees what was committed
# before it: the number is read once the lock is held. What is notified is sent at the
# commit.
_APPEND = """
CREATE FUNCTION nbgen_append(
    new_kind VARCHAR, new_id VARCHAR, new_state VARCHAR, new_batch_id VARCHAR,
    new_at TIMESTAMP WITH TIME ZONE
) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE new_number BIGINT;
BEGIN
    PERFORM pg_advisory_xact_lock(474097345384);
    PERFORM pg_notify('nbgen', '');
    SELECT coalesce((SELECT max(number) FROM changes), pruned) + 1
        INTO new_number FROM feed;
    INSERT INTO changes (number, kind, id, state, batch_id, at)
        VALUES (new_number, new_kind, new_id, new_state, new_batch_id, new_at);
    RETURN new_number;
END $$
"""


def upgrade() -> None:
    """Make the feed, empty, and draw its epoch."""
    feed = op.create_table(
        "feed",
        sa.Column("epoch", sa.String(32), primary_key=True),
        sa.Column("pruned", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(feed, [{"epoch": uuid4().hex, "pruned": 0}])
    op.create_table(
        "changes",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("batch_id", sa.String(60)),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    of_batches = sa.text("batch_id IS NOT NULL")
    op.create_index(
        "ix_changes_batch_id",
        "changes",
        ["batch_id", "number"],
        sqlite_where=of_batches,
        postgresql_where=of_batches,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Not logged: five writes a second cost nothing, and a crash forgets them.
        op.execute(
            "CREATE UNLOGGED TABLE live (owner VARCHAR(32) PRIMARY KEY, "
            "states TEXT NOT NULL)"
        )
        op.execute(_APPEND)
