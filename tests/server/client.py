"""How an outside client asks a server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from nbgen.server import Server


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    body: Any
    headers: Any


def socket_url(server: Server, task_id: str, prefix: str = "") -> str:
    """Return the address of a task's progress."""
    address = server.url.replace("http", "ws", 1)
    return f"{address}{prefix}/ws/image-generation/{task_id}"


def ask(
    server: Server,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request and return the answer, its JSON decoded."""
    data = (
        body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    )
    request = urllib.request.Request(
        server.url + path, data, headers=headers or {}, method=method
    )
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        content = response.read()
        if "json" in response.headers.get("Content-Type", ""):
            content = json.loads(content)
        return Answer(response.status, content, response.headers)
