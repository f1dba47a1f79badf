"""Decides in memory, and publishes what is approved.

Thread-safe: each call takes the lock of the ``MemoryBackend``, and calls publishers
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from nbgen.errors import NbgenError, StudioClosed
from nbgen.review.answers import decided
from nbgen.review.content import read_metadata
from nbgen.review.quorum import Quorum
from nbgen.review.rules import fold
from nbgen.schema import (
    DECISION_FIELDS,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    PublicationRecord,
    Review,
)
from nbgen.schema.checks import check_task_id
from nbgen.testing.memory_reviews import MemoryReviews


class MemoryDecider:
    """Takes decisions, and publishes approvals on the caller's thread.

    Args:
        reviews: Holds the decisions and publications.
        opened: Holds the lock of the backend, or raises ``StudioClosed``.
        quorum: The approvals that a task needs.
    """

    def __init__(
        self,
        reviews: MemoryReviews,
        opened: Callable[[], AbstractContextManager[None]],
        quorum: Quorum,
    ) -> None:
        self._reviews = reviews
        self._open = opened
        self._quorum = quorum

    def decide(
        self, requests: Iterable[DecisionRequest]
    ) -> list[Decision | NbgenError]:
        """Take decisions and publish approvals; see ``Deciding.decide``."""
        with self._open():
            answers = self._reviews.decide(list(requests))
        self._publish()
        return answers

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None = None
    ) -> Decision:
        """Take a decision back; see ``Deciding.undo``."""
        check_task_id(task_id)
        reviewer_id = DECISION_FIELDS["reviewer_id"].check(reviewer_id)
        expected = DECISION_FIELDS["expect_version"].check(expect_version)
        with self._open():
            decision = self._reviews.undo(task_id, reviewer_id, expected)
        self._publish()
        return decision

    def decisions(self, task_id: str | None = None) -> list[Decision]:
        """Return the log of decisions; see ``Deciding.decisions``."""
        with self._open():
            log = self._reviews.log
            return [entry for entry in log if task_id in (None, entry.task_id)]

    def review(self, task_id: str) -> Review:
        """Return what the decisions come to; see ``Deciding.review``."""
        with self._open():
            return fold(self._reviews.known_subject(task_id).log, self._quorum)

    def decided(self, decision: Decision, *, wait_s: float = 0.0) -> Decided:  # noqa: ARG002
        """Return what came of a decision; see ``Deciding.decided``."""
        with self._open():
            subject = self._reviews.known_subject(decision.task_id)
            publications = self._reviews.publications_of(decision.task_id)
            return decided(decision, subject, publications, self._quorum)

    def put_content(
        self,
        task_id: str,
        metadata: Mapping[str, Any] | str,
        *,
        featured_image_url: str | None = None,
    ) -> ContentTask:
        """Register a task made elsewhere; see ``Deciding.put_content``."""
        values = read_metadata(metadata)
        url = DECISION_FIELDS["featured_image_url"].check(featured_image_url)
        with self._open():
            self._reviews.put_content(check_task_id(task_id), values, url)
            return self._reviews.reviewed_content(task_id)

    def get_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere; see ``Deciding.get_content``."""
        with self._open():
            return self._reviews.reviewed_content(task_id)

    def publications(
        self,
        task_id: str,
        *,
        wait_s: float = 0.0,  # noqa: ARG002
    ) -> list[PublicationRecord]:
        """Return the publications of a task; see ``Deciding.publications``."""
        with self._open():
            return self._reviews.publications_of(task_id)

    def _publish(self) -> None:
        with suppress(StudioClosed):  # what was decided is decided all the same
            with self._open():
                attempts = self._reviews.attempts()
            for attempt in attempts:
                tried = attempt()
                with self._open():
                    self._reviews.settle(tried)
