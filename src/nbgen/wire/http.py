"""The bodies of the HTTP API: docs/protocol.md describes them.

One struct for each body, encoded by one end and decoded by the other. The ``read``
methods take what a client sent and raise ``InvalidRequest`` with the field as the wire
calls it; other bodies are decoded with ``msgspec.json.decode(data, type=…)``. Nothing
here does I/O; all values are frozen, so any thread may hold them.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, Self

import msgspec

from nbgen.errors import InvalidRequest, NbgenError
from nbgen.schema import (
    PICTURE_FIELDS,
    Attempt,
    GenerationRequest,
    GenerationResult,
    ModelFacts,
    PublicationRecord,
    QueueState,
    Status,
    TaskPage,
    TaskQuery,
    TaskRecord,
    done_message,
)
from nbgen.schema.checks import check_flag, check_priority, check_task_id
from nbgen.wire.errors import ErrorBody, error_to_wire

_LONGEST_NUMBER = 18
"""Python refuses to read thousands of digits."""


_FLAGS = ("replace", "wait", "use_generation", "high_quality")


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorBody

    @classmethod
    def of(cls, error: NbgenError) -> Self:
        """Return the body for an error."""
        return cls(error_to_wire(error))


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses that belong to a task, on the server that sent them."""

    self_: str = msgspec.field(name="self")
    cancel: str
    retry: str
    history: str
    progress: str

    @classmethod
    def of(cls, task_id: str) -> Self:
        """Return the addresses of a task."""
        return cls(
            self_=f"/api/tasks/{task_id}",
            cancel=f"/api/tasks/{task_id}/cancel",
            retry=f"/api/tasks/{task_id}/retry",
            history=f"/api/tasks/{task_id}/history",
            progress=f"/ws/image-generation/{task_id}",
        )


class GenerateBody(GenerationRequest, frozen=True, kw_only=True):
    """The body of ``POST /api/media/generate``: a request, and how to answer it.

    Attributes:
        task_id: The id of the task; None draws one.
        replace: Whether an ended task of that id is made anew with this request.
        wait: Whether to answer only when the task has ended.
        use_generation: False makes nothing.
        high_quality: Accepted from older clients, without a meaning.
    """

    task_id: str | None = None
    replace: bool = False
    wait: bool = True
    use_generation: bool = True
    high_quality: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags({flag: getattr(self, flag) for flag in _FLAGS})
        if self.use_generation and self.task_id is not None:
            check_task_id(self.task_id)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Return what a client sent.

        Other fields belong to other services that take this body; they are ignored.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        known = {name: body[name] for name in cls.__struct_fields__ if name in body}
        return cls(**{"prompt": None, **known})

    @classmethod
    def of(
        cls, request: GenerationRequest, *, task_id: str | None = None, wait: bool
    ) -> Self:
        """Return the body that asks for a request."""
        fields = _fields_of(request, GenerationRequest)
        return cls(**fields, task_id=task_id, wait=wait)

    @property
    def request(self) -> GenerationRequest:
        """What to make."""
        return GenerationRequest(**_fields_of(self, GenerationRequest))


def check_flags(body: Mapping[str, Any]) -> None:
    """Check what a generate body says of how to answer it, before anything is kept.

    Raises:
        InvalidRequest: One is neither true nor false.
    """
    for flag in _FLAGS:
        if flag in body:
            check_flag(flag, body[flag])


