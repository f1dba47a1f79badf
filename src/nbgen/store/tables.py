"""The tables, as the newest migration leaves them.

Nothing here touches a database; any thread may read it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from nbgen.schema.checks import (
    LONGEST_BATCH_NAME,
    LONGEST_IMAGE_NAME,
    LONGEST_LANE_NAME,
    LONGEST_PUBLISHER_NAME,
    LONGEST_QUEUE_NAME,
    LONGEST_TASK_ID,
)


class Moment(sa.types.TypeDecorator[dt.datetime]):
    """A time in UTC that comes back with its time zone, and sorts as time does."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: dt.datetime | None, dialect: sa.Dialect
    ) -> dt.datetime | None:
        """Return the time as the driver takes it: SQLite keeps no time zones."""
        if value is None:
            return None
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(
        self, value: dt.datetime | None, dialect: sa.Dialect
    ) -> dt.datetime | None:
        """Return the time with its zone."""
        if value is None:
            return None
        naive = dialect.name == "sqlite"
        return value.replace(tzinfo=dt.UTC) if naive else value.astimezone(dt.UTC)


metadata = sa.MetaData()

# Of one row, drawn when the table was made: whose the pictures are that lie somewhere.
identity = sa.Table(
    "identity", metadata, sa.Column("id", sa.String(32), primary_key=True)
)

# Each is run by one process at a time, of which there were as many as its generation.
queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.String(LONGEST_QUEUE_NAME), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("runner", sa.String(32)),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("beat", sa.Integer, nullable=False),
)

# What is known of its last attempt stands in the row of the task.
tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(LONGEST_TASK_ID), nullable=False, unique=True),
    sa.Column(
        "parent_id", sa.String(LONGEST_TASK_ID), sa.ForeignKey("tasks.id"), index=True
    ),
    sa.Column("batch_id", sa.String(LONGEST_BATCH_NAME)),
    sa.Column("batch_row", sa.String(LONGEST_BATCH_NAME)),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("error", sa.Text),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("current_step", sa.Integer, nullable=False),
    sa.Column("stages", sa.Text),
    sa.Column("step_times", sa.Text),
    sa.Column("made_with", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column(
        "queue",
        sa.String(LONGEST_QUEUE_NAME),
        nullable=False,
        server_default="default",
    ),
    sa.Column("generation", sa.Integer),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lane", sa.String(LONGEST_LANE_NAME)),
    sa.Column("offered", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("cancel_asked", sa.Boolean, nullable=False, server_default=sa.false()),
    # Pages are in the order of the numbers: a clock may be set back.
    sa.Index("ix_tasks_created_at", "created_at", "number"),
    sa.Index("ix_tasks_status", "status", "number"),
    sa.Index("ix_tasks_batch_id", "batch_id", "number"),
)

# Not a parameter, of which no database would know that it is what the index is for.
WAITS = tasks.c.status == sa.literal_column("'pending'")
"""Whether a task waits."""

sa.Index(
    "ix_tasks_waiting",
    tasks.c.queue,
    tasks.c.priority.desc(),
    tasks.c.number,
    sqlite_where=WAITS,
    postgresql_where=WAITS,
)

# Those that are over and did not end their task for good.
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("task", sa.Integer, sa.ForeignKey("tasks.number"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("lane", sa.String(LONGEST_LANE_NAME)),
    sa.Column("started_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.Text),
)

# Apart from the tasks, whose rows are ten times as long, and in the order of a page: a
# search reads all of it from the newest on, until the page is full.
prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column(
        "number",
        sa.Integer,
        sa.ForeignKey("tasks.number"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("folded", sa.Text, nullable=False),
)

content = sa.Table(
    "content",
    metadata,
    sa.Column("task_id", sa.String(LONGEST_TASK_ID), primary_key=True),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("featured_image_url", sa.Text),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
)

# Without a foreign key: the task is one of ``tasks``, of ``content``, or of both.
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.String(LONGEST_TASK_ID), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String(20), nullable=False),
    sa.Column("reviewer_id", sa.Text, nullable=False),
    sa.Column("feedback", sa.Text),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("image", sa.String(LONGEST_IMAGE_NAME)),
    sa.Column("featured_image_url", sa.Text),
    sa.Column("decided_at", Moment, nullable=False),
    sa.Column("supersedes", sa.ForeignKey("decisions.sequence")),
    sa.Column("child_id", sa.String(LONGEST_TASK_ID)),
    # Should a lock ever fail to keep two writers apart, the second one fails here.
    sa.UniqueConstraint("task_id", "version", name="uq_decisions_task_id"),
    # Or SQLite gives the number of one that was deleted to the next.
    sqlite_autoincrement=True,
)
_superseding = decisions.c.supersedes.is_not(None)
# For deleting: whether another decision refers to one is asked for each.
sa.Index(
    "ix_decisions_supersedes",
    decisions.c.supersedes,
    sqlite_where=_superseding,
    postgresql_where=_superseding,
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("decision", sa.ForeignKey("decisions.sequence"), nullable=False),
    sa.Column("task_id", sa.String(LONGEST_TASK_ID), nullable=False, index=True),
    sa.Column("publisher", sa.String(LONGEST_PUBLISHER_NAME), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", Moment, nullable=False),
    sa.Column("url", sa.Text),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("decision", "publisher", name="uq_publications_decision"),
    sa.Index("ix_publications_due", "state", "next_at"),
    sqlite_autoincrement=True,
)

# Of one row: which feed this is, and up to which number its changes are forgotten.
feed = sa.Table(
    "feed",
    metadata,
    sa.Column("epoch", sa.String(32), primary_key=True),
    sa.Column("pruned", sa.BigInteger, nullable=False),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column(
        "number",
        # In SQLite only this name of the type needs no index beside the table.
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("id", sa.String(LONGEST_TASK_ID), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("batch_id", sa.String(LONGEST_BATCH_NAME)),
    sa.Column("at", Moment, nullable=False),
)
_of_batches = changes.c.batch_id.is_not(None)
sa.Index(
    "ix_changes_batch_id",
    changes.c.batch_id,
    changes.c.number,
    sqlite_where=_of_batches,
    postgresql_where=_of_batches,
)

Row = sa.Row[Any]
