"""The protocol on the wire, seen by an outside client: the ``websockets`` library."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.iostream import IOStream
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from nbgen.progress import ProgressService
from nbgen.server import Limits, Server, Timing
from nbgen.server.progress_socket import ProgressSocket, Watchers
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.conftest import QUICK
from tests.server.client import socket_url

MakeStudio = Callable[..., Studio]
MakeServer = Callable[..., Server]

V1_FIELDS: dict[str, type | tuple[type, ...]] = {
    "type": str,
    "task_id": str,
    "status": str,
    "current_step": int,
    "total_steps": int,
    "percentage": float,
    "current_stage": str,
    "elapsed_time": float,
    "estimated_remaining": float,
    "error": (str, type(None)),
    "message": str,
    "timestamp": str,
}


def read(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=10))
    return message


def read_all(client: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Return every message up to the close, and the close code."""
    messages = []
    with suppress(ConnectionClosed):
        while True:
            messages.append(read(client))
    assert client.close_code is not None
    return messages, client.close_code


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_who_connects_before_the_start_sees_everything(
    studio: Studio, server: Server, prefix: str
) -> None:
    with connect(socket_url(server, "hero-1", prefix)) as client:
        assert read(client) == {
            "type": "status",
            "task_id": "hero-1",
            "message": "Waiting for generation to start...",
        }
        studio.generate("a cat", task_id="hero-1", num_inference_steps=50)
        messages, code = read_all(client)
    assert code == 1000
    assert {message["type"] for message in messages} == {"progress"}
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    steps = [
        (message["current_stage"], message["current_step"])
        for earlier, message in pairwise(messages)
        if message["current_step"] != earlier["current_step"]
    ]
    assert steps == [("base_model", n) for n in range(1, 41)] + [
        ("refiner_model", n) for n in range(41, 51)
    ]
    at_32 = next(m for m in messages if m["current_step"] == 32)
    assert (at_32["percentage"], at_32["total_steps"]) == (64.0, 50)
    statuses = [message["status"] for message in messages]
    assert statuses.count("completed") == 1
    last = messages[-1]
    assert (last["status"], last["percentage"]) == ("completed", 100.0)
    assert (last["outcome"], last["overall_percentage"]) == ("succeeded", 100.0)
    [image] = last["result"]["images"]
    assert image["url"].startswith("/images/")
    assert (image["width"], image["height"]) == (64, 64)
    for message in messages:
        for field, kind in V1_FIELDS.items():
            assert isinstance(message[field], kind), (field, message)
        assert ("outcome" in message) is (message is last)


