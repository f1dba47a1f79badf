"""Takes decisions and keeps the log of them.

Holds no state of its own: each change is one transaction of the store, so any thread
and any process may decide on the same tasks. It needs neither a queue nor a model.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nbgen.errors import NbgenError, UnknownTask
from nbgen.images import Images
from nbgen.local.outbox import Outbox
from nbgen.review.answers import decided
from nbgen.review.candidates import find_picture
from nbgen.review.changes import check_needs_no_child
from nbgen.review.content import read_metadata
from nbgen.review.quorum import Quorum
from nbgen.review.rules import (
    fold,
    reviewed,
    rule,
    rule_undo,
)
from nbgen.schema import (
    DECISION_FIELDS,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    Proposal,
    PublicationRecord,
    Review,
    Subject,
    TaskRecord,
)
from nbgen.schema.checks import (
    check_task_id,
)
from nbgen.store.decisions import DecisionStore


class Reviews:
    """Decides on tasks; see the protocol ``Deciding``.

    Args:
        decisions: The log of decisions.
        images: The picture files; an approval needs one that exists and is sound.
        outbox: Publishes what is approved; woken after each change.
        quorum: The approvals that a task needs.
        now: Returns the present time in UTC.
    """

    def __init__(
        self,
        decisions: DecisionStore,
        images: Images,
        outbox: Outbox,
        quorum: Quorum,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._decisions = decisions
        self._images = images
        self._outbox = outbox
        self._quorum = quorum
        self._now = now

    def decide(
        self, requests: Sequence[DecisionRequest], child: TaskRecord | None = None
    ) -> list[Decision | NbgenError]:
        """Take decisions in one transaction; see ``Deciding.decide``.

        Args:
            requests: What is to be decided.
            child: The task to store with the first decision, if that is new and
                requests changes.
        """
        changes, refused = [], {}
        subjects = self._decisions.get_subjects([each.task_id for each in requests])
        for index, request in enumerate(requests):
            subject = subjects[request.task_id]
            try:
                if child is None:
                    check_needs_no_child(subject, request)
                # Outside the transaction: looking for a file may take a while.
                picture = find_picture(subject, request, self._images.has)
            except NbgenError as error:
                refused[index] = error
                continue
            ruling = partial(
                rule,
                request=request,
                quorum=self._quorum,
                picture=picture,
                now=self._now(),
            )
            changes.append(Proposal(request.task_id, ruling, child))
        answers = iter(self._commit(changes))
        return [
            refused[index] if index in refused else next(answers)
            for index in range(len(requests))
        ]

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None
    ) -> Decision:
        """Take a decision back; see ``Deciding.undo``."""
        undoing = Proposal(
            check_task_id(task_id),
            partial(
                rule_undo,
                reviewer_id=DECISION_FIELDS["reviewer_id"].check(reviewer_id),
                quorum=self._quorum,
                expected=DECISION_FIELDS["expect_version"].check(expect_version),
                now=self._now(),
            ),
        )
        return unless_refused(self._commit([undoing])[0])

    def decisions(self, task_id: str | None) -> list[Decision]:
        """Return the log, oldest first: of one task, or all of it."""
        return self._decisions.list_decisions(task_id)

    def review(self, task_id: str) -> Review:
        """Return what the decisions on a task come to; see ``Deciding.review``."""
        return fold(self._known_subject(task_id).log, self._quorum)

    def decided(self, decision: Decision, *, wait_s: float) -> Decided:
        """Return what came of a decision; see ``Deciding.decided``."""
        publications = self._outbox.wait_tried(decision.task_id, wait_s)
        subject = self._known_subject(decision.task_id)
        return decided(decision, subject, publications, self._quorum)

    def put_content(
        self,
        task_id: str,
        metadata: Mapping[str, Any] | str,
        *,
        featured_image_url: str | None,
    ) -> ContentTask:
        """Register or merge a task made elsewhere; see ``Deciding.put_content``."""
        stored = self._decisions.put_content(
            check_task_id(task_id),
            read_metadata(metadata),
            DECISION_FIELDS["featured_image_url"].check(featured_image_url),
        )
        return reviewed(stored, self._quorum)

    def get_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere; see ``Deciding.get_content``."""
        content = self._decisions.get_subjects([task_id])[task_id].content
        if content is None:
            raise UnknownTask(task_id)
        return reviewed(content, self._quorum)

    def publications(self, task_id: str, *, wait_s: float) -> list[PublicationRecord]:
        """Return the publications of a task; see ``Deciding.publications``."""
        return self._outbox.wait_tried(task_id, wait_s)

    def _commit(self, changes: Sequence[Proposal]) -> list[Decision | NbgenError]:
        answers = self._decisions.decide(changes, self._outbox.names)
        self._outbox.wake()
        return answers

    def _known_subject(self, task_id: str) -> Subject:
        subject = self._decisions.get_subjects([task_id])[task_id]
        if subject.task is None and subject.content is None:
            raise UnknownTask(task_id)
        return subject


def unless_refused(answer: Decision | NbgenError) -> Decision:
    """Return the decision, or raise why it was refused."""
    if isinstance(answer, NbgenError):
        raise answer
    return answer
