"""The bodies of the HTTP API of review: docs/protocol.md describes them.

One struct for each body, encoded by one end and decoded by the other. The ``read``
functions take what a client sent and raise ``InvalidRequest`` with the field as the
wire calls it. Nothing here does I/O; all values are frozen, so any thread may hold
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import msgspec

from nbgen.errors import InvalidRequest, NbgenError
from nbgen.schema import (
    DECISION_FIELDS,
    ApprovalStatus,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    PublicationRecord,
    Verdict,
)
from nbgen.schema.checks import check_flag, check_task_id
from nbgen.wire.errors import ErrorBody, error_from_wire, error_status, error_to_wire

_LONGEST_BULK = 500
_WIRE_NAMES = {"feedback": "human_feedback", "metadata": "task_metadata"}
"""What version 1 calls fields of decisions and of tasks made elsewhere."""


class PutContentBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``PUT /api/content/tasks/{id}``.

    Attributes:
        task_metadata: What is known of the task: an object, or one as JSON text.
        featured_image_url: Its own picture; None keeps the one that it has.
    """

    task_metadata: dict[str, Any] | str = {}
    featured_image_url: str | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Return what a client sent; the studio checks the values."""
        known = {name: body[name] for name in cls.__struct_fields__ if name in body}
        return cls(**known)


class ContentBody(ContentTask, frozen=True, kw_only=True):
    """A task made elsewhere, with all that is known of it.

    Attributes:
        version: How many decisions there are on the task.
        publications: How far its approvals have come.
    """

    metadata: dict[str, Any] = msgspec.field(name="task_metadata")
    version: int
    publications: tuple[PublicationRecord, ...]

    @classmethod
    def of(
        cls, content: ContentTask, publications: tuple[PublicationRecord, ...]
    ) -> Self:
        """Return the body of a task."""
        return cls(
            **{name: getattr(content, name) for name in ContentTask.__struct_fields__},
            version=content.version,
            publications=publications,
        )

    @property
    def content(self) -> ContentTask:
        """The task."""
        fields = ContentTask.__struct_fields__
        return ContentTask(**{name: getattr(self, name) for name in fields})


class DecideBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of ``POST /api/content/tasks/{id}/approve``.

    Attributes:
        approved: True approves, false rejects; None only with ``undo``.
        undo: Whether to take a decision back.
        task_id: The task; only among many decisions.

    ``DecisionRequest`` says what the others mean; ``human_feedback`` is its feedback.
    """

    approved: bool | None = None
    reviewer_id: str
    human_feedback: str | None = None
    tags: tuple[str, ...] = ()
    image: str | None = None
    featured_image_url: str | None = None
    expect_version: int | None = None
    undo: bool = False
    task_id: str | None = None

    @classmethod
    def read(cls, body: object) -> Self:
        """Return what a client sent; ``request`` and the studio check the other values.

        Raises:
            InvalidRequest: The body is no object, or ``undo``, ``approved`` or
                ``reviewer_id`` is not allowed.
        """
        if not isinstance(body, dict):
            raise InvalidRequest("decisions", body, "a list of JSON objects")
        known = {name: body[name] for name in cls.__struct_fields__ if name in body}
        if not check_flag("undo", known.get("undo", False)):
            check_flag("approved", known.get("approved"))
        reviewer_id = DECISION_FIELDS["reviewer_id"].check(
            known.pop("reviewer_id", None)
        )
        return cls(reviewer_id=reviewer_id, **known)

    @classmethod
    def of(cls, request: DecisionRequest) -> Self:
        """Return the body that asks for a decision.

        Raises:
            InvalidRequest: The verdict is neither ``approved`` nor ``rejected``.
        """
        if request.verdict not in (Verdict.APPROVED, Verdict.REJECTED):
            raise InvalidRequest(
                "verdict", request.verdict.value, "'approved' or 'rejected' over HTTP"
            )
        fields: dict[str, Any] = {
            _on_wire(name): getattr(request, name)
            for name in DECISION_FIELDS
            if name != "verdict"
        }
        return cls(approved=request.verdict is Verdict.APPROVED, **fields)

    def request(self, task_id: str | None) -> DecisionRequest:
        """Return the decision that is asked for on a task.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        approved = check_flag("approved", self.approved)
        if self.undo:
            allowed = "left out or false where a decision is taken"
            raise InvalidRequest("undo", self.undo, allowed)
        fields: dict[str, Any] = {
            name: getattr(self, _on_wire(name))
            for name in DECISION_FIELDS
            if name not in ("task_id", "verdict")
        }
        try:
            return DecisionRequest(
                task_id="" if task_id is None else task_id,
                verdict=Verdict.APPROVED if approved else Verdict.REJECTED,
                **fields,
            )
        except InvalidRequest as error:
            raise as_on_wire(error) from None


class DecisionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a decision.

    Attributes:
        task_id: The task.
        approval_status: What all decisions on it come to.
        featured_image_url: The picture that the decision stands for, or None.
        published_url: Where the first publisher put it; None while it is not there.
        approval_timestamp: When it was decided.
        reviewer_id: Who decided.
        message: What came of it, for a person.
        version: How many decisions there are on the task.
        decision: The entry of the log.
    """

    task_id: str
    approval_status: ApprovalStatus
    featured_image_url: str | None
    published_url: str | None
    approval_timestamp: str
    reviewer_id: str
    message: str
    version: int
    decision: Decision

    @classmethod
    def of(cls, decided: Decided) -> Self:
        """Return the answer."""
        decision = decided.decision
        urls = (record.url for record in decided.publications)
        return cls(
            task_id=decision.task_id,
            approval_status=decided.review.status,
            featured_image_url=decision.featured_image_url,
            published_url=next((url for url in urls if url is not None), None),
            # Clients of version 1 get the offset in digits, not as a Z.
            approval_timestamp=decision.decided_at.isoformat(),
            reviewer_id=decision.reviewer_id,
            message=decided.message,
            version=decided.review.version,
            decision=decision,
        )


