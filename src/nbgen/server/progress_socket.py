"""The progress protocol over a WebSocket, and its fan-out to all watchers.

Everything here belongs to the server's loop. States come from the studio's progress
thread and enter the loop at one place, ``Watchers._hand_over``.

No watcher waits for another: a state is written to each connection that has no unsent
bytes. Any other connection gets the newest state once it has drained. At most one state
waits for each watcher.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import msgspec
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbgen.errors import UnknownTask
from nbgen.schema import GenerationProgress
from nbgen.schema.checks import check_task_id
from nbgen.server.base import BaseHandler
from nbgen.studio import Studio
from nbgen.wire.progress import KeepAlive, ProgressMessage, encode
from nbgen.wire.session import WatchSession

logger = logging.getLogger(__name__)

CLOSE_DONE = 1000
CLOSE_SHUTDOWN = 1001
CLOSE_FAULT = 1011
CLOSE_TOO_SLOW = 4008
CLOSE_TOO_MANY = 4013


class Timing(msgspec.Struct, frozen=True):
    """The times of the protocol, all in seconds.

    Attributes:
        keep_alive_s: Silence of a client after which it gets ``keep-alive``.
        closing_grace_s: From the terminal message to the close.
        stall_limit_s: How long a client may leave what was sent to it unread.
    """

    keep_alive_s: float = 30.0
    closing_grace_s: float = 2.0
    stall_limit_s: float = 30.0


class Limits(msgspec.Struct, frozen=True):
    """How much one server takes on.

    Attributes:
        watchers: How many sockets may watch at a time.
        send_buffer: Bytes that the kernel buffers for a socket. By default it would
            buffer megabytes for a client that reads nothing.
    """

    watchers: int = 2_000
    send_buffer: int = 128 * 1024


class _Channel:
    """All sockets that watch one task, and how to stop watching it."""

    def __init__(self, watching: asyncio.Future[Callable[[], None]]) -> None:
        self.sockets: set[ProgressSocket] = set()
        self.watching = watching


class Watchers:
    """All watchers of a server, by task.

    Args:
        studio: Where the states come from.
        loop: The server's loop.
        limit: How many watchers there may be at a time.
    """

    def __init__(
        self, studio: Studio, loop: asyncio.AbstractEventLoop, limit: int
    ) -> None:
        self._studio = studio
        self._loop = loop
        self._limit = limit
        self._channels: dict[str, _Channel] = {}
        self._count = 0
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return self._count >= self._limit

    async def join(self, task_id: str, watcher: ProgressSocket) -> None:
        """Give the watcher every state of the task from now on."""
        self._count += 1
        self._nobody_left.clear()
        channel = self._channels.get(task_id)
        if channel is None:
            watching = asyncio.ensure_future(
                asyncio.to_thread(self._studio.watch, task_id, self._hand_over)
            )
            channel = _Channel(watching)
            self._channels[task_id] = channel
            watching.add_done_callback(lambda _: self._drop_if_empty(task_id))
        channel.sockets.add(watcher)
        # Not only the first waits: a present state that is read before the watching
        # begins would leave out the states between the two.
        await asyncio.shield(channel.watching)

    def leave(self, task_id: str, watcher: ProgressSocket) -> None:
        """Forget a watcher; no-op if it is not here."""
        channel = self._channels.get(task_id)
        if channel is None or watcher not in channel.sockets:
            return
        channel.sockets.remove(watcher)
        self._drop_if_empty(task_id)
        self._count -= 1
        if self._count == 0:
            self._nobody_left.set()

    async def close(self, patience_s: float) -> None:
        """Close every connection: politely first, then at once."""
        for watcher in self._all():
            watcher.close(CLOSE_SHUTDOWN, "The server is shutting down.")
        try:
            await asyncio.wait_for(self._nobody_left.wait(), patience_s)
        except TimeoutError:
            for watcher in self._all():
                watcher.abort()

    def _all(self) -> list[ProgressSocket]:
        return [w for channel in self._channels.values() for w in channel.sockets]

    def _drop_if_empty(self, task_id: str) -> None:
        channel = self._channels.get(task_id)
        if channel is None or channel.sockets or not channel.watching.done():
            return
        del self._channels[task_id]
        if not channel.watching.cancelled() and channel.watching.exception() is None:
            channel.watching.result()()

    def _hand_over(self, progress: GenerationProgress) -> None:
        """Take a state from the studio's thread to the loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, progress)

    def _deliver(self, progress: GenerationProgress) -> None:
        channel = self._channels.get(progress.task_id)
        if channel is None:
            return
        text = encode(ProgressMessage.of(progress))
        for watcher in list(channel.sockets):
            watcher.offer(progress, text)