def sent_pictures(body: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the pictures that a generate body has as ``data:`` URLs, by field.

    Raises:
        InvalidRequest: A ``data:`` URL is not in base64.
    """
    return {
        field: _data_of_url(field, body[field])
        for field in PICTURE_FIELDS
        if isinstance(body.get(field), str) and body[field].startswith("data:")
    }


class AcceptedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a generate body that does not wait."""

    task_id: str
    status: Status
    links: Links


class PictureBody(msgspec.Struct, frozen=True, kw_only=True):
    """The first picture of a task."""

    url: str
    source: Literal["sdxl"] = "sdxl"
    width: int
    height: int


class GenerateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a generate body that waits.

    Attributes:
        success: Whether there is a picture.
        image_url: Its address; empty if there is none.
        image: The first picture; None if there is none.
        message: What came of it, for a person.
        generation_time: Seconds from the start of the work to the saved files.
        task_id: The id of the task; None if none was made.
    """

    success: bool
    image_url: str = ""
    image: PictureBody | None = None
    message: str
    generation_time: float = 0.0
    task_id: str | None

    @classmethod
    def of(cls, result: GenerationResult, task_id: str) -> Self:
        """Return the answer for a task that succeeded."""
        first = result.images[0]
        return cls(
            success=True,
            image_url=first.url,
            image=PictureBody(url=first.url, width=first.width, height=first.height),
            message=done_message(result),
            generation_time=result.generation_time,
            task_id=task_id,
        )


class TaskBody(TaskRecord, frozen=True, kw_only=True):
    """A task, with all that is known of it.

    Attributes:
        version: How many decisions there are on the task.
        links: Its addresses.
        publications: How far its approvals have come; only in the body of one task.
    """

    id: str = msgspec.field(name="task_id")
    version: int
    links: Links
    publications: tuple[PublicationRecord, ...] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(
        cls,
        record: TaskRecord,
        publications: tuple[PublicationRecord, ...] | msgspec.UnsetType = msgspec.UNSET,
    ) -> Self:
        """Return the body of a task."""
        return cls(
            **_fields_of(record, TaskRecord),
            version=record.version,
            links=Links.of(record.id),
            publications=publications,
        )

    @property
    def record(self) -> TaskRecord:
        """The task."""
        return TaskRecord(**_fields_of(self, TaskRecord))


class TaskPageBody(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the tasks, newest first, and where the next page begins."""

    tasks: tuple[TaskBody, ...]
    next_cursor: str | None

    @classmethod
    def of(cls, page: TaskPage) -> Self:
        """Return the body of a page."""
        return cls(
            tasks=tuple(TaskBody.of(record) for record in page),
            next_cursor=page.next_cursor,
        )

    @property
    def page(self) -> TaskPage:
        """The page."""
        return TaskPage((body.record for body in self.tasks), self.next_cursor)


class HistoryBody(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts at a task, the first one first; none before the first."""

    task_id: str
    attempts: tuple[Attempt, ...]


class QueueBody(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, with the ids of the tasks in it.

    Attributes:
        name: The name of the queue.
        is_paused: Whether it starts no further task.
        has_runner: Whether a process has the turn at running its tasks.
        running: The tasks that run, or ran in a process that has died since.
        waiting: The tasks that wait to be run, the next one first.
        offered: The tasks that wait from before, to be run or cancelled by a person.
    """

    name: str
    is_paused: bool
    has_runner: bool
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    offered: tuple[str, ...]

    @classmethod
    def of(
        cls,
        state: QueueState,
        running: Iterable[str],
        waiting: Iterable[str],
        offered: Iterable[str],
    ) -> Self:
        """Return the body of a queue."""
        return cls(
            name=state.name,
            is_paused=state.is_paused,
            has_runner=state.has_runner,
            running=tuple(running),
            waiting=tuple(waiting),
            offered=tuple(offered),
        )


def read_priority(body: Mapping[str, Any]) -> int:
    """Return the priority in the body of ``POST /api/tasks/{id}/priority``.

    Raises:
        InvalidRequest: It is missing, or not allowed.
    """
    return check_priority(body.get("priority"))


def read_task_query(arguments: Mapping[str, str]) -> TaskQuery:
    """Return which tasks the arguments of ``GET /api/tasks`` ask for.

    Raises:
        InvalidRequest: A value is not allowed.
    """
    fields: dict[str, Any] = {
        name: arguments[name]
        for name in TaskQuery.__struct_fields__
        if name in arguments
    }
    limit = fields.get("limit", "")
    if limit.isdecimal() and len(limit) <= _LONGEST_NUMBER:
        fields["limit"] = int(limit)
    if "since" in fields:
        fields["since"] = _read_time("since", fields["since"])
    return TaskQuery(**fields)


def read_flag(name: str, value: str) -> bool:
    """Return whether an argument of an address is true.

    Raises:
        InvalidRequest: It is neither ``true`` nor ``false``.
    """
    if value not in ("true", "false"):
        raise InvalidRequest(name, value, "true or false")
    return value == "true"


class ModelBody(msgspec.Struct, frozen=True):
    """The model that the server draws with; None where nothing is known of it."""

    model: ModelFacts | None


class HealthBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the server can read its store.

    Attributes:
        status: Whether it can.
        message: Why it cannot, for a person; None if it can.
    """

    status: Literal["healthy", "unhealthy"]
    message: str | None = None


def _fields_of(value: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in kind.__struct_fields__}


def _data_of_url(field: str, url: str) -> bytes:
    head, comma, text = url.partition(",")
    if comma and head.endswith(";base64"):
        with suppress(ValueError):
            return base64.b64decode(text, validate=True)
    allowed = "a name, an /images/ URL or a data: URL in base64"
    raise InvalidRequest(field, url, allowed)


def _read_time(field: str, value: str) -> dt.datetime:
    try:
        # The plus of an offset that was not encoded has come as a blank.
        time = dt.datetime.fromisoformat(value.replace(" ", "+"))
        time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        return time.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        allowed = "a time such as 2026-01-02T03:04:05Z"
        raise InvalidRequest(field, value, allowed) from None
