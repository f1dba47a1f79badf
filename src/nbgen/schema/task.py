"""Tasks and batches as the store knows them. Frozen values, for any thread."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, TypedDict

import msgspec
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import MOST_LISTED, check_choice, check_int, check_text
from nbgen.schema.picture import GenerationResult
from nbgen.schema.request import GenerationRequest, describe_request
from nbgen.schema.review import ApprovalStatus, Decision


class Status(StrEnum):
    """Where a task stands: the closed set that protocol clients switch on."""

    PENDING = "pending"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether a task of this status will never change again."""
        return self in (Status.COMPLETED, Status.FAILED)


class Outcome(StrEnum):
    """How precisely an ended task ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def status(self) -> Status:
        """The protocol status of a task with this outcome."""
        return Status.COMPLETED if self is Outcome.SUCCEEDED else Status.FAILED


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task as the store knows it.

    Example::

        record = studio.get_record("hero-1")
        print(record.status, record.request.prompt)

    Attributes:
        id: The id of the task.
        parent_id: The task that a reviewer wanted changed into this one, or that this
            one is another attempt at; None for neither.
        batch_id: The batch that it belongs to; None for none.
        batch_row: Which row of the batch it is for. Of several, such as retries, the
            newest counts.
        request: The request as it was asked for.
        seed: The seed in use: the request's, or the one drawn for it.
        priority: Tasks of a higher one run first.
        attempt: How many attempts at it have begun.
        lane: The machine that made the last of them; None before the first.
        is_offered: Whether it waits from before, and runs only once it is asked for.
        status: Where the task stands.
        outcome: How it ended; None before that.
        error: Why it did not succeed; None otherwise.
        created_at: When it was submitted, in UTC.
        started_at: When the last attempt at it began, in UTC; None while it waits.
        ended_at: When it ended, in UTC; None before that.
        current_step: Sampling steps done when it ended; 0 before that.
        stages: The seconds that each stage took, of those that were over when the end
            was committed.
        step_times: The seconds that each sampling step took, to three digits, of each
            stage that samples. The first of a stage includes what comes before it.
        made_with: The checkpoint, the device and the versions of the libraries.
        result: The pictures of a task that succeeded, or those of a batch that were
            made before it failed; None otherwise.
        decisions: The log of the decisions on it, oldest first.
        decision: The decision in force; None while there is none.
        approval_status: What all decisions come to.
    """

    id: str
    parent_id: str | None = None
    batch_id: str | None = None
    batch_row: str | None = None
    request: GenerationRequest
    seed: int
    priority: int = 0
    attempt: int = 0
    lane: str | None = None
    is_offered: bool = False
    status: Status
    outcome: Outcome | None = None
    error: str | None = None
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    current_step: int = 0
    stages: dict[str, float] = {}
    step_times: dict[str, tuple[float, ...]] = {}
    made_with: dict[str, str] = {}
    result: GenerationResult | None = None
    decisions: tuple[Decision, ...] = ()
    decision: Decision | None = None
    approval_status: ApprovalStatus = ApprovalStatus.PENDING

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"TaskRecord({self.status}, {describe_request(self.request)})"

    @property
    def version(self) -> int:
        """How many decisions there are on the task."""
        return len(self.decisions)

    @property
    def took_s(self) -> float | None:
        """The seconds from its start to its end; None before both."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def end(self) -> TaskEnd:
        """How it ended; its ``outcome`` is None if it has not."""
        return TaskEnd(self.id, self.outcome, self.error, self.result)


class TaskEnd(NamedTuple):
    """How a task ended, for whoever waits for it.

    Attributes:
        task_id: The id of the task.
        outcome: How it ended; None if it has not: the studio was closed before.
        error: Why it did not succeed; None otherwise.
        result: The pictures that were made; None if there are none.
        cause: The exception that ended it, where it is still known.
    """

    task_id: str
    outcome: Outcome | None
    error: str | None = None
    result: GenerationResult | None = None
    cause: BaseException | None = None


class TaskFilters(TypedDict, total=False):
    """The filters of ``TaskQuery``, for functions that take them as keywords."""

    status: str | None
    text: str | None
    since: dt.datetime | None
    batch_id: str | None


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; see ``Studio.tasks``.

    Attributes:
        status: Only tasks of this status.
        text: Only tasks with this text in their prompt, in whatever case.
        since: Only tasks submitted at this time, which names its zone, or later.
        batch_id: Only tasks of this batch.
        limit: How many at most, 1 to 1,000.
        cursor: The ``next_cursor`` of the page before.

    Raises:
        InvalidRequest: A value is not allowed.
    """

    status: Status | None = None
    text: str | None = None
    since: dt.datetime | None = None
    batch_id: str | None = None
    limit: int = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            force_setattr(self, "status", check_choice("status", self.status, Status))
        if self.text is not None:
            force_setattr(self, "text", check_text("text", self.text))
        since: object = self.since
        if since is not None and (
            not isinstance(since, dt.datetime) or since.tzinfo is None
        ):
            raise InvalidRequest("since", str(since), "a datetime with its time zone")
        batch_id: object = self.batch_id
        if batch_id is not None and not isinstance(batch_id, str):
            allowed = "the id of a batch, such as that of batch.id"
            raise InvalidRequest("batch_id", batch_id, allowed)
        force_setattr(self, "limit", check_int("limit", self.limit, 1, MOST_LISTED))


