"""The change feed: what changed, in the order in which it was committed.

Frozen values without behaviour, for any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from nbgen.schema.task import BatchRow, Status, TaskRecord

DEFAULT_QUEUE = "default"
"""The name of the queue where none is chosen."""

CANCELLING = "cancelling"
"""The state of a change: a task that runs was asked to end."""


class ChangeKind(StrEnum):
    """What a change is a change of."""

    TASK = "task"
    BATCH = "batch"
    DECISION = "decision"
    CONTENT = "content"
    PUBLICATION = "publication"
    QUEUE = "queue"


class Change(msgspec.Struct, frozen=True):
    """One entry of the change feed.

    It says what changed, not everything that is known of it: read the task, the review
    or the batch for that.

    Example::

        def on_changes(changes):
            for change in changes.changes:
                print(change.number, change.kind, change.id, change.state)

    Attributes:
        number: Its place in the feed, from 1: one more than that of the change before.
        kind: What it is a change of.
        id: The id of the task that changed or was decided on, of the batch, or the name
            of the queue.
        state: What it became. Of a task: its status, its outcome once it has ended, or
            ``deleted``; or ``cancelling``, when one that runs is to end. Of a batch:
            ``queued``, when rows were added or wait again. Of a decision: its verdict.
            Of a publication: its state. Of a task made elsewhere: ``known``, or
            ``deleted``. Of the queue: ``paused`` or ``resumed``.
        batch_id: The batch that a task belongs to; None for other changes.
    """

    number: int
    kind: ChangeKind
    id: str
    state: str
    batch_id: str | None = None


class NewChange(NamedTuple):
    """A change before it has its place in the feed; see ``Change``."""

    kind: ChangeKind
    id: str
    state: str
    batch_id: str | None = None


class Position(NamedTuple):
    """A place in a change feed.

    Attributes:
        epoch: Which feed it is a place in. A database that is restored from a copy
            begins another feed.
        number: The number of the last change before this place; 0 at the beginning.
    """

    epoch: str
    number: int


class Changes(msgspec.Struct, frozen=True):
    """What a follower of the change feed is called with.

    Attributes:
        position: The place behind these changes, to go on from.
        changes: The changes in their order, none left out; often several at once.
        missed: Whether changes before ``position`` are not known any more: follow from
            here, and read the present state of whatever is shown.
        problem: Why the feed cannot be read at the moment, for a person; None
            otherwise. It is tried again each second.
    """

    position: Position
    changes: tuple[Change, ...] = ()
    missed: bool = False
    problem: str | None = None

    @property
    def reads_anew(self) -> bool:
        """Whether to read the present state of all that is shown.

        So it is where the following begins, where changes were missed, and where the
        feed cannot be read or can be read again.
        """
        return not self.changes


class ChangedRows(NamedTuple):
    """What changed of a batch.

    Attributes:
        rows: Where the changed rows stand now, in the order of their tasks.
        position: The place in the feed up to which they are read.
        is_whole: Whether these are all rows of the batch, and not only changed ones.
    """

    rows: list[BatchRow]
    position: Position
    is_whole: bool


def changes_of_waiting(records: Iterable[TaskRecord]) -> list[NewChange]:
    """Return the changes of tasks that come to wait, and of their batches."""
    of_tasks = [
        NewChange(ChangeKind.TASK, record.id, Status.PENDING, record.batch_id)
        for record in records
    ]
    batches = dict.fromkeys(new.batch_id for new in of_tasks if new.batch_id)
    return [NewChange(ChangeKind.BATCH, name, "queued") for name in batches] + of_tasks


def queue_change(queue: str, *, paused: bool) -> NewChange:
    """Return the change that pausing or resuming a queue is."""
    return NewChange(ChangeKind.QUEUE, queue, "paused" if paused else "resumed")
