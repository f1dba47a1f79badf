"""A client that watches tasks on a server, over its WebSocket and its HTTP API.

Everything here belongs to the event loop of the caller.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from nbgen.errors import (
    AccessDenied,
    InvalidRequest,
    NbgenError,
    ServerUnreachable,
    UnexpectedAnswer,
)
from nbgen.schema import GenerationProgress
from nbgen.wire.errors import error_from_wire
from nbgen.wire.http import AcceptedAnswer, ErrorAnswer, GenerateBody
from nbgen.wire.progress import ProgressMessage, decode_server_message

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_NORMAL_CLOSE = 1000
_FIRST_FINAL_CLOSE = 4500
_REFUSALS = (401, 403, 422)  # a wrong token, origin or id
"""1000 and all codes from 4500 on are final; after any other a client reconnects."""

_Answer = TypeVar("_Answer")


def growing_pauses(
    draw: Callable[[float, float], float] = random.uniform,
) -> Iterator[float]:
    """Yield the seconds to wait before each attempt to reconnect.

    They double up to ten seconds. Each is drawn between half of that and all of it:
    many clients of a server that restarts do not come back at the same moment.

    Args:
        draw: Returns a number between two others.
    """
    longest_s = _FIRST_PAUSE_S
    while True:
        yield draw(longest_s / 2, longest_s)
        longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)


async def watch_task(
    url: str,
    task_id: str,
    *,
    token: str | None = None,
    pauses: Callable[[], Iterator[float]] = growing_pauses,
) -> AsyncIterator[GenerationProgress]:
    """Yield the states of a task until it has ended.

    The task need not exist yet. A connection that breaks is made again, whatever the
    server or a proxy answers meanwhile. The first state after that is the present one,
    so some may be missing, and one may come twice.

    Example:
        ``async for progress in watch_task("http://127.0.0.1:8000", "hero-1"):``

    Args:
        url: The address of the server, such as ``http://127.0.0.1:8000``.
        task_id: The id of the task.
        token: The server's token, if it needs one.
        pauses: Returns the seconds to wait before each attempt to reconnect; called
            again after each message.

    Raises:
        ServerUnreachable: No server answers the first time.
        AccessDenied: The server refuses the token or the client.
        InvalidRequest: The task id or the address cannot be one.
        NbgenError: The first answer is another error.
    """
    address = f"{_base(url).replace('http', 'ws', 1)}/ws/image-generation/"
    address += quote(task_id, safe="")
    connected_before = False
    waits = pauses()
    while True:
        try:
            # Like the calls over HTTP it takes no proxy from the environment.
            connection = connect(
                address, additional_headers=_headers(token), proxy=None
            )
            async with connection as socket:
                connected_before = True
                try:
                    async for frame in socket:
                        waits = pauses()
                        message = decode_server_message(frame)
                        if isinstance(message, ProgressMessage):
                            yield message.progress
                            if message.status.ended:
                                return
                except ConnectionClosed:
                    pass  # the code of the close says what to do
            code = socket.close_code
            if code == _NORMAL_CLOSE:
                return
            if code is not None and code >= _FIRST_FINAL_CLOSE:
                raise AccessDenied(
                    f"The server at {url} closed the connection for good "
                    f"({code} {socket.close_reason}). Check the token."
                )
        except InvalidURI as error:
            raise _no_address(url) from error
        except (OSError, InvalidHandshake) as error:
            refused = isinstance(error, InvalidStatus) and (
                error.response.status_code in _REFUSALS
            )
            if refused or not connected_before:
                raise _first_refusal(error, url) from error
        await asyncio.sleep(next(waits))


async def submit(
    url: str, body: GenerateBody, *, token: str | None = None
) -> AcceptedAnswer:
    """Submit a generation without waiting for it and return the server's answer.

    Args:
        url: The address of the server.
        body: What to make. It is sent with ``wait`` false.
        token: The server's token, if it needs one.

    Raises:
        ServerUnreachable: No server answers.
        NbgenError: The server refuses the request.
    """
    answer = await _fetch(
        url,
        "/api/media/generate",
        token,
        method="POST",
        body=msgspec.json.encode(msgspec.structs.replace(body, wait=False)),
    )
    return _decoded(answer, AcceptedAnswer, url)


async def fetch_image(url: str, path: str, *, token: str | None = None) -> bytes:
    """Return the bytes of a picture by the path that the server gave for it.

    Raises:
        ServerUnreachable: No server answers.
        NbgenError: The server refuses.
    """
    return await _fetch(url, path, token)


async def _fetch(url: str, path: str, token: str | None, **options: Any) -> bytes:
    try:
        response = await AsyncHTTPClient().fetch(
            _base(url) + path, headers=_headers(token), **options
        )
    except (HTTPTimeoutError, HTTPStreamClosedError, OSError) as error:
        raise ServerUnreachable(url, str(error)) from error
    except HTTPClientError as error:
        body = error.response.body if error.response else b""
        raise _refusal(error.code, body, url) from error
    return response.body


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise _no_address(url)
    return url.rstrip("/")


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _first_refusal(error: Exception, url: str) -> NbgenError:
    """Return what is wrong with a connection that could not be made."""
    if isinstance(error, InvalidStatus):
        return _refusal(error.response.status_code, error.response.body, url)
    if isinstance(error, OSError):
        return ServerUnreachable(url, str(error))
    return UnexpectedAnswer(url, f"what is no WebSocket ({error})")


def _refusal(status: int, body: bytes | bytearray | None, url: str) -> NbgenError:
    """Return the error that an answer stands for."""
    try:
        answer = msgspec.json.decode(bytes(body or b""), type=ErrorAnswer)
    except msgspec.MsgspecError:
        return UnexpectedAnswer(url, f"with HTTP status {status}")
    return error_from_wire(answer.error)


def _decoded(data: bytes, kind: type[_Answer], url: str) -> _Answer:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise UnexpectedAnswer(url, f"what cannot be read ({error})") from error


def _no_address(url: str) -> InvalidRequest:
    return InvalidRequest("url", url, "an address such as 'http://127.0.0.1:8000'")
