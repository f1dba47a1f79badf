"""What is decided on, and what a ruling on it says. Frozen values, for any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nbgen.schema.review import ApprovalStatus, ContentTask, Decision, PublicationRecord
from nbgen.schema.task import TaskRecord


class Review(NamedTuple):
    """What the decisions on a task come to.

    Attributes:
        status: What they come to.
        decision: The first decision that made it so; None while it is pending.
        missing: What is missing for an approval, as a phrase; None if nothing is.
        votes: The decision of each reviewer that counts, oldest first.
        version: How many decisions there are.
    """

    status: ApprovalStatus
    decision: Decision | None
    missing: str | None
    votes: dict[str, Decision]
    version: int


class Decided(NamedTuple):
    """What came of a decision.

    Attributes:
        decision: The decision.
        review: What all decisions on its task come to.
        publications: Those of the approval in force, oldest first.
        message: What came of it, in a sentence or two for a person.
    """

    decision: Decision
    review: Review
    publications: tuple[PublicationRecord, ...]
    message: str


class Subject(NamedTuple):
    """What is decided on: a task that was generated here, one made elsewhere, or both.

    Attributes:
        task_id: The id.
        task: The task of that id that was generated here, or None.
        content: The task of that id that was made elsewhere, or None.
        log: The decisions so far, oldest first.
    """

    task_id: str
    task: TaskRecord | None
    content: ContentTask | None
    log: tuple[Decision, ...]


class Ruling(NamedTuple):
    """What is to be done about a request to decide.

    Attributes:
        decision: The decision to append, or the one that stands already.
        is_new: Whether it is to be appended.
        publishes: The approval that is in force now, if none was before: the decision
            itself, or one that counts again since another was undone.
        withdraws: Whether the task was approved before, and is not any more.
    """

    decision: Decision
    is_new: bool = False
    publishes: Decision | None = None
    withdraws: bool = False


class Proposal(NamedTuple):
    """A change to the log that somebody asks for.

    Attributes:
        task_id: The task.
        rule: Says what is to be done, from what the log says at that moment; it may
            raise an ``NbgenError`` to refuse.
        child: A task to add together with the decision, or None.
    """

    task_id: str
    rule: Callable[[Subject], Ruling]
    child: TaskRecord | None = None
