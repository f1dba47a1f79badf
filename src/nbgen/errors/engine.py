"""Errors of the model and of the process that it runs in."""

from __future__ import annotations

from nbgen.errors.base import NbgenError


class CheckpointNotFound(NbgenError):
    """The model that was asked for is not on this machine."""

    code = "checkpoint_not_found"


class OutOfMemory(NbgenError):
    """There is not enough memory for the picture, even made in the thriftiest way."""

    code = "out_of_memory"


class BrokenPicture(NbgenError):
    """The picture is black, or the model's answer was not a number."""

    code = "broken_picture"


class EngineFailed(NbgenError):
    """The engine, in its own process, raised an exception that is not nbgen's.

    The message names the type of that exception; its traceback was logged.
    """

    code = "engine_failed"


class WorkerDied(NbgenError):
    """The process that makes the pictures ended before they were made.

    Attributes:
        of_memory: Whether it was killed, as a system does that runs out of memory.
    """

    code = "worker_died"

    def __init__(self, message: str, *, of_memory: bool = False) -> None:
        self.of_memory = of_memory
        super().__init__(message)
