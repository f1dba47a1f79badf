"""What crosses the pipes between ``ProcessEngine`` and its process, as msgpack.

Commands go in and messages come out. The functions and values are for any thread, as is
``Outbox``; one thread sends on a ``PipeEnd`` and one receives.
"""

from __future__ import annotations

import os
import select
import threading
from queue import SimpleQueue
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


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The engine is made; ``facts`` are those of ``Engine.facts``."""

    facts: dict[str, str]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An event of the work of that number; 0 with ``Loaded``, which is of none."""

    number: int
    event: EngineEvent | Loaded


_LENGTH_BYTES = 4


class PipeEnd:
    """One end of a pipe that carries byte strings, each behind its length.

    It works on every system, which the connections of ``multiprocessing`` do not over
    plain pipes.

    Args:
        descriptor: A descriptor of the pipe; the end has a duplicate of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        # Windows has no poll for pipes.
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(self._descriptor, select.POLLOUT)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def takes_at_once(self, data: bytes) -> bool:
        """Return whether sending the bytes now would not wait; for a short while."""
        if self._poll is None or _LENGTH_BYTES + len(data) > select.PIPE_BUF:
            return False
        return self._poll.poll(0) == [(self._descriptor, select.POLLOUT)]

    def send_bytes(self, data: bytes) -> None:
        """Write the bytes; raise ``OSError`` if nobody has the other end."""
        left = memoryview(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def recv_bytes(self) -> bytes:
        """Wait for the next bytes; raise ``EOFError`` if the other end is closed."""
        length = int.from_bytes(self._read(_LENGTH_BYTES), "big")
        return self._read(length)

    def close(self) -> None:
        """Close the end; called once."""
        os.close(self._descriptor)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = os.read(self._descriptor, count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)


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


class Outbox:
    """Sends messages in order, and never blocks the thread that puts them in.

    A short message goes into the pipe at once, which takes less than waking a thread.
    What the pipe has no room for, and what comes after it, is sent by ``send_waiting``.

    Args:
        pipe: Where the messages go.
    """

    def __init__(self, pipe: PipeEnd) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._unsent = 0  # how many of the queue are not in the pipe yet

    def put(self, message: Message) -> None:
        """Send a message, now or later.

        Raises:
            OSError: Nobody has the other end.
        """
        data = encode(message)
        with self._lock:
            if not self._unsent and self._pipe.takes_at_once(data):
                self._pipe.send_bytes(data)
            else:
                self._unsent += 1
                self._queue.put(data)

    def send_waiting(self) -> None:
        """Send what the pipe had no room for, for ever; for one thread.

        Raises:
            OSError: Nobody has the other end.
        """
        while True:
            self._pipe.send_bytes(self._queue.get())
            with self._lock:
                self._unsent -= 1
