"""The nouns of review: verdicts, decisions, tasks made elsewhere and publications.

All are frozen values, so any thread may hold them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import (
    check_choice,
    check_featured_url,
    check_feedback,
    check_image_name,
    check_reviewer_id,
    check_tags,
    check_task_id,
    check_version,
)
from nbgen.schema.picture import ImageRecord


class Verdict(StrEnum):
    """What an entry in the log of decisions says."""

    APPROVED = "approved"
    REJECTED = "rejected"
    CHANGES_REQUESTED = "changes_requested"
    UNDONE = "undone"


class ApprovalStatus(StrEnum):
    """What all decisions on a task come to."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    CHANGES_REQUESTED = "changes_requested"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One entry in the log of decisions; entries are never changed.

    Attributes:
        sequence: The number of the entry, rising over the whole log; 0 until it is
            committed.
        task_id: The task that was decided.
        version: The number of the entry among those of its task, from 1.
        verdict: What was decided.
        reviewer_id: Who decided.
        feedback: What the reviewer said (of a rejection, the reason), or None.
        tags: Words that sort the decision, such as ``"hands"`` or ``"too dark"``.
        image: The name of the picture that is meant, of a task with several, or None.
        featured_image_url: The picture that an approval stands for, or None.
        decided_at: When, in UTC.
        supersedes: The sequence of the entry that no longer counts, or None.
        child_id: The task that a request for changes was queued as, or None.
    """

    sequence: int = 0
    task_id: str
    version: int = 1
    verdict: Verdict
    reviewer_id: str
    feedback: str | None = None
    tags: tuple[str, ...] = ()
    image: str | None = None
    featured_image_url: str | None = None
    decided_at: dt.datetime
    supersedes: int | None = None
    child_id: str | None = None

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        verdict = self.verdict.value.replace("_", " ")
        return f"Decision({verdict} by {self.reviewer_id})"

    def is_about(self, image: ImageRecord) -> bool:
        """Say whether it is about that picture of its task.

        An approval is about one picture; any other decision about all, unless it names
        one.
        """
        if self.verdict is Verdict.APPROVED:
            return image.url == self.featured_image_url
        return self.image in (None, image.name)


class DecisionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that somebody wants to be taken.

    Attributes:
        task_id: The task.
        verdict: What is to be decided; never ``undone``, and ``changes_requested`` only
            of tasks that were made elsewhere: ``Studio.request_changes`` is for others.
        reviewer_id: Who decides, 1 to 200 characters.
        feedback: What the reviewer says, up to 10,000 characters.
        tags: Up to 20 words that sort the decision.
        image: The name or the ``/images/`` URL of the picture that is meant; None for
            the first.
        featured_image_url: The picture that an approval stands for; None looks for it.
        expect_version: How many decisions the reviewer knows of; None does not say.

    Raises:
        InvalidRequest: A value is not allowed.
    """

    task_id: str
    verdict: Verdict
    reviewer_id: str
    feedback: str | None = None
    tags: tuple[str, ...] = ()
    image: str | None = None
    featured_image_url: str | None = None
    expect_version: int | None = None

    def __post_init__(self) -> None:
        for field, check in _DECISION_CHECKS.items():
            force_setattr(self, field, check(getattr(self, field)))
        if self.verdict is Verdict.UNDONE:
            allowed = "'approved', 'rejected' or 'changes_requested'"
            raise InvalidRequest("verdict", self.verdict.value, allowed)


_DECISION_CHECKS: dict[str, Callable[[Any], Any]] = {
    "task_id": check_task_id,
    "verdict": partial(check_choice, "verdict", choices=Verdict),
    "reviewer_id": check_reviewer_id,
    "feedback": check_feedback,
    "tags": check_tags,
    "image": partial(check_image_name, "image"),
    "featured_image_url": check_featured_url,
    "expect_version": check_version,
}


class ContentTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was made elsewhere and is decided here.

    Attributes:
        task_id: The id of the task.
        metadata: What its makers know of it: JSON values under names.
        featured_image_url: Its own picture, or None.
        created_at: When it was registered, in UTC.
        updated_at: When it was last merged with more, in UTC.
        decisions: The log of the decisions on it, oldest first.
        decision: The decision in force; None while there is none.
        approval_status: What all decisions come to.
    """

    task_id: str
    metadata: dict[str, Any]
    featured_image_url: str | None = None
    created_at: dt.datetime
    updated_at: dt.datetime
    decisions: tuple[Decision, ...] = ()
    decision: Decision | None = None
    approval_status: ApprovalStatus = ApprovalStatus.PENDING

    @property
    def version(self) -> int:
        """How many decisions there are on the task."""
        return len(self.decisions)


class PublicationState(StrEnum):
    """How far a publication has come."""

    PENDING = "pending"
    PUBLISHED = "published"
    CANCELLED = "cancelled"


class PublicationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One approval on its way to one publisher.

    Attributes:
        number: The number of the publication.
        decision: The sequence of the approval.
        task_id: The task that was approved.
        publisher: The name of the publisher.
        state: How far it has come; a pending one is tried until it is published, or
            cancelled because the approval was undone.
        attempts: How often it was tried.
        next_at: When it is tried again, in UTC.
        url: Where it was published, if the publisher said so.
        error: Why the last attempt failed, or None.
    """

    number: int
    decision: int
    task_id: str
    publisher: str
    state: PublicationState
    attempts: int
    next_at: dt.datetime
    url: str | None = None
    error: str | None = None
