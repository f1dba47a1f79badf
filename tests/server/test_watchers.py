"""What a watcher is sent when something else happens at the same moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tornado.iostream import IOStream
from websockets.sync.client import connect

from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress
from nbgen.server import Limits, Server, Timing
from nbgen.server.progress_socket import ProgressSocket
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.server.client import ask, socket_url
from tests.server.test_progress_socket import read, read_all

MakeServer = Callable[..., Server]


@pytest.fixture
def service() -> Iterator[ProgressService]:
    service = ProgressService()
    yield service
    service.close()


@pytest.fixture
def watched(tmp_path: Any, service: ProgressService) -> Iterator[Studio]:
    """Return a studio whose states are those that the test publishes."""
    with Studio(tmp_path / "data", engine=PatternEngine(), progress=service) as studio:
        yield studio


def test_nothing_but_pong_follows_the_end(
    studio: Studio, make_server: MakeServer
) -> None:
    timing = Timing(keep_alive_s=0.02, closing_grace_s=0.3)
    server = make_server(studio, timing=timing)
    studio.generate("a cat", task_id="a").result(10)
    with connect(socket_url(server, "a")) as client:
        assert read(client)["status"] == "completed"
        assert read_all(client) == ([], 1000)


def test_who_joins_while_another_is_joining_misses_no_step(
    watched: Studio,
    service: ProgressService,
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, go = threading.Event(), threading.Event()
    watch = Studio.watch

    def slow_watch(self: Studio, *args: Any) -> Callable[[], None]:
        asked.set()
        assert go.wait(10)
        return watch(self, *args)

    monkeypatch.setattr(Studio, "watch", slow_watch)
    server = make_server(watched)
    service.create_progress("a", 10)
    with connect(socket_url(server, "a")) as first:
        assert asked.wait(10)
        with connect(socket_url(server, "a")) as second:
            early = []
            # Nothing comes before the watching has begun.
            with suppress(TimeoutError):
                early.append(json.loads(second.recv(timeout=0.3)))
            service.update_progress("a", current_step=1)
            service.update_progress("a", current_step=2)
            go.set()
            early.append(read(second))
            service.update_progress("a", current_step=3)
            service.mark_complete("a")
            messages, code = read_all(second)
        assert read_all(first)[1] == code == 1000
    numbers = [message["seq"] for message in early + messages]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


class _Line:
    """Stands between a server and the network: it can be held, then let go slowly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._send = IOStream.write_to_fd
        self._held = threading.Event()
        self._more = threading.Event()
        self._waiting_bytes = 0
        self._script: list[int] = []

        def write_to_fd(stream: IOStream, data: memoryview) -> int:
            return self._write(stream, data)

        monkeypatch.setattr(IOStream, "write_to_fd", write_to_fd)

    def _write(self, stream: IOStream, data: memoryview) -> int:
        if self._held.is_set():
            if len(data) > self._waiting_bytes:
                self._waiting_bytes = len(data)
                self._more.set()
            return 0
        share = self._script.pop(0) if self._script else len(data)
        return self._send(stream, data[:share]) if share else 0

    def hold(self) -> None:
        self._held.set()

    def wait_for_bytes(self) -> int:
        """Wait until more bytes wait than before, and return how many."""
        assert self._more.wait(10)
        self._more.clear()
        return self._waiting_bytes

    def let_go(self, first_bytes: int | None = None) -> None:
        """Send what waits; ``first_bytes``, then nothing for a while, if given."""
        self._script = [] if first_bytes is None else [first_bytes] + [0] * 200
        self._held.clear()


@pytest.mark.parametrize("behind_a_state", [True, False])
def test_a_pong_on_a_slow_line_does_not_hide_the_end(
    watched: Studio,
    service: ProgressService,
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    behind_a_state: bool,
) -> None:
    """Tornado writes pongs by itself: they fill the line, too, and nobody is told."""
    line = _Line(monkeypatch)
    offered = threading.Event()
    offer = ProgressSocket.offer

    def note(self: ProgressSocket, progress: GenerationProgress, text: str) -> None:
        offer(self, progress, text)
        if progress.status.ended:
            offered.set()

    monkeypatch.setattr(ProgressSocket, "offer", note)
    server = make_server(watched)
    service.create_progress("a", 2)
    with connect(socket_url(server, "a"), ping_interval=None) as client:
        read(client)
        line.hold()
        state_bytes = None
        if behind_a_state:
            service.update_progress("a", current_step=1)
            state_bytes = line.wait_for_bytes()
        client.ping(b"p" * 100)
        line.wait_for_bytes()
        service.mark_complete("a")
        assert offered.wait(10)
        line.let_go(state_bytes)
        messages, code = read_all(client)
    assert (messages[-1]["status"], code) == ("completed", 1000)


def test_a_fault_of_ours_closes_with_1011_and_leaves_nothing(
    studio: Studio, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(studio, limits=Limits(watchers=1))
    with monkeypatch.context() as patch:
        patch.delattr(Studio, "get_progress")
        for _ in range(2):  # the first has made room for the second
            with connect(socket_url(server, "a")) as client:
                assert read_all(client) == ([], 1011)
    with connect(socket_url(server, "a")) as client:
        assert read(client)["type"] == "status"
    assert ask(server, "/health").status == 200