def make_query(
    filters: Mapping[str, Any], *, limit: int = 100, cursor: str | None = None
) -> TaskQuery:
    """Return the query of these filters.

    Raises:
        InvalidRequest: There is no filter of a name, or a value is not allowed.
    """
    known = TaskFilters.__annotations__
    for name in filters:
        if name not in known:
            allowed = f"one of {', '.join(known)}"
            raise InvalidRequest("the name of a filter", name, allowed)
    return TaskQuery(**filters, limit=limit, cursor=cursor)


class BatchRow(NamedTuple):
    """Where one row of a batch stands.

    Attributes:
        name: Which row.
        task_id: The newest task for it.
        status: Where that stands.
        outcome: How it ended; None before that.
        error: Why it did not succeed; None otherwise.
        took_s: Seconds from its start to its end; None before that.
        ended_at: When it ended, in UTC; None before that.
        number: The place of the task in the order of submission.
    """

    name: str
    task_id: str
    status: Status
    outcome: Outcome | None
    error: str | None
    took_s: float | None
    ended_at: dt.datetime | None
    number: int

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"BatchRow({self.name!r}, {self.outcome or self.status})"

    @property
    def is_missing(self) -> bool:
        """Whether its newest task ended without all of its pictures."""
        return self.outcome not in (None, Outcome.SUCCEEDED)


class TaskPage(list[TaskRecord]):
    """Some of the tasks, newest first.

    Attributes:
        next_cursor: Where the next page begins; None on the last.
    """

    def __init__(
        self, records: Iterable[TaskRecord] = (), next_cursor: str | None = None
    ) -> None:
        super().__init__(records)
        self.next_cursor = next_cursor


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Attributes:
        batch_id: The id of the batch.
        total: How many rows it has; those below add up to it.
        pending: Rows whose task waits.
        generating: Rows whose task runs.
        succeeded: Rows whose pictures are there.
        failed: Rows whose task failed.
        cancelled: Rows whose task was cancelled.
        lost: Rows whose process died.
        percentage: 0 to 100, of rows, with the share of those under way; 100 only
            when all have ended.
        estimated_remaining: Seconds until all have ended, from how long the last of
            this batch took that succeeded; 0.0 while that is not known.
        remaining_known: Whether it is.
    """

    batch_id: str
    total: int
    pending: int
    generating: int
    succeeded: int
    failed: int
    cancelled: int
    lost: int
    percentage: float
    estimated_remaining: float
    remaining_known: bool

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds neither the id nor a time.
        counts = {
            "pending": self.pending,
            "generating": self.generating,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "lost": self.lost,
        }
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"BatchProgress({counted_rows(self.total)}{told and ': '}{told})"

    @property
    def ended(self) -> bool:
        """Whether nothing waits or runs any more."""
        return not self.pending and not self.generating


def counted_rows(count: int) -> str:
    """Return a number of rows with its noun: "1 row", "2 rows"."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"