def test_a_late_joiner_gets_the_present_state_then_every_later_one(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate(at_step=6)
    studio = make_studio(gate)
    server = make_server(studio)
    studio.generate("a cat", task_id="a", num_inference_steps=10)
    gate.wait_reached()
    with connect(socket_url(server, "a")) as client:
        first = read(client)
        assert (first["type"], first["current_step"]) == ("progress", 5)
        gate.open()
        messages, code = read_all(client)
    assert [m["seq"] for m in messages] == [
        first["seq"] + n for n in range(1, len(messages) + 1)
    ]
    assert sorted({m["current_step"] for m in messages}) == [6, 7, 8, 9, 10]
    assert (messages[-1]["status"], code) == ("completed", 1000)


def test_after_the_end_there_is_one_message_then_the_close(
    studio: Studio, server: Server
) -> None:
    studio.generate("a cat", task_id="a").result(10)
    for _ in range(2):
        with connect(socket_url(server, "a")) as client:
            [message], code = read_all(client)
        assert (message["status"], message["percentage"], code) == (
            "completed",
            100.0,
            1000,
        )


def test_the_end_is_remembered_over_a_restart(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    first = make_studio()
    first.generate("a cat", task_id="a").result(10)
    first.close()
    with connect(socket_url(make_server(make_studio()), "a")) as client:
        [message], code = read_all(client)
    assert (message["status"], message["outcome"], code) == (
        "completed",
        "succeeded",
        1000,
    )
    assert message["result"]["images"]


def test_a_cancelled_task_ends_as_failed(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    with connect(socket_url(make_server(studio), "a")) as client:
        read(client)
        task = studio.generate("a cat", task_id="a", num_inference_steps=10)
        task.cancel()
        gate.open()
        messages, code = read_all(client)
    last = messages[-1]
    assert (last["status"], last["outcome"], code) == ("failed", "cancelled", 1000)
    assert last["error"].startswith("Cancelled")
    assert last["result"] is None
    assert last["percentage"] < 100


def test_pings_are_answered_after_the_end(
    studio: Studio, make_server: MakeServer
) -> None:
    server = make_server(studio, timing=Timing(closing_grace_s=0.5))
    studio.generate("a cat", task_id="a").result(10)
    with connect(socket_url(server, "a")) as client:
        assert read(client)["status"] == "completed"
        client.send('{"type":"get_progress"}')
        client.send('{"type":"ping"}')
        assert read(client) == {"type": "pong"}
        assert read_all(client) == ([], 1000)


def test_get_progress_answers_with_the_present_state(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    with connect(socket_url(make_server(studio), "a")) as client:
        read(client)
        client.send('{"type":"get_progress"}')
        client.send('{"type":"ping"}')
        assert read(client) == {"type": "pong"}  # nothing is known yet
        studio.generate("a cat", task_id="a", num_inference_steps=3)
        while (seen := read(client))["current_stage"] != "base_model":
            pass
        client.send('{"type":"get_progress"}')
        assert read(client) == seen
        gate.open()
        assert read_all(client)[1] == 1000


GARBAGE: list[str | bytes] = [
    '{"type":"unknown"}',
    "{}",
    "{",
    "",
    "[]",
    "5",
    "null",
    '"ping"',
    '{"type":["ping"]}',
    "[" * 20_000,
    b"",
    b'{"type":"ping"}',
    b"\xff\x00",
]


def test_garbage_is_ignored(server: Server) -> None:
    with connect(socket_url(server, "a")) as client:
        read(client)
        for frame in GARBAGE:
            client.send(frame)
        client.send('{"type":"ping"}')
        assert read(client) == {"type": "pong"}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=st.text(max_size=200) | st.binary(max_size=200))
def test_any_frame_leaves_the_connection_alive(
    server: Server, frame: str | bytes
) -> None:
    with connect(socket_url(server, "a")) as client:
        read(client)
        client.send(frame)
        client.send('{"type":"ping"}')
        assert read(client) == {"type": "pong"}


def test_a_frame_too_big_closes_with_1009(server: Server) -> None:
    with connect(socket_url(server, "a")) as client:
        read(client)
        client.send("x" * (64 * 1024 + 1))
        assert read_all(client) == ([], 1009)


def test_keep_alive_comes_to_a_silent_client(
    studio: Studio, make_server: MakeServer
) -> None:
    server = make_server(studio, timing=Timing(keep_alive_s=0.05))
    with connect(socket_url(server, "a")) as client:
        read(client)
        assert [read(client), read(client)] == [{"type": "keep-alive"}] * 2


@pytest.mark.parametrize("task_id", ["a%2Fb", "a/b", "a%20b", "x" * 129, "%2e%2e"])
def test_an_id_that_cannot_be_is_refused_on_the_handshake(
    server: Server, task_id: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(socket_url(server, task_id))
    response = refused.value.response
    assert response.status_code == 422
    error = json.loads(response.body)["error"]
    assert (error["code"], error["field"]) == ("invalid_request", "task_id")
    assert error["message"].startswith("task_id must be 1 to 128 letters")


def test_an_encoded_id_is_decoded(studio: Studio, server: Server) -> None:
    studio.generate("a cat", task_id="a:b").result(10)
    with connect(socket_url(server, "a%3Ab")) as client:
        assert read(client)["task_id"] == "a:b"


def test_closing_the_server_says_so(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    server = make_server(studio)
    task = studio.generate("a cat", task_id="a")
    with connect(socket_url(server, "a")) as client:
        read(client)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert read_all(client)[1] == 1001
        closing.join()
    assert "nbgen-server" not in {thread.name for thread in threading.enumerate()}
    gate.open()
    task.result(10)


def test_a_disconnect_does_not_stop_the_task(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    task = studio.generate("a cat", task_id="a")
    with connect(socket_url(make_server(studio), "a")) as client:
        read(client)
    gate.open()
    task.result(10)


def test_too_many_watchers(studio: Studio, make_server: MakeServer) -> None:
    server = make_server(studio, limits=Limits(watchers=1))
    with connect(socket_url(server, "a")) as first:
        read(first)
        with connect(socket_url(server, "b")) as second:
            assert read_all(second) == ([], 4013)
        first.send('{"type":"ping"}')
        assert read(first) == {"type": "pong"}


def stalled_client(server: Server, task_id: str) -> socket.socket:
    """Return a socket that has shaken hands and then reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(
        (
            f"GET /ws/image-generation/{task_id} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
    )
    return raw


def flood(service: ProgressService, task_id: str) -> None:
    """Publish more than the buffers of a client that does not read can hold."""
    service.create_progress(task_id, 150)
    for number in range(150):
        service.update_progress(
            task_id, current_step=number + 1, message=f"{number} " + "x" * 20_000
        )


def test_a_stalled_client_delays_nobody_and_misses_no_end(
    tmp_path: Any, make_server: MakeServer
) -> None:
    service = ProgressService()
    with Studio(tmp_path, engine=PatternEngine(), progress=service) as studio:
        small = Limits(send_buffer=4096)
        server = make_server(studio, timing=QUICK, limits=small)
        stalled = stalled_client(server, "a")
        received = stalled.recv(4096)
        assert received.startswith(b"HTTP/1.1 101")
        seen: list[dict[str, Any]] = []

        with connect(socket_url(server, "a"), max_size=None) as client:
            read(client)
            flooding = threading.Thread(target=flood, args=[service, "a"])
            flooding.start()
            while not (seen and seen[-1]["current_step"] == 150):
                seen.append(read(client))
            flooding.join()
            service.mark_complete("a")
            messages, code = read_all(client)
        assert (messages[-1]["status"], code) == ("completed", 1000)

        # Now the stalled one reads: far fewer states, and the end among them.
        stalled.settimeout(10)
        with stalled:
            while chunk := stalled.recv(65536):
                received += chunk
        assert received.count(b'"type":"progress"') < 75
        assert received.count(b'"status":"completed"') == 1
    service.close()


def test_a_client_that_reads_nothing_is_dropped(
    tmp_path: Any, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, left = threading.Event(), threading.Event()
    close, leave = ProgressSocket.close, Watchers.leave

    def note_close(self: ProgressSocket, *args: Any) -> None:
        close(self, *args)
        if args[0] == 4008:
            closing.set()

    def note_leave(self: Watchers, *args: Any) -> None:
        leave(self, *args)
        left.set()

    monkeypatch.setattr(ProgressSocket, "close", note_close)
    monkeypatch.setattr(Watchers, "leave", note_leave)
    service = ProgressService()
    with Studio(tmp_path, engine=PatternEngine(), progress=service) as studio:
        server = make_server(
            studio,
            timing=Timing(stall_limit_s=0.1),
            limits=Limits(send_buffer=4096),
        )
        with stalled_client(server, "a") as stalled:
            assert stalled.recv(4096).startswith(b"HTTP/1.1 101")
            flood(service, "a")
            assert closing.wait(10)
            assert left.wait(10)
    service.close()


def test_what_we_use_of_tornado_is_there() -> None:
    """``writing`` says whether bytes wait; the fan-out stands on it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def check() -> tuple[bool, bool]:
        stream = IOStream(ours)
        future = stream.write(b"x")
        before = stream.writing()
        future = stream.write(b"x" * 10_000_000)
        after = stream.writing()
        stream.close()
        future.exception() if future.done() else future.cancel()
        return before, after

    assert asyncio.run(check()) == (False, True)
    theirs.close()
