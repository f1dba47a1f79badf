"""The queue, and the attempts at a task. Frozen values, for any thread."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec

from nbgen.schema.picture import GenerationResult
from nbgen.schema.request import GenerationRequest, describe_request
from nbgen.schema.task import TaskRecord

MOST_DEATHS = 3
"""How many attempts at a task may end with their process; the last fails the task."""


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a queue stands.

    Attributes:
        name: The name of the queue.
        is_paused: Whether it starts no further task.
        has_runner: Whether a process has the turn at running its tasks.
        waiting: How many tasks wait to be run.
        running: How many tasks run, or ran in a process that has died since.
        offered: How many tasks wait from before, to be run or cancelled by a person.
    """

    name: str
    is_paused: bool = False
    has_runner: bool = False
    waiting: int = 0
    running: int = 0
    offered: int = 0

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"QueueState({self.name!r})"


class AttemptOutcome(StrEnum):
    """How an attempt at a task ended.

    ``LOST`` is an attempt that ended with its process; ``GIVEN_BACK``, one that an
    orderly stop ended.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    GIVEN_BACK = "given_back"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a task.

    Attributes:
        number: Its number among the attempts at the task, from 1.
        request: What was to be made.
        seed: The seed of the first picture.
        lane: The machine that worked on it; None where that is not known.
        started_at: When the work began, in UTC.
        ended_at: When it ended, in UTC; None while it runs.
        outcome: How it ended; None while it runs.
        error: Why it did not succeed; None otherwise.
        result: The pictures that were made; None if there are none.
    """

    number: int
    request: GenerationRequest
    seed: int
    lane: str | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    outcome: AttemptOutcome | None = None
    error: str | None = None
    result: GenerationResult | None = None

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        how = self.outcome or "running"
        return f"Attempt({self.number}, {how}, {describe_request(self.request)})"


def present_attempt(record: TaskRecord) -> list[Attempt]:
    """Return the attempt that the record of a task is of; none while the task waits."""
    if record.started_at is None:
        return []
    return [
        Attempt(
            number=record.attempt,
            request=record.request,
            seed=record.seed,
            lane=record.lane,
            started_at=record.started_at,
            ended_at=record.ended_at,
            outcome=None if record.outcome is None else AttemptOutcome(record.outcome),
            error=record.error,
            result=record.result,
        )
    ]
