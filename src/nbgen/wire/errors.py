"""Errors on the wire: the HTTP status of each, and the way there and back.

``error_to_wire`` and ``error_from_wire`` carry an error over HTTP, and from the process
of the model to its parent. All functions are pure and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from nbgen.errors import (
    AccessDenied,
    BackupElsewhere,
    BrokenPicture,
    CheckpointNotFound,
    DataFolderUnusable,
    EngineFailed,
    FeaturedImageMissing,
    ForeignPictures,
    GenerationFailed,
    InvalidRequest,
    NbgenError,
    NoRecipe,
    OutOfMemory,
    PackageMissing,
    PictureDamaged,
    PortTaken,
    PublishFailed,
    QueueFull,
    RowErrors,
    RowMistake,
    ServerUnreachable,
    StudioClosed,
    TaskError,
    TaskLost,
    TaskUnfinished,
    UnexpectedAnswer,
    UnknownBatch,
    UnknownImage,
    UnknownTask,
    WorkerDied,
)

# Why each has its status:
# 401  the credential is missing (a server answers 403 to one that is wrong);
# 404  the id or the name in the request stands for nothing;
# 409  the request is right, but not in the present state of the task, of the data
#      folder or of the studio: so it is for every error about one task, unless a row
#      of its own says otherwise;
# 422  the client can put the request right: a field, a file, or which picture is meant;
# 429  the same request is accepted later, when tasks have run;
# 500  the fault is on the server's machine, so its operator has to read the log;
# 502  a service behind the server did not do its part;
# 503  the server cannot work now; it can again once the database, the model or the
#      studio is back, without a change of the request;
# 504  the time to wait for a result is over, and the task still runs.
_STATUS: dict[type[NbgenError], int] = {
    AccessDenied: 401,
    UnknownBatch: 404,
    UnknownImage: 404,
    UnknownTask: 404,
    BackupElsewhere: 409,
    ForeignPictures: 409,
    PictureDamaged: 409,
    TaskError: 409,
    FeaturedImageMissing: 422,
    InvalidRequest: 422,
    NoRecipe: 422,
    RowErrors: 422,
    QueueFull: 429,
    BrokenPicture: 500,
    EngineFailed: 500,
    GenerationFailed: 500,
    NbgenError: 500,
    OutOfMemory: 500,
    PackageMissing: 500,
    PortTaken: 500,
    TaskLost: 500,
    WorkerDied: 500,
    PublishFailed: 502,
    ServerUnreachable: 502,
    UnexpectedAnswer: 502,
    CheckpointNotFound: 503,
    DataFolderUnusable: 503,
    StudioClosed: 503,
    TaskUnfinished: 504,
}

# Details that are not what JSON makes of them, by their name.
_READ_DETAIL: dict[str, Callable[[Any], Any]] = {
    "mistakes": lambda rows: msgspec.convert(rows, tuple[RowMistake, ...]),
}


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it is sent.

    Example:
        ``error_to_wire(UnknownTask("a"))`` is sent as ``{"code": "unknown_task",
        "message": "There is no task 'a'. …", "details": {"task_id": "a"}}``.

    Attributes:
        code: The stable code of its class.
        message: What is wrong and what to do next, for a person.
        details: The attributes of the error, such as ``task_id`` or ``allowed``.
        field: The field that is not allowed, for clients of version 1; the same as in
            ``details``. None for other errors.
    """

    code: str
    message: str
    details: dict[str, Any] = {}
    field: str | None = None


def error_status(error: NbgenError) -> int:
    """Return the HTTP status of an error: that of its nearest class with one."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def error_to_wire(error: NbgenError) -> ErrorBody:
    """Return an error as it is sent."""
    # An error of a publisher from elsewhere may hold anything.
    details = msgspec.to_builtins(
        {name: value for name, value in vars(error).items() if name[0] != "_"},
        enc_hook=str,
    )
    code = details.pop("code", error.code)
    field = error.field if isinstance(error, InvalidRequest) else None
    return ErrorBody(code, str(error), details, field)


def error_from_wire(body: ErrorBody) -> NbgenError:
    """Return the error that was sent: of the same class, with an equal content.

    A code that this version does not know gives an ``NbgenError`` with that code.
    """
    kind = _kinds().get(body.code, NbgenError)
    # Not kind(…): the message is written already, from arguments that were not sent.
    error = kind.__new__(kind)
    error.args = (body.message,)
    if body.code != kind.code:
        vars(error)["code"] = body.code
    for name, value in body.details.items():
        read = _READ_DETAIL.get(name)
        vars(error)[name] = value if read is None else read(value)
    return error


def _kinds() -> dict[str, type[NbgenError]]:
    """Return the class of each code; a subclass without a code of its own is not in."""
    return {kind.code: kind for kind in _family(NbgenError) if "code" in vars(kind)}


def _family(kind: type[NbgenError]) -> Iterator[type[NbgenError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