class ProgressSocket(BaseHandler, WebSocketHandler):
    """One connection that watches one task."""

    def initialize(self) -> None:
        """Start with nothing sent and nothing owed."""
        self._session: WatchSession | None = None
        self._early: list[tuple[GenerationProgress, str]] = []
        self._newest: tuple[GenerationProgress, str] | None = None
        self._owed: str | None = None
        self._waits_for_room = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def _watchers(self) -> Watchers:
        watchers: Watchers = self.settings["watchers"]
        return watchers

    @property
    def _timing(self) -> Timing:
        timing: Timing = self.settings["timing"]
        return timing

    @property
    def _limits(self) -> Limits:
        limits: Limits = self.settings["limits"]
        return limits

    def check_origin(self, origin: str) -> bool:
        """Return whether pages of an origin may connect."""
        return self.access.allows_origin(origin)

    def prepare(self) -> None:
        """Refuse the handshake without access, or with an id that is not allowed."""
        super().prepare()
        self._task_id = check_task_id(self.path_args[0])

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Shake hands; answer a plain HTTP request with 426."""
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise HTTPError(426)
        await super().get(*args, **kwargs)

    async def open(self, *_args: str) -> None:
        """Send the first message, then every state that comes."""
        if self._watchers.full:
            self.close(CLOSE_TOO_MANY, "This server has no room for more watchers.")
            return
        raw = self._stream.socket
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.send_buffer)
        try:
            await self._begin()
        except Exception:
            # Raised further, Tornado would cut the connection and never close it here.
            logger.exception("A watcher of task %s was not served.", self._task_id)
            self.close(CLOSE_FAULT, "The server failed.")

    async def _begin(self) -> None:
        await self._watchers.join(self._task_id, self)
        try:
            present = await asyncio.to_thread(self.studio.get_progress, self._task_id)
        except UnknownTask:
            present = None
        session = WatchSession(self._task_id)
        self._write(session.open(present))
        self._session = session
        self._after_state()
        # What was published while the present state was looked up.
        early, self._early = self._early, []
        for progress, text in early:
            self.offer(progress, text)
        self._start_timer("keep-alive", self._timing.keep_alive_s, self._keep_alive)

    def on_message(self, message: str | bytes) -> None:
        """Answer a client's message, or ignore it."""
        self._start_timer("keep-alive", self._timing.keep_alive_s, self._keep_alive)
        answer = self._session.receive(message) if self._session else None
        if answer is not None:
            self._answer(answer)

    def on_close(self) -> None:
        """Forget the connection."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._watchers.leave(self._task_id, self)

    def offer(self, progress: GenerationProgress, text: str) -> None:
        """Send a state, or keep it as the newest while the client is slow."""
        if self._session is None:
            self._early.append((progress, text))
        elif self._has_unsent_bytes():
            self._newest = (progress, text)
            self._wait_for_room()
        elif self._session.advance(progress):
            self._write(text)
            self._after_state()

    def abort(self) -> None:
        """Drop the connection: a polite close would wait behind what is unread."""
        if self.ws_connection is not None:
            self._stream.close()

    @property
    def _stream(self) -> Any:
        # Tornado does not document this attribute; a test pins what we use of it.
        assert self.ws_connection is not None
        return self.ws_connection.stream

    def _has_unsent_bytes(self) -> bool:
        return self.ws_connection is not None and bool(self._stream.writing())

    def _after_state(self) -> None:
        assert self._session is not None
        if self._session.ended:
            self._start_timer("close", self._timing.closing_grace_s, self._close_done)

    def _close_done(self) -> None:
        self.close(CLOSE_DONE, "The task has ended.")

    def _close_slow(self) -> None:
        # Tornado aborts after five seconds if the close cannot get through either.
        self.close(CLOSE_TOO_SLOW, "Nothing was read for too long.")

    def _answer(self, text: str) -> None:
        """Send an answer; for a slow client, only the last one is kept."""
        if self._has_unsent_bytes():
            self._owed = text
            self._wait_for_room()
        else:
            self._write(text)

    def _keep_alive(self) -> None:
        if self._session is None or self._session.ended:
            return
        self._answer(encode(KeepAlive()))
        self._start_timer("keep-alive", self._timing.keep_alive_s, self._keep_alive)

    def _write(self, text: str) -> None:
        try:
            written = self.write_message(text)
        except WebSocketClosedError:
            return
        written.add_done_callback(_ignore_a_close)
        if self._has_unsent_bytes():
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Call ``_on_drained`` once all is sent, Tornado's own pongs included."""
        if self._waits_for_room:
            return
        self._waits_for_room = True
        # Writing nothing resolves behind everything that was written before.
        drained: asyncio.Future[None] = self._stream.write(b"")
        drained.add_done_callback(self._on_drained)
        self._start_timer("stall", self._timing.stall_limit_s, self._close_slow)

    def _on_drained(self, drained: asyncio.Future[None]) -> None:
        self._waits_for_room = False
        if drained.cancelled() or drained.exception() is not None:
            return  # the connection is gone
        if self._has_unsent_bytes():  # more was written meanwhile
            self._wait_for_room()
            return
        if (stall := self._timers.pop("stall", None)) is not None:
            stall.cancel()
        owed, self._owed = self._owed, None
        if owed is not None:
            self._write(owed)
        newest, self._newest = self._newest, None
        if newest is not None:
            self.offer(*newest)

    def _start_timer(
        self, name: str, after_s: float, action: Callable[[], None]
    ) -> None:
        if (running := self._timers.get(name)) is not None:
            running.cancel()
        if self.ws_connection is None:  # closed while it was being opened
            return
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(after_s, action)


def _ignore_a_close(written: asyncio.Future[None]) -> None:
    """Retrieve the exception of a write: a client that has gone is no error."""
    if not written.cancelled():
        written.exception()
