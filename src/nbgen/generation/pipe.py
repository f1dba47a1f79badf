"""What crosses the pipes between ``ProcessEngine`` and its process, as msgpack.

Commands go in and messages come out. Pure functions and values, for any thread.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbgen.errors import EngineFailed, NbgenError
from nbgen.generation.engine import Cancelled, Work
from nbgen.generation.events import EngineEvent
from nbgen.wire.errors import ErrorBody, error_from_wire, error_to_wire


class Load(msgspec.Struct, frozen=True, tag=True):
    """Makes the engine; the first command. ``make_engine`` is a pickled function."""

    make_engine: bytes


class Start(msgspec.Struct, frozen=True, tag=True):
    """Asks for pictures. ``number`` is new for each, and names it from then on."""

    number: int
    work: Work
    wants_preview: bool


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Ends the work of that number."""

    number: int


class WantPreview(msgspec.Struct, frozen=True, tag=True):
    """Says whether previews of the work of that number are wanted."""

    number: int
    wanted: bool


Command = Load | Start | Cancel | WantPreview


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An event of the work of that number."""

    number: int
    event: EngineEvent


_CANCELLED = "cancelled"
"""Crosses as a code of its own, since ``Cancelled`` is no error of nbgen."""


def _to_wire(error: Any) -> ErrorBody:
    if isinstance(error, Cancelled):
        return ErrorBody(_CANCELLED, "")
    name = type(error).__name__
    try:
        if not isinstance(error, NbgenError):
            error = EngineFailed(f"{name}: {error}")
        body = error_to_wire(error)
        _plain.encode(body)
    except Exception:  # noqa: BLE001 - whatever the text or the attributes may raise
        return ErrorBody(EngineFailed.code, name)
    return body


def _from_wire(_type: type, value: Any) -> BaseException:
    body = msgspec.convert(value, ErrorBody)
    return Cancelled() if body.code == _CANCELLED else error_from_wire(body)


_plain = msgspec.msgpack.Encoder()
_encoder = msgspec.msgpack.Encoder(enc_hook=_to_wire)
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_messages = msgspec.msgpack.Decoder(Message, dec_hook=_from_wire)


def encode(value: Command | Message) -> bytes:
    """Return a command or a message as bytes.

    An error of nbgen crosses as itself. One of a class that the other side does not
    know (an engine's own) arrives as an ``NbgenError`` with its message and code, any
    other exception as ``EngineFailed`` with its type and message.
    """
    return _encoder.encode(value)


def decode_command(data: bytes) -> Command:
    """Return the command that the bytes hold."""
    return _commands.decode(data)


def decode_message(data: bytes) -> Message:
    """Return the message that the bytes hold."""
    return _messages.decode(data)
