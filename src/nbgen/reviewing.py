"""The half of the studio that decides and publishes.

Thread-safety: every method may be called from any thread, and several processes may
decide on the same tasks; each decision is one transaction of the store.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from nbgen.errors import DecisionConflict, InvalidRequest, NbgenError, UnknownTask
from nbgen.handles.task import Task
from nbgen.keeping import Keeping
from nbgen.local.outbox import Outbox
from nbgen.review.rules import describe, find_picture, is_generated, rule, rule_undo
from nbgen.schema import (
    Change,
    ContentTask,
    Decision,
    DecisionRequest,
    GenerationRequest,
    PublicationRecord,
    Review,
    Subject,
    TaskRecord,
    Verdict,
)
from nbgen.schema.checks import (
    check_featured_url,
    check_reviewer_id,
    check_task_id,
    check_version,
)


class Reviewing(Keeping):
    """Decides on tasks; ``Studio`` is one, and says where everything is."""

    _publishing: Outbox

    def approve(
        self,
        task_id: str,
        *,
        reviewer_id: str,
        feedback: str | None = None,
        featured_image_url: str | None = None,
        image: str | None = None,
        tags: Iterable[str] = (),
        expect_version: int | None = None,
    ) -> Decision:
        """Approve a task; the same again returns the decision that stands.

        Args:
            task_id: The task.
            reviewer_id: Who decides, 1 to 200 characters.
            feedback: What the reviewer says, up to 10,000 characters.
            featured_image_url: The picture that is meant; None takes what was approved
                already, looks for it in the task's metadata, then takes the first that
                was generated.
            image: The name of the picture that is meant, of a task with several.
            tags: Words that sort the decision.
            expect_version: How many decisions on the task the reviewer knows of
                (``version`` of its record). With it, a decision of somebody else that
                is known may be overruled, and one that is not known is a conflict.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: It awaits no decision, was decided otherwise, or by
                somebody else meanwhile.
            FeaturedImageMissing: Its pictures are gone.
        """
        return self.decide(
            task_id,
            Verdict.APPROVED,
            reviewer_id=reviewer_id,
            feedback=feedback,
            featured_image_url=featured_image_url,
            image=image,
            tags=tuple(tags),
            expect_version=expect_version,
        )

    def reject(
        self,
        task_id: str,
        *,
        reviewer_id: str,
        feedback: str | None = None,
        image: str | None = None,
        tags: Iterable[str] = (),
        expect_version: int | None = None,
    ) -> Decision:
        """Reject a task; see ``approve``. The ``feedback`` is the reason.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: It awaits no decision, was decided otherwise, or by
                somebody else meanwhile.
        """
        return self.decide(
            task_id,
            Verdict.REJECTED,
            reviewer_id=reviewer_id,
            feedback=feedback,
            image=image,
            tags=tuple(tags),
            expect_version=expect_version,
        )

    def request_changes(
        self,
        task_id: str,
        *,
        reviewer_id: str,
        feedback: str,
        prompt: str | None = None,
        expect_version: int | None = None,
    ) -> Task | None:
        """Send a task back, and queue it again as a new task, its child.

        Args:
            task_id: The task.
            reviewer_id: Who decides.
            feedback: What should change.
            prompt: The prompt of the new task, which keeps the seed in use; None keeps
                the prompt and draws another seed.
            expect_version: See ``approve``.

        Returns:
            The new task, or, asked again, the one that there is; None where there is
            none, since the task was made elsewhere and is to be changed there.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: See ``approve``.
            DataFolderInUse: Another process runs the tasks of the data folder.
            QueueFull: Too many tasks wait; nothing was decided.
            StudioClosed: The studio is closed.
        """
        request = DecisionRequest(
            task_id=task_id,
            verdict=Verdict.CHANGES_REQUESTED,
            reviewer_id=reviewer_id,
            feedback=feedback,
            expect_version=expect_version,
        )
        if request.feedback is None:
            raise InvalidRequest("feedback", feedback, "what should change")
        parent = self._store.tasks.get_task(task_id)
        if parent is None:
            _unless_error(self.decide_many([request])[0])
            return None
        changed: dict[str, Any] = {"prompt": prompt, "seed": parent.seed}
        if prompt is None:
            changed = {"seed": None}
        wanted = msgspec.structs.replace(parent.request, **changed)
        child = self._submit_child(
            parent.id,
            wanted,
            lambda child: _unless_error(self._decide([request], child)[0]),
        )
        if child is None or prompt is None or child.request.prompt == wanted.prompt:
            return child
        raise DecisionConflict(
            task_id,
            f"Changes to task {task_id!r} were requested already, with the prompt of "
            f"task {child.id!r}. Undo that to request others.",
        )

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None = None
    ) -> Decision:
        """Take a decision back: the reviewer's own or, knowingly, somebody else's.

        It counts as never taken: what it had overruled counts again. Publications of an
        approval that are not out yet are cancelled; those that are stay where they are.

        Args:
            task_id: The task.
            reviewer_id: Who undoes.
            expect_version: How many decisions on the task the reviewer knows of; with
                it, the last that counts is undone where none of the reviewer's own
                does.

        Returns:
            The entry in the log, which supersedes the decision.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: There is no decision to undo, only somebody else's, or
                somebody decided meanwhile.
        """
        undoing = Change(
            check_task_id(task_id),
            partial(
                rule_undo,
                reviewer_id=check_reviewer_id(reviewer_id),
                quorum=self._quorum,
                expected=check_version(expect_version),
                now=dt.datetime.now(dt.UTC),
            ),
        )
        answers = self._store.decisions.decide([undoing], self._publishing.names)
        self._publishing.wake()
        return _unless_error(answers[0])

    def decide(
        self,
        task_id: str,
        verdict: Verdict,
        *,
        reviewer_id: str,
        feedback: str | None = None,
        featured_image_url: str | None = None,
        image: str | None = None,
        tags: tuple[str, ...] = (),
        expect_version: int | None = None,
    ) -> Decision:
        """Approve, reject or send back; see ``approve`` and ``reject``."""
        request = DecisionRequest(
            task_id=task_id,
            verdict=verdict,
            reviewer_id=reviewer_id,
            feedback=feedback,
            featured_image_url=featured_image_url,
            image=image,
            tags=tags,
            expect_version=expect_version,
        )
        return _unless_error(self.decide_many([request])[0])

    def decide_many(
        self, requests: Iterable[DecisionRequest]
    ) -> list[Decision | NbgenError]:
        """Take many decisions in one transaction.

        Those that cannot be taken do not keep the others from being taken.

        Returns:
            For each request, in their order, the decision or why it was refused.
        """
        return self._decide(list(requests))

    def decisions(self, task_id: str | None = None) -> list[Decision]:
        """Return the log of decisions, oldest first: of one task, or all of it."""
        return self._store.decisions.list_decisions(task_id)

    def review(self, task_id: str) -> Review:
        """Return what the decisions on a task come to.

        Raises:
            UnknownTask: There is no such task.
        """
        return self._review(self._known_subject(task_id).log)

    def describe(self, decision: Decision) -> str:
        """Return what came of a decision, in a sentence or two.

        Raises:
            UnknownTask: There is no such task.
        """
        subject = self._known_subject(decision.task_id)
        review = self._review(subject.log)
        return describe(decision, review, generated=is_generated(subject))

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
        stored = self._store.decisions.put_content(
            check_task_id(task_id),
            _check_metadata(metadata),
            check_featured_url(featured_image_url),
        )
        return self._reviewed(stored)

    def get_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere.

        Raises:
            UnknownTask: There is no such task.
        """
        content = self._store.decisions.get_subjects([task_id])[task_id].content
        if content is None:
            raise UnknownTask(task_id)
        return self._reviewed(content)

    def publications(
        self, task_id: str, *, wait_s: float = 0.0
    ) -> list[PublicationRecord]:
        """Return how far the approvals of a task have come, oldest first.

        Args:
            task_id: The task.
            wait_s: How long to wait, at most, for each to be tried once.
        """
        return self._publishing.wait_tried(task_id, wait_s)

    def _submit_child(
        self,
        parent_id: str,
        request: GenerationRequest,
        commit: Callable[[TaskRecord], Decision],
    ) -> Task | None:
        """Queue the child that ``commit`` commits, or return the one there is."""
        raise NotImplementedError

    def _decide(
        self, requests: list[DecisionRequest], child: TaskRecord | None = None
    ) -> list[Decision | NbgenError]:
        """Commit decisions, the first of them with a child."""
        changes, refused = [], {}
        subjects = self._store.decisions.get_subjects(
            [request.task_id for request in requests]
        )
        for index, request in enumerate(requests):
            subject = subjects[request.task_id]
            try:
                if child is None:
                    _check_needs_no_child(subject, request)
                # Outside the transaction: looking for a file may take a while.
                picture = find_picture(subject, request, self._images.has)
            except NbgenError as error:
                refused[index] = error
                continue
            decided = partial(
                rule,
                request=request,
                quorum=self._quorum,
                picture=picture,
                now=dt.datetime.now(dt.UTC),
            )
            changes.append(Change(request.task_id, decided, child))
        answers = iter(self._store.decisions.decide(changes, self._publishing.names))
        self._publishing.wake()
        return [
            refused[index] if index in refused else next(answers)
            for index in range(len(requests))
        ]

    def _known_subject(self, task_id: str) -> Subject:
        subject = self._store.decisions.get_subjects([task_id])[task_id]
        if subject.task is None and subject.content is None:
            raise UnknownTask(task_id)
        return subject


def _unless_error(answer: Decision | NbgenError) -> Decision:
    if isinstance(answer, NbgenError):
        raise answer
    return answer


def _check_needs_no_child(subject: Subject, request: DecisionRequest) -> None:
    if request.verdict is Verdict.CHANGES_REQUESTED and is_generated(subject):
        allowed = "'approved' or 'rejected'; request_changes asks for changes"
        raise InvalidRequest("verdict", request.verdict.value, allowed)


def _check_metadata(metadata: object) -> dict[str, Any]:
    value = metadata
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise InvalidRequest("metadata", metadata, "an object, or one as JSON text")
    try:
        # Also a copy: what the caller does to its own afterwards is not our concern.
        copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        allowed = f"an object of JSON values ({error})"
        raise InvalidRequest("metadata", "an object", allowed) from error
    return copied
