"""The server's side of the connection of one watcher, without sockets.

Nothing here does I/O. A ``WatchSession`` belongs to one connection and to the thread
or loop that serves it.
"""

from __future__ import annotations

from nbgen.schema import GenerationProgress
from nbgen.wire.progress import (
    GetProgress,
    Ping,
    Pong,
    ProgressMessage,
    StatusMessage,
    decode_client_message,
    encode,
)


class WatchSession:
    """Decides which frames one watcher of one task is sent.

    It sends no state twice and none out of order, and nothing but ``pong`` after the
    terminal one.

    Example:
        ``WatchSession("hero-1").open(None)`` is the text of the ``status`` message.

    Args:
        task_id: The task that is watched.
    """

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._present: GenerationProgress | None = None

    @property
    def ended(self) -> bool:
        """Whether the terminal message has been sent."""
        return self._present is not None and self._present.status.ended

    def open(self, present: GenerationProgress | None) -> str:
        """Return the first message; ``present`` is None for an unknown task."""
        if present is None:
            return encode(StatusMessage(task_id=self._task_id))
        self._present = present
        return encode(ProgressMessage.of(present))

    def advance(self, progress: GenerationProgress) -> bool:
        """Return whether to send a new state; if so, it counts as sent."""
        if self.ended:
            return False
        if self._present is not None and progress.seq <= self._present.seq:
            return False
        self._present = progress
        return True

    def receive(self, frame: str | bytes) -> str | None:
        """Return the answer to a client's frame; None for what is not understood."""
        message = decode_client_message(frame)
        if isinstance(message, Ping):
            return encode(Pong())
        # The terminal message is the last progress that a client gets.
        asks = isinstance(message, GetProgress)
        if asks and self._present is not None and not self.ended:
            return encode(ProgressMessage.of(self._present))
        return None
