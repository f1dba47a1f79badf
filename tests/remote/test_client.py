"""Following a task over a connection that breaks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from nbgen.errors import (
    AccessDenied,
    InvalidRequest,
    NbgenError,
    ServerUnreachable,
    UnexpectedAnswer,
)
from nbgen.remote.client import fetch_image, growing_pauses, submit, watch_task
from nbgen.schema import GenerationProgress, GenerationRequest
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.wire.http import GenerateBody
from nbgen.wire.progress import ProgressMessage, StatusMessage, encode
from tests.conftest import QUICK
from tests.wire.test_progress import ENDED, WAITING, state

CAT = GenerateBody.of(GenerationRequest(prompt="a cat"), wait=True)


def at_once() -> Iterator[float]:
    return itertools.repeat(0.0)


class Script:
    """What a server does with its connections, one after another.

    A number below 1,000 is an HTTP status to refuse with; any other is the code to
    close with, after all messages are sent.
    """

    def __init__(self, *steps: tuple[list[str], int]) -> None:
        self.steps = list(steps)
        self.connections = 0

    def refuse(
        self, connection: ServerConnection, _request: Request
    ) -> Response | None:
        self.connections += 1
        if (status := self.steps[0][1]) < 1_000:
            del self.steps[0]
            return connection.respond(HTTPStatus(status), "Not now.\n")
        return None

    async def serve(self, connection: ServerConnection) -> None:
        messages, code = self.steps.pop(0)
        for message in messages:
            await connection.send(message)
        await connection.close(code)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with serve(
            self.serve, "127.0.0.1", 0, process_request=self.refuse
        ) as server:
            [socket] = server.sockets
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"


def follow(script: Script) -> list[GenerationProgress]:
    """Return what a client sees of a server that acts by a script."""

    async def run() -> list[GenerationProgress]:
        async with script.running() as url:
            return [seen async for seen in watch_task(url, "a", pauses=at_once)]

    return asyncio.run(asyncio.wait_for(run(), 30))


def sent(progress: GenerationProgress) -> str:
    return encode(ProgressMessage.of(progress))


def test_a_broken_connection_is_made_again(
    make_studio: Callable[..., Studio],
) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    first = Server(studio, timing=QUICK)
    first.start()
    studio.generate("a cat", task_id="a", num_inference_steps=5)
    gate.wait_reached()
    second = Server(studio, port=first.port, timing=QUICK)
    seen: list[GenerationProgress] = []

    async def run() -> None:
        async for progress in watch_task(first.url, "a"):
            seen.append(progress)
            if len(seen) == 1:
                await asyncio.to_thread(first.close)
                await asyncio.to_thread(second.start)
                gate.open()

    asyncio.run(asyncio.wait_for(run(), 30))
    second.close()
    assert seen[0].current_step == 2
    assert (seen[-1].status, seen[-1].current_step) == ("completed", 5)


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
def test_whatever_is_answered_meanwhile_the_client_comes_back(status: int) -> None:
    """As a proxy answers while the server behind it restarts."""
    refused: list[tuple[list[str], int]] = [([], status)] * 3
    script = Script(
        ([sent(WAITING)], 1001), *refused, ([sent(state(2)), sent(ENDED)], 1000)
    )
    assert follow(script) == [WAITING, state(2), ENDED]
    assert script.connections == 5


@pytest.mark.parametrize("status", [401, 403, 422])
def test_a_refusal_meanwhile_is_told(status: int) -> None:
    """As after a restart with another token: to try again would not help."""
    script = Script(([sent(WAITING)], 1001), ([], status), ([sent(ENDED)], 1000))
    with pytest.raises(UnexpectedAnswer, match=f"HTTP status {status}"):
        follow(script)
    assert script.connections == 2


@pytest.mark.parametrize("code", [1001, 1011, 3000, 4008, 4013, 4499])
def test_after_other_codes_the_client_comes_back(code: int) -> None:
    waiting = encode(StatusMessage(task_id="a"))
    script = Script(([waiting, sent(WAITING)], code), ([sent(ENDED)], 1000))
    assert follow(script) == [WAITING, ENDED]


def test_after_1000_the_client_stops() -> None:
    script = Script(([sent(WAITING)], 1000), ([sent(ENDED)], 1000))
    assert follow(script) == [WAITING]
    assert script.connections == 1


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4999])
def test_after_final_codes_the_client_stops_with_an_error(code: int) -> None:
    script = Script(([sent(WAITING)], code), ([sent(ENDED)], 1000))
    with pytest.raises(AccessDenied, match=f"closed the connection for good .{code} "):
        follow(script)
    assert script.connections == 1


def test_a_first_answer_that_is_wrong_is_told_at_once() -> None:
    script = Script(([], 503), ([sent(ENDED)], 1000))
    with pytest.raises(UnexpectedAnswer, match="answered with HTTP status 503"):
        follow(script)
    assert script.connections == 1


def test_what_the_server_refuses_first_is_told_as_it_says(studio: Studio) -> None:
    async def watch(url: str, task_id: str, token: str | None = None) -> None:
        async for _ in watch_task(url, task_id, token=token):
            pass

    with Server(studio, timing=QUICK, token="s3cret") as server:
        with pytest.raises(AccessDenied, match="wants a token"):
            asyncio.run(watch(server.url, "a"))
        with pytest.raises(InvalidRequest) as raised:
            asyncio.run(watch(server.url, "a b", "s3cret"))
        assert raised.value.field == "task_id"
    with pytest.raises(ServerUnreachable, match=r"no nbgen server at"):
        asyncio.run(watch(server.url, "a"))
    with pytest.raises(InvalidRequest, match="url must be an address"):
        asyncio.run(watch("localhost:8000", "a"))


def test_pauses_grow_to_ten_seconds_and_are_drawn() -> None:
    def most(_least: float, most: float) -> float:
        return most

    def least(least: float, _most: float) -> float:
        return least

    longest = list(itertools.islice(growing_pauses(most), 7))
    assert longest == [0.5, 1, 2, 4, 8, 10, 10]
    shortest = list(itertools.islice(growing_pauses(least), 7))
    assert shortest == [pause / 2 for pause in longest]
    drawn = itertools.islice(growing_pauses(), 7)
    assert all(a <= b <= c for a, b, c in zip(shortest, drawn, longest, strict=True))


def test_pauses_begin_anew_once_a_message_has_come() -> None:
    begun: list[int] = []

    def pauses() -> Iterator[float]:
        begun.append(0)
        while True:
            begun[-1] += 1
            yield 0.0

    refused: tuple[list[str], int] = ([], 503)
    script = Script(
        ([sent(WAITING)], 1001),
        refused,
        refused,
        ([sent(WAITING)], 1001),
        ([sent(ENDED)], 1000),
    )

    async def run() -> None:
        async with script.running() as url:
            async for _ in watch_task(url, "a", pauses=pauses):
                pass

    asyncio.run(asyncio.wait_for(run(), 30))
    assert [count for count in begun if count] == [3, 1]


def test_submit_and_fetch(studio: Studio) -> None:
    async def run(url: str) -> bytes:
        task = await submit(url, CAT, token="s3cret")
        [*_, last] = [p async for p in watch_task(url, task.task_id, token="s3cret")]
        assert last.result is not None
        path = last.result.images[0].url
        return await fetch_image(url, path, token="s3cret")

    with Server(studio, timing=QUICK, token="s3cret") as server:
        assert asyncio.run(run(server.url)).startswith(b"\x89PNG")
        gone = GenerationRequest(prompt="a cat", image="0" * 32 + ".png")
        unknown = GenerateBody.of(gone, wait=True)
        with pytest.raises(InvalidRequest, match="image must be") as raised:
            asyncio.run(submit(server.url, unknown, token="s3cret"))
        assert raised.value.field == "image"
        with pytest.raises(AccessDenied, match="wants a token"):
            asyncio.run(submit(server.url, CAT))
        with pytest.raises(NbgenError) as missing:
            asyncio.run(fetch_image(server.url, "/nope", token="s3cret"))
        assert missing.value.code == "not_found"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NbgenError, match=r"no nbgen server at http://127\.0\.0\.1:1 "):
        asyncio.run(fetch_image("http://127.0.0.1:1", f"/images/{tmp_path.name}"))
