"""The nouns of review: verdicts, decisions, tasks made elsewhere and publications.

All are frozen values, so any thread may hold them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Required, TypedDict

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import (
    LONGEST_FEEDBACK,
    LONGEST_REVIEWER_ID,
    LONGEST_TAG,
    LONGEST_TASK_ID,
    LONGEST_URL,
    MAX_SEED,
    MOST_TAGS,
    check_image_name,
    check_tags,
    check_task_id,
)
from nbgen.schema.fields import check_field_names, fields_of
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


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that a decision and its request share.

    ``decision_of`` copies each of them. Each needs a column in the store and a place in
    ``DecideBody`` of ``nbgen.wire.review``.
    """

    task_id: Annotated[
        str,
        Meta(
            title="Task",
            description="The task",
            min_length=1,
            max_length=LONGEST_TASK_ID,
            extra={"check": check_task_id},
        ),
    ]
    verdict: Annotated[Verdict, Meta(title="Verdict", description="What is decided")]
    reviewer_id: Annotated[
        str,
        Meta(
            title="Reviewer",
            description="Who decides",
            min_length=1,
            max_length=LONGEST_REVIEWER_ID,
        ),
    ]
    feedback: Annotated[
        Annotated[str, Meta(max_length=LONGEST_FEEDBACK)] | None,
        Meta(
            title="Feedback",
            description="What the reviewer says; of a rejection, the reason",
        ),
    ] = None
    tags: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=LONGEST_TAG)], ...],
        Meta(
            title="Tags",
            description="Words that sort the decision, such as 'hands' or 'too dark'",
            max_length=MOST_TAGS,
            extra={"check": check_tags},
        ),
    ] = ()
    image: Annotated[
        str | None,
        Meta(
            title="Image",
            description="The name of the picture that is meant, of a task with several",
            extra={"picture": True, "check": partial(check_image_name, "image")},
        ),
    ] = None
    featured_image_url: Annotated[
        Annotated[str, Meta(min_length=1, max_length=LONGEST_URL)] | None,
        Meta(
            title="Featured image",
            description="The picture that an approval stands for, wherever it is; "
            "none looks for it",
        ),
    ] = None


class Decision(Statement, frozen=True, kw_only=True):
    """One entry in the log of decisions; entries are never changed.

    Example::

        decision = studio.approve("hero-1", reviewer_id="ada")
        print(decision.verdict, decision.decided_at)

    Attributes:
        sequence: The number of the entry, rising over the whole log; 0 until it is
            committed.
        version: The number of the entry among those of its task, from 1.
        decided_at: When, in UTC.
        supersedes: The sequence of the entry that no longer counts, or None.
        child_id: The task that a request for changes was queued as, or None.
    """

    sequence: int = 0
    version: int = 1
    decided_at: dt.datetime
    supersedes: int | None = None
    child_id: str | None = None

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        verdict = self.verdict.value.replace("_", " ")
        return f"Decision({verdict} by {self.reviewer_id})"

    def is_about(self, image: ImageRecord) -> bool:
        """Return whether it is about that picture of its task.

        An approval is about one picture; any other decision about all, unless it names
        one.
        """
        if self.verdict is Verdict.APPROVED:
            return image.url == self.featured_image_url
        return self.image in (None, image.name)


class DecisionRequest(Statement, frozen=True, kw_only=True):
    """A decision that somebody wants to be taken.

    The verdict is never ``undone``, and ``changes_requested`` only of tasks that were
    made elsewhere: ``Studio.request_changes`` is for others.

    Example:
        >>> DecisionRequest(
        ...     task_id="hero-1", verdict=Verdict.REJECTED, reviewer_id="ada"
        ... ).tags
        ()

    Raises:
        InvalidRequest: A value is not allowed.
    """

    expect_version: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_SEED)] | None,
        Meta(
            title="Expected version",
            description="How many decisions on the task the reviewer knows of; none "
            "does not say",
        ),
    ] = None

    def __post_init__(self) -> None:
        for name, field in DECISION_FIELDS.items():
            force_setattr(self, name, field.check(getattr(self, name)))
        if self.verdict is Verdict.UNDONE:
            allowed = "'approved', 'rejected' or 'changes_requested'"
            raise InvalidRequest("verdict", self.verdict.value, allowed)


DECISION_FIELDS = fields_of(DecisionRequest)
"""What ``DecisionRequest`` says of its fields, by their names."""
_STATED = fields_of(Statement)


class DecisionFields(TypedDict, total=False):
    """The fields of ``DecisionRequest``, for functions that take them as keywords."""

    reviewer_id: Required[str]
    feedback: str | None
    tags: Iterable[str]
    image: str | None
    featured_image_url: str | None
    expect_version: int | None


def make_decision_request(
    task_id: str, verdict: Verdict, fields: Mapping[str, Any]
) -> DecisionRequest:
    """Return the decision request of these fields.

    Raises:
        InvalidRequest: There is no field of a name, or a value is not allowed.
    """
    known = DECISION_FIELDS.items()
    check_field_names(
        fields, {name: f for name, f in known if name not in ("task_id", "verdict")}
    )
    # Whoever leaves it out is told so, rather than that an argument is missing.
    wanted = {"reviewer_id": None, **fields}
    if isinstance(wanted.get("tags"), Iterable) and not isinstance(wanted["tags"], str):
        wanted["tags"] = tuple(wanted["tags"])
    return DecisionRequest(task_id=task_id, verdict=verdict, **wanted)


def decision_of(request: DecisionRequest, **more: Any) -> Decision:
    """Return the decision that a request asks for.

    Args:
        request: What the reviewer says.
        more: The fields that a decision has beyond that, and those that it has
            otherwise than was asked.
    """
    stated = {name: getattr(request, name) for name in _STATED}
    return Decision(**{**stated, **more})


def says_the_same(decision: Decision, request: DecisionRequest) -> bool:
    """Return whether a request asks for what a decision says already.

    A field that the request leaves at its default asks for nothing.
    """
    return all(
        getattr(request, name) in (field.default, getattr(decision, name))
        for name, field in _STATED.items()
    )


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
