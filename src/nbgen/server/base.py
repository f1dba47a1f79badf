"""The base of all handlers: access, CORS, JSON in and out, errors as JSON.

Handlers belong to the server's loop. Calls of the studio that touch the disk go
through ``asyncio.to_thread``, so that they never block the loop.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
from tornado.web import Finish, HTTPError, RequestHandler, stream_request_body

from nbgen.errors import AccessDenied, InvalidRequest, NbgenError
from nbgen.server.access import Access
from nbgen.studio import Studio
from nbgen.wire.errors import ErrorBody, error_status
from nbgen.wire.http import ErrorAnswer

logger = logging.getLogger(__name__)

_MOST_DROPPED = 64 * 1024 * 1024

_HTTP_ERRORS = {
    400: ("bad_request", "The request cannot be read: {reason}."),
    403: (
        "origin_not_allowed",
        "Pages of this origin may not connect; --allow-origin lets them.",
    ),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
    413: ("too_large", "The body is too large."),
    421: (
        "wrong_host",
        "This server answers only to loopback names. Ask for 127.0.0.1 or localhost.",
    ),
    426: ("websocket_required", "This address speaks WebSocket only."),
}


class BaseHandler(RequestHandler):
    """A handler that checks access and answers in JSON."""

    @property
    def studio(self) -> Studio:
        """The studio that is served."""
        studio: Studio = self.settings["studio"]
        return studio

    @property
    def access(self) -> Access:
        """The access rules of this server."""
        access: Access = self.settings["access"]
        return access

    def set_default_headers(self) -> None:
        """Set the headers of every answer, errors too."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Vary", "Origin")
        self.clear_header("Server")
        origin = self.request.headers.get("Origin")
        if origin is not None and self.access.allows_origin(origin):
            self.set_header("Access-Control-Allow-Origin", origin)

    def check_trusted_origin(self, origin: str) -> bool:
        """Return whether an origin may change data; Tornado asks before ``prepare``."""
        return self.access.allows_origin(origin)

    def prepare(self) -> None:
        """Refuse a request with a wrong Host header or token."""
        if not self.access.allows_host(self.request.host):
            raise HTTPError(421)
        if self.request.method != "OPTIONS":  # a browser's preflight has no token
            self.access.check_token(self._shown_token())

    def options(self, *_args: str) -> None:
        """Answer a browser's preflight."""
        methods = "GET, HEAD, POST, PUT, PATCH, DELETE"
        self.set_header("Access-Control-Allow-Methods", methods)
        self.set_header(
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Idempotency-Key, Prefer",
        )
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    def json_body(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object."""
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise HTTPError(400, reason="the body is not JSON") from None
        if not isinstance(body, dict):
            raise InvalidRequest("body", body, "a JSON object")
        return body

    def write_json(self, body: object, status: int = 200) -> None:
        """Finish with a JSON body."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(msgspec.json.encode(body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Finish with an error as JSON; never with a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, NbgenError):
            self.write_json(ErrorAnswer.of(error), self._status_of(error))
            return
        fault = ("internal_error", "The server failed. Its log says more.")
        code, message = _HTTP_ERRORS.get(status_code, fault)
        reason = getattr(error, "reason", None) or "it is malformed"
        body = ErrorBody(code, message.format(reason=reason))
        self.write_json(ErrorAnswer(body), status_code)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log faults of the server; errors of the client are only answered."""
        if isinstance(value, NbgenError):
            is_ours = error_status(value) == 500
        else:
            is_ours = not isinstance(value, (HTTPError, Finish))
        if is_ours:
            logger.error("A request failed.", exc_info=(typ, value, tb))

    def _shown_token(self) -> str | None:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        return self.get_query_argument("token", None)

    def _status_of(self, error: NbgenError) -> int:
        if isinstance(error, AccessDenied) and self._shown_token():
            return 403
        return error_status(error)


class NotFoundHandler(BaseHandler):
    """Answers 404 at every address without a handler."""

    def prepare(self) -> None:
        """Refuse, whatever the method."""
        super().prepare()
        raise HTTPError(404)


@stream_request_body
class TooLargeHandler(BaseHandler):
    """Answers 413 to a body that is too large; Tornado alone closes the connection.

    It drops the body as it arrives and answers after it, since a client that is still
    sending reads no answer.
    """

    def prepare(self) -> None:
        """Accept a longer body than other handlers do."""
        super().prepare()
        connection: Any = self.request.connection
        connection.set_max_body_size(_MOST_DROPPED)

    def data_received(self, chunk: bytes) -> None:
        """Drop it."""

    def get(self) -> None:
        """Refuse, whatever the address and the method."""
        raise HTTPError(413)

    head = post = put = patch = delete = get
