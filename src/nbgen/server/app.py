"""The Tornado application, and the thread that serves it.

``Server`` owns a thread, ``nbgen-server``, and the event loop in it; all handlers and
sockets belong to that loop. So a busy notebook cell, or a slow picture, does not stop
the server from answering.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from nbgen.errors import PortTaken
from nbgen.server.access import Access
from nbgen.server.base import NotFoundHandler, TooLargeHandler
from nbgen.server.handlers import (
    BatchHandler,
    CancelHandler,
    GenerateHandler,
    HealthHandler,
    ImageHandler,
    ModelHandler,
    TaskHandler,
    TasksHandler,
)
from nbgen.server.progress_socket import Limits, ProgressSocket, Timing, Watchers
from nbgen.server.queue import (
    HistoryHandler,
    PauseHandler,
    PriorityHandler,
    QueueHandler,
    ResumeHandler,
    RetryHandler,
)
from nbgen.server.review import ApproveHandler, BulkDecideHandler, ContentHandler
from nbgen.studio import Studio
from nbgen.threads import start_thread

_MAX_CLIENT_FRAME = 64 * 1024
_MAX_BODY = 1024 * 1024
_LONGEST_LENGTH = 18
_SHUTDOWN_PATIENCE_S = 1.0

_ROUTES = [
    (r"/(?:api/)?ws/image-generation/(.+)", ProgressSocket),
    (r"/api/media/(?:generate|generate-image)", GenerateHandler),
    (r"/api/tasks", TasksHandler),
    (r"/api/tasks/([^/]+)", TaskHandler),
    (r"/api/tasks/([^/]+)/cancel", CancelHandler),
    (r"/api/tasks/([^/]+)/retry", RetryHandler),
    (r"/api/tasks/([^/]+)/priority", PriorityHandler),
    (r"/api/tasks/([^/]+)/history", HistoryHandler),
    (r"/api/queue", QueueHandler),
    (r"/api/queue/pause", PauseHandler),
    (r"/api/queue/resume", ResumeHandler),
    (r"/api/batches/([^/]+)", BatchHandler),
    (r"/api/model", ModelHandler),
    (r"/api/content/tasks/bulk-decide", BulkDecideHandler),
    (r"/api/content/tasks/([^/]+)", ContentHandler),
    (r"/api/content/tasks/([^/]+)/approve", ApproveHandler),
    (r"/images/([^/]+)", ImageHandler),
    (r"/(?:api/media/)?health", HealthHandler),
]


class _Application(Application):
    """Routes requests to handlers, and too large bodies to ``TooLargeHandler``."""

    # Tornado's name for what it returns is private.
    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the delegate for a request whose headers have arrived."""
        length = request.headers.get("Content-Length", "")
        # Python refuses to read thousands of digits; Tornado answers those with 400.
        short = length.isdecimal() and len(length) <= _LONGEST_LENGTH
        if short and int(length) > _MAX_BODY:
            return self.get_handler_delegate(request, TooLargeHandler)
        return super().find_handler(request, **kwargs)


class Server:
    """Serves a studio over HTTP and WebSocket until it is closed.

    Every method may be called from any thread but the server's own. Use it as a
    context manager, or ``start()`` and ``close()`` it.

    Example:
        ``with Server(studio, port=8000) as server: print(server.url)``

    Args:
        studio: The studio to serve; closing the server leaves it open.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        allow_origins: Origins whose pages may connect, besides loopback ones.
        token: The token that clients must send; needed beyond loopback.
        timing: The times of the protocol.
        limits: How much the server takes on.

    Raises:
        InvalidRequest: The host is not loopback and there is no token, or an origin
            is not one.
    """

    def __init__(
        self,
        studio: Studio,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_origins: Sequence[str] = (),
        token: str | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._access = Access(host, tuple(allow_origins), token)
        self._studio = studio
        self._port = port
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port that the server listens on, once it is started."""
        return self._port

    @property
    def url(self) -> str:
        """The address of the server, once it is started."""
        host = self._access.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def start(self) -> None:
        """Listen and serve; returns once clients can connect.

        Raises:
            PortTaken: The port cannot be had.
            Exception: The loop could not begin, for whatever reason.
        """
        started: Future[None] = Future()
        thread = start_thread("nbgen-server", partial(self._run, started))
        self._thread = thread
        try:
            started.result()
        except Exception:
            self._thread = None
            thread.join()
            raise

    def close(self) -> None:
        """Close all connections (1001) and end the thread; again does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        watchers = Watchers(self._studio, self._loop, self._limits.watchers)
        application = _Application(
            _ROUTES,
            default_handler_class=NotFoundHandler,
            studio=self._studio,
            access=self._access,
            timing=self._timing,
            limits=self._limits,
            watchers=watchers,
            cross_origin_protection=True,
            # Logging who asked is the business of whoever puts this on a network.
            log_function=lambda _handler: None,
            websocket_ping_interval=25,
            websocket_ping_timeout=10,
            websocket_max_message_size=_MAX_CLIENT_FRAME,
        )
        server = HTTPServer(application, max_body_size=_MAX_BODY)
        server.add_socket(self._listen())
        started.set_result(None)
        await self._stop.wait()
        server.stop()
        await watchers.close(_SHUTDOWN_PATIENCE_S)
        await server.close_all_connections()

    def _listen(self) -> socket.socket:
        host = self._access.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, self._port), family=family)
        except OSError as error:
            raise PortTaken(host, self._port, str(error.strerror)) from error
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        return listener
