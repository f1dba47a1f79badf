"""The protocol of what takes decisions; see ``nbgen.backend``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from nbgen.errors import NbgenError
from nbgen.schema import (
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    PublicationRecord,
    Review,
    TaskRecord,
)


class Deciding(Protocol):
    """Takes decisions, keeps their log, and publishes what is approved."""

    def decide(
        self, requests: Iterable[DecisionRequest]
    ) -> list[Decision | NbgenError]:
        """Take decisions in one transaction.

        Returns:
            For each request, in their order, the decision that stands, or why it was
            refused. A refusal does not keep the others from being taken.
        """

    def request_changes(
        self, request: DecisionRequest, *, prompt: str | None
    ) -> TaskRecord | None:
        """Send a task back and queue it again as its child, in one transaction.

        Args:
            request: The decision, with the verdict ``changes_requested``.
            prompt: The prompt of the child, which keeps the seed in use; None keeps the
                prompt and draws another seed.

        Returns:
            The child; the same one if the same was asked before. None for a task that
            was made elsewhere, or if that child was deleted.

        Raises:
            UnknownTask: There is no such task.
            DecisionConflict: It cannot be decided so now.
            QueueFull: Too many tasks wait; nothing was decided.
        """

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None = None
    ) -> Decision:
        """Take a decision back: the reviewer's own or, knowingly, somebody else's.

        It counts as never taken, so the decision that it had overruled counts again.
        Publications of an approval that are not out yet are cancelled; published
        pictures stay published.

        Args:
            task_id: The task.
            reviewer_id: Who undoes.
            expect_version: How many decisions on the task the reviewer knows of. With
                it, the last decision that counts is undone where none of the
                reviewer's own does.

        Returns:
            The entry of the log, which supersedes the decision.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: There is nothing to undo, or somebody decided meanwhile.
        """

    def decisions(self, task_id: str | None = None) -> list[Decision]:
        """Return the log of decisions, oldest first: of one task, or all of it."""

    def review(self, task_id: str) -> Review:
        """Return what the decisions on a task come to.

        Raises:
            UnknownTask: There is no such task.
        """

    def decided(self, decision: Decision, *, wait_s: float = 0.0) -> Decided:
        """Return what came of a decision: its review, publications and a sentence.

        Args:
            decision: An entry of the log.
            wait_s: How long to wait, in seconds, for each publication to be tried.

        Raises:
            UnknownTask: There is no such task.
        """

    def put_content(
        self,
        task_id: str,
        metadata: Mapping[str, Any] | str,
        *,
        featured_image_url: str | None = None,
    ) -> ContentTask:
        """Register a task made elsewhere, or merge what is newly known of it.

        Args:
            task_id: The id of the task.
            metadata: What its makers know of it: an object, or one as JSON text.
                Objects are merged with what is known, other values take its place, and
                what is not mentioned stays.
            featured_image_url: Its own picture; None leaves it as it is.

        Raises:
            InvalidRequest: A value is not allowed.
        """

    def get_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere.

        Raises:
            UnknownTask: There is no such task.
        """

    def publications(
        self, task_id: str, *, wait_s: float = 0.0
    ) -> list[PublicationRecord]:
        """Return the publications of a task, oldest first.

        Args:
            task_id: The task.
            wait_s: How long to wait, in seconds, for each to be tried once.
        """