def read_bulk(body: Mapping[str, Any]) -> list[DecisionRequest | BulkRefused]:
    """Return what a client sent: each decision, or why it cannot be taken.

    Raises:
        InvalidRequest: There are no decisions, or too many.
    """
    items = body.get("decisions")
    if not isinstance(items, list) or not 1 <= len(items) <= _LONGEST_BULK:
        allowed = f"a list of 1 to {_LONGEST_BULK} decisions"
        raise InvalidRequest("decisions", items, allowed)
    return [_read_item(item) for item in items]


class BulkDecided(DecisionAnswer, frozen=True, kw_only=True):
    """One decision of many that was taken."""

    status: int = 200


class BulkRefused(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of many that was not taken.

    Attributes:
        task_id: The task; None if none was named.
        status: The HTTP status that it would have had alone.
        error: Why it was not taken.
    """

    task_id: str | None
    status: int
    error: ErrorBody

    @classmethod
    def of(cls, error: NbgenError, task_id: str | None) -> Self:
        """Return the result for an error."""
        return cls(
            task_id=task_id, status=error_status(error), error=error_to_wire(error)
        )


class BulkAnswer(msgspec.Struct, frozen=True):
    """The results of many decisions, in their order."""

    results: list[BulkDecided | BulkRefused]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the answer that was sent.

        Raises:
            msgspec.MsgspecError: It is none.
        """
        sent = msgspec.json.decode(data, type=dict[str, list[dict[str, Any]]])
        return cls(
            [
                msgspec.convert(item, BulkRefused)
                if "error" in item
                else msgspec.convert(item, BulkDecided)
                for item in sent["results"]
            ]
        )

    @property
    def answers(self) -> list[Decision | NbgenError]:
        """Each decision, or the error that kept it from being taken."""
        return [
            error_from_wire(result.error)
            if isinstance(result, BulkRefused)
            else result.decision
            for result in self.results
        ]


def as_on_wire(error: InvalidRequest) -> InvalidRequest:
    """Return the error with its field called as version 1 of the wire calls it.

    For decisions and tasks made elsewhere only.
    """
    return error.renamed(_on_wire(error.field))


def _on_wire(name: str) -> str:
    return _WIRE_NAMES.get(name, name)


def _read_item(item: object) -> DecisionRequest | BulkRefused:
    try:
        body = DecideBody.read(item)
        return body.request(body.task_id)
    except InvalidRequest as error:
        return BulkRefused.of(error, _named_task(item))


def _named_task(item: object) -> str | None:
    """Return the id that an item names, if it can be one."""
    with suppress(InvalidRequest):
        return check_task_id(item.get("task_id")) if isinstance(item, dict) else None
    return None
