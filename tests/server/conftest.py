"""A real server on a free loopback port, and the outside client's view of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from nbgen.server import Server, Timing
from nbgen.studio import Studio

QUICK = Timing(keep_alive_s=30, closing_grace_s=0.05, stall_limit_s=30)


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    body: Any
    headers: Any


@pytest.fixture
def make_server() -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server on a studio and closes it."""
    servers: list[Server] = []

    def make(studio: Studio, **options: Any) -> Server:
        server = Server(studio, **{"timing": QUICK, **options})
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Server], studio: Studio) -> Server:
    """Return a running server of the test's studio."""
    return make_server(studio)


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
