"""The log of decisions in memory. Not thread-safe: ``MemoryBackend`` holds its lock.

The rules are those of ``nbgen.review``; this module only keeps what they decide.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from nbgen.errors import NbgenError, UnknownTask
from nbgen.review.candidates import find_picture
from nbgen.review.changes import check_needs_no_child
from nbgen.review.content import merge_metadata
from nbgen.review.publishers import Publication, Publisher, publication_of
from nbgen.review.quorum import Quorum
from nbgen.review.rules import reviewed, rule, rule_undo
from nbgen.schema import (
    ChangeKind,
    ContentTask,
    Decision,
    DecisionRequest,
    NewChange,
    PublicationRecord,
    PublicationState,
    Ruling,
    Subject,
    TaskRecord,
)


class MemoryReviews:
    """Decisions, tasks made elsewhere and publications, in lists and dictionaries.

    Example::

        quorum = read_quorum("any")
        reviews = MemoryReviews(tasks, pictures.has, quorum, (), now=now, tell=print)
        [decision] = reviews.decide([request])

    Args:
        tasks: The tasks by their ids; only read.
        has_picture: Returns whether a picture of that name exists.
        quorum: The approvals that a task needs.
        publishers: Publish what is approved.
        now: Returns the present time in UTC.
        tell: Appends changes to the feed.
    """

    def __init__(
        self,
        tasks: dict[str, TaskRecord],
        has_picture: Callable[[str], bool],
        quorum: Quorum,
        publishers: Sequence[Publisher],
        *,
        now: Callable[[], dt.datetime],
        tell: Callable[[list[NewChange]], None],
    ) -> None:
        self.log: list[Decision] = []
        self.content: dict[str, ContentTask] = {}
        self.publications: dict[int, PublicationRecord] = {}
        self._tasks = tasks
        self._has_picture = has_picture
        self._quorum = quorum
        self._publishers = {publisher.name: publisher for publisher in publishers}
        self._now = now
        self._tell = tell
        self._last_sequence = 0
        self._last_number = 0

    def decide(
        self, requests: Sequence[DecisionRequest], child: TaskRecord | None = None
    ) -> list[Decision | NbgenError]:
        """Take decisions in their order; the child is that of the first."""
        answers: list[Decision | NbgenError] = []
        for request in requests:
            subject = self.subject(request.task_id)
            try:
                if child is None:
                    check_needs_no_child(subject, request)
                ruling = rule(
                    subject,
                    request,
                    self._quorum,
                    picture=find_picture(subject, request, self._has_picture),
                    now=self._now(),
                )
            except NbgenError as error:
                answers.append(error)
            else:
                answers.append(self._apply(ruling, child))
        return answers

    def undo(self, task_id: str, reviewer_id: str, expected: int | None) -> Decision:
        """Take a decision back; see ``Deciding.undo``."""
        subject = self.subject(task_id)
        ruling = rule_undo(
            subject, reviewer_id, self._quorum, expected=expected, now=self._now()
        )
        return self._apply(ruling, None)

    def put_content(
        self, task_id: str, metadata: dict[str, Any], featured_image_url: str | None
    ) -> None:
        """Register a task made elsewhere, or merge what is newly known of it."""
        now = self._now()
        known = self.content.get(task_id)
        if known is None:
            known = ContentTask(
                task_id=task_id, metadata={}, created_at=now, updated_at=now
            )
        self.content[task_id] = msgspec.structs.replace(
            known,
            metadata=merge_metadata(known.metadata, metadata),
            featured_image_url=featured_image_url or known.featured_image_url,
            updated_at=now,
        )
        self._tell([NewChange(ChangeKind.CONTENT, task_id, "known")])

    def reviewed_task(self, record: TaskRecord) -> TaskRecord:
        """Return the task with its decisions and its review."""
        log = self._log_of(record.id)
        record = msgspec.structs.replace(record, decisions=log)
        return reviewed(record, self._quorum)

    def reviewed_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere; raise ``UnknownTask`` if there is none."""
        if task_id not in self.content:
            raise UnknownTask(task_id)
        log = self._log_of(task_id)
        content = msgspec.structs.replace(self.content[task_id], decisions=log)
        return reviewed(content, self._quorum)

    def subject(self, task_id: str) -> Subject:
        """Return the task and its log, as far as there are any."""
        task, content = self._tasks.get(task_id), self.content.get(task_id)
        return Subject(task_id, task, content, self._log_of(task_id))

    def known_subject(self, task_id: str) -> Subject:
        """Return the task and its log; raise ``UnknownTask`` if there is neither."""
        subject = self.subject(task_id)
        if subject.task is None and subject.content is None:
            raise UnknownTask(task_id)
        return subject

    def publications_of(self, task_id: str) -> list[PublicationRecord]:
        """Return the publications of a task, oldest first."""
        known = self.publications.values()
        return [each for each in known if each.task_id == task_id]

    def published_by(self, task_id: str) -> list[str]:
        """Return the names of the publishers that have published a task."""
        published = PublicationState.PUBLISHED
        known = self.publications_of(task_id)
        return sorted({each.publisher for each in known if each.state is published})

    def delete(self, task_id: str) -> bool:
        """Forget all about a task; return whether one was made elsewhere."""
        self.log[:] = [
            msgspec.structs.replace(entry, child_id=None)
            if entry.child_id == task_id
            else entry
            for entry in self.log
            if entry.task_id != task_id
        ]
        for record in self.publications_of(task_id):
            del self.publications[record.number]
        return self.content.pop(task_id, None) is not None

    def attempts(self) -> list[Callable[[], PublicationRecord]]:
        """Return a call for each pending publication, to be made without the lock.

        Each calls the publisher once and returns what came of it, for ``settle``.
        """
        pending = PublicationState.PENDING
        return [
            partial(self._attempt, each, self._publication(each))
            for each in self.publications.values()
            if each.state is pending and each.publisher in self._publishers
        ]

    def settle(self, tried: PublicationRecord) -> None:
        """Keep what came of an attempt, unless the publication ended meanwhile."""
        if tried.number not in self.publications:  # its task was deleted
            return
        now_is = self.publications[tried.number].state
        published = tried.state is PublicationState.PUBLISHED
        if published or now_is is PublicationState.PENDING:
            self._keep(tried)

    def _log_of(self, task_id: str) -> tuple[Decision, ...]:
        return tuple(entry for entry in self.log if entry.task_id == task_id)

    def _apply(self, ruling: Ruling, child: TaskRecord | None) -> Decision:
        if not ruling.is_new:
            return ruling.decision
        decision = msgspec.structs.replace(
            ruling.decision,
            sequence=self._last_sequence + 1,
            child_id=None if child is None else child.id,
        )
        self._last_sequence = decision.sequence
        self.log.append(decision)
        self._tell([NewChange(ChangeKind.DECISION, decision.task_id, decision.verdict)])
        if ruling.withdraws:
            for each in self.publications_of(decision.task_id):
                if each.state is PublicationState.PENDING:
                    cancelled = PublicationState.CANCELLED
                    self._keep(msgspec.structs.replace(each, state=cancelled))
        if ruling.publishes is not None:
            is_this = ruling.publishes is ruling.decision
            self._queue(decision if is_this else ruling.publishes, decision.decided_at)
        return decision

    def _queue(self, approval: Decision, at: dt.datetime) -> None:
        """Queue the publications of an approval, but those that are out already."""
        for name in self._publishers:
            known = [
                each
                for each in self.publications_of(approval.task_id)
                if each.publisher == name
            ]
            out = [e.decision for e in known if e.state is PublicationState.PUBLISHED]
            own = [e.number for e in known if e.decision == approval.sequence]
            if own and out[-1:] == [approval.sequence]:
                continue
            number = own[0] if own else self._last_number + 1
            self._last_number = max(number, self._last_number)
            self._keep(
                PublicationRecord(
                    number=number,
                    decision=approval.sequence,
                    task_id=approval.task_id,
                    publisher=name,
                    state=PublicationState.PENDING,
                    attempts=0,
                    next_at=at,
                )
            )

    def _keep(self, record: PublicationRecord) -> None:
        self.publications[record.number] = record
        kind = ChangeKind.PUBLICATION
        self._tell([NewChange(kind, record.task_id, record.state)])

    def _publication(self, record: PublicationRecord) -> Publication:
        subject = self.subject(record.task_id)
        decision = next(d for d in self.log if d.sequence == record.decision)
        return publication_of(decision, subject.task, image=None)

    def _attempt(
        self, record: PublicationRecord, publication: Publication
    ) -> PublicationRecord:
        changes: dict[str, Any] = {"attempts": record.attempts + 1}
        try:
            url = self._publishers[record.publisher].publish(publication)
        except Exception as error:  # noqa: BLE001 - whatever a publisher may raise
            changes["error"] = f"{error}" or type(error).__name__
        else:
            published = PublicationState.PUBLISHED
            changes |= {"state": published, "url": url, "error": None}
        return msgspec.structs.replace(record, **changes)
