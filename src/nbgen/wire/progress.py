"""The messages of version 1 of the progress protocol: docs/protocol.md describes them.

One struct for each message, encoded by one end and decoded by the other. Nothing here
does I/O; all values are frozen, so any thread may hold them.
"""

from __future__ import annotations

import datetime as dt
from typing import Self, TypeVar

import msgspec

from nbgen.schema import GenerationProgress, GenerationResult, Outcome, Stage, Status

WAITING_MESSAGE = "Waiting for generation to start..."

_Message = TypeVar("_Message")


class ProgressMessage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"
):
    """The state of a task; ``GenerationProgress`` says what the fields mean.

    Example:
        ``encode(ProgressMessage.of(progress))`` is the text frame for a state.
    """

    task_id: str
    status: Status
    current_step: int
    total_steps: int
    percentage: float
    current_stage: str
    elapsed_time: float
    estimated_remaining: float
    error: str | None
    message: str
    timestamp: str
    seq: int
    overall_percentage: float
    remaining_known: bool
    outcome: Outcome | msgspec.UnsetType = msgspec.UNSET
    result: GenerationResult | msgspec.UnsetType | None = msgspec.UNSET

    @classmethod
    def of(cls, progress: GenerationProgress) -> Self:
        """Return the message for a state."""
        ended = progress.outcome is not None
        return cls(
            task_id=progress.task_id,
            status=progress.status,
            current_step=progress.current_step,
            total_steps=progress.total_steps,
            percentage=progress.percentage,
            current_stage=progress.current_stage or "",
            elapsed_time=progress.elapsed_time,
            estimated_remaining=progress.estimated_remaining,
            error=progress.error,
            message=progress.message,
            # Clients of version 1 get the offset in digits, not as a Z.
            timestamp=progress.timestamp.isoformat(),
            seq=progress.seq,
            overall_percentage=progress.overall_percentage,
            remaining_known=progress.remaining_known,
            outcome=progress.outcome or msgspec.UNSET,
            result=progress.result if ended else msgspec.UNSET,
        )

    @property
    def progress(self) -> GenerationProgress:
        """The state that the message is about.

        A stage that this version does not know is None.

        Raises:
            ValueError: The timestamp is not ISO 8601.
        """
        known = self.current_stage in tuple(Stage)
        return GenerationProgress(
            task_id=self.task_id,
            seq=self.seq,
            status=self.status,
            current_step=self.current_step,
            total_steps=self.total_steps,
            current_stage=Stage(self.current_stage) if known else None,
            elapsed_time=self.elapsed_time,
            estimated_remaining=self.estimated_remaining,
            remaining_known=self.remaining_known,
            overall_percentage=self.overall_percentage,
            error=self.error,
            message=self.message,
            timestamp=dt.datetime.fromisoformat(self.timestamp),
            outcome=self.outcome or None,
            result=self.result or None,
        )


class StatusMessage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="status"
):
    """The first message while the task is not known."""

    task_id: str
    message: str = WAITING_MESSAGE


class KeepAlive(msgspec.Struct, frozen=True, tag_field="type", tag="keep-alive"):
    """Sent while the client is silent, so that proxies keep the connection."""


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to ``Ping``."""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A client's question whether the server is there."""


class GetProgress(msgspec.Struct, frozen=True, tag_field="type", tag="get_progress"):
    """A client's question for the present state."""


ServerMessage = ProgressMessage | StatusMessage | KeepAlive | Pong
ClientMessage = Ping | GetProgress

_encoder = msgspec.json.Encoder()
_server_decoder = msgspec.json.Decoder[ServerMessage](ServerMessage)
_client_decoder = msgspec.json.Decoder[ClientMessage](ClientMessage)


def encode(message: ServerMessage | ClientMessage) -> str:
    """Return the text frame of a message; one serves any number of watchers."""
    return _encoder.encode(message).decode()


def decode_server_message(frame: str | bytes) -> ServerMessage | None:
    """Return what a server sent; None for a message that this version does not know."""
    return _decode(_server_decoder, frame)


def decode_client_message(frame: str | bytes) -> ClientMessage | None:
    """Return what a client sent; None if it is not understood."""
    return _decode(_client_decoder, frame)


def _decode(
    decoder: msgspec.json.Decoder[_Message], frame: str | bytes
) -> _Message | None:
    if not isinstance(frame, str):
        return None
    try:
        return decoder.decode(frame)
    # A lone surrogate in the text is a ValueError.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
