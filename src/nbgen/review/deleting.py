"""The rules of deleting: which tasks may go, and which are old enough to.

Pure functions, for any thread. The store calls them within the transaction that
deletes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from nbgen.errors import TaskNotEnded, TaskProtected, UnknownTask
from nbgen.review.quorum import Quorum
from nbgen.review.rules import fold
from nbgen.schema import ApprovalStatus, OldTasks, Outcome, Subject


def check_deletable(
    subject: Subject, published_by: Sequence[str], quorum: Quorum, *, force: bool
) -> None:
    """Check that a task may be deleted.

    Args:
        subject: The task.
        published_by: The names of the publishers that have published it.
        quorum: The approvals that a task needs.
        force: Whether it may be published or approved.

    Raises:
        UnknownTask: There is no such task.
        TaskNotEnded: It waits or runs.
        TaskProtected: It is published or approved.
    """
    if subject.task is None and subject.content is None:
        raise UnknownTask(subject.task_id)
    if subject.task is not None and not subject.task.status.ended:
        raise TaskNotEnded(subject.task_id)
    if force:
        return
    if published_by:
        raise TaskProtected(
            subject.task_id, f"is published by {', '.join(published_by)}"
        )
    review = fold(subject.log, quorum)
    if review.status is ApprovalStatus.APPROVED and review.decision is not None:
        raise TaskProtected(
            subject.task_id, f"is approved by {review.decision.reviewer_id}"
        )


def is_old(
    subject: Subject,
    published_by: Sequence[str],
    quorum: Quorum,
    *,
    old: OldTasks,
    now: dt.datetime,
) -> bool:
    """Return whether a task is one of those that are old enough to be deleted."""
    task = subject.task
    if task is None or task.ended_at is None or task.ended_at > old.ended_before(now):
        return False
    status = fold(subject.log, quorum).status
    if published_by or status is ApprovalStatus.APPROVED:
        return False
    if not (old.rejected or old.failed):
        return True
    if old.rejected and status is ApprovalStatus.REJECTED:
        return True
    return old.failed and task.outcome is not Outcome.SUCCEEDED
