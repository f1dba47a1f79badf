"""Follows tasks on a server from another process, over its HTTP API and WebSocket.

Everything here belongs to the event loop of the caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from nbgen.errors import AccessDenied, NbgenError

_LONGEST_PAUSE_S = 10.0
_NORMAL_CLOSE = 1000
_FIRST_FINAL_CLOSE = 4500
"""1000 and all codes from 4500 on are final; after any other a client reconnects."""


async def watch_task(
    url: str, task_id: str, *, token: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield the ``progress`` and ``status`` messages of a task until it has ended.

    The task need not exist yet. A connection that breaks is made again, with pauses
    that grow to ten seconds.

    Args:
        url: The address of the server, such as ``http://127.0.0.1:8000``.
        task_id: The id of the task.
        token: The server's token, if it wants one.

    Raises:
        NbgenError: The server refuses this client, or cannot be reached at first.
    """
    base = url.rstrip("/").replace("http", "ws", 1)
    address = f"{base}/ws/image-generation/{quote(task_id, safe='')}"
    pause_s = 0.5
    connected_before = False
    while True:
        request = HTTPRequest(address, headers=_headers(token))
        try:
            connection = await websocket_connect(request)
        except HTTPClientError as error:
            raise _refusal(error, url) from None
        except OSError as error:
            if not connected_before:
                raise _unreachable(url, error) from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            continue
        connected_before = True
        try:
            while (text := await connection.read_message()) is not None:
                pause_s = 0.5
                message = json.loads(text)
                if message["type"] in ("progress", "status"):
                    yield message
                if message.get("status") in ("completed", "failed"):
                    return
        finally:
            connection.close()
        code = connection.close_code or 0
        if code == _NORMAL_CLOSE:
            return
        if code >= _FIRST_FINAL_CLOSE:
            raise AccessDenied(f"The server at {url} closed the connection ({code}).")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def submit(
    url: str, request: dict[str, Any], *, token: str | None = None
) -> dict[str, Any]:
    """Submit a generation without waiting for it and return the server's answer.

    Args:
        url: The address of the server.
        request: The JSON body of ``POST /api/media/generate``.
        token: The server's token, if it wants one.

    Raises:
        NbgenError: The server refuses the request, or cannot be reached.
    """
    body = json.dumps({**request, "wait": False})
    answer = await _fetch(
        f"{url.rstrip('/')}/api/media/generate", url, token, method="POST", body=body
    )
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


async def fetch_image(url: str, path: str, *, token: str | None = None) -> bytes:
    """Return the bytes of a picture by the path that the server gave for it.

    Raises:
        NbgenError: The server refuses, or cannot be reached.
    """
    return await _fetch(url.rstrip("/") + path, url, token)


async def _fetch(address: str, url: str, token: str | None, **options: Any) -> bytes:
    try:
        response = await AsyncHTTPClient().fetch(
            address, headers=_headers(token), **options
        )
    except HTTPClientError as error:
        raise _refusal(error, url) from None
    except OSError as error:
        raise _unreachable(url, error) from None
    return response.body


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _unreachable(url: str, error: OSError) -> NbgenError:
    return NbgenError(
        f"There is no nbgen server at {url} ({error}). Start one with 'nbgen serve', "
        "or check the address."
    )


def _refusal(error: HTTPClientError, url: str) -> NbgenError:
    try:
        assert error.response is not None
        message = json.loads(error.response.body)["error"]["message"]
    except (AssertionError, ValueError, KeyError, TypeError):
        message = f"The server at {url} answered {error.code} {error.message}."
    return AccessDenied(message) if error.code in (401, 403) else NbgenError(message)
