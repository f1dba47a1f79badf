"""Following a task over a connection that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import AccessDenied, NbgenError
from nbgen.remote.client import fetch_image, submit, watch_task
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate
from tests.conftest import QUICK


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
    seen: list[dict[str, Any]] = []

    async def follow() -> None:
        async for message in watch_task(first.url, "a"):
            seen.append(message)
            if len(seen) == 1:
                await asyncio.to_thread(first.close)
                await asyncio.to_thread(second.start)
                gate.open()

    asyncio.run(asyncio.wait_for(follow(), 30))
    second.close()
    assert seen[0]["current_step"] == 2
    assert (seen[-1]["status"], seen[-1]["current_step"]) == ("completed", 5)


def test_submit_and_fetch(studio: Studio) -> None:
    async def run(url: str) -> bytes:
        task = await submit(url, {"prompt": "a cat"}, token="s3cret")
        [*_, last] = [m async for m in watch_task(url, task["task_id"], token="s3cret")]
        path = last["result"]["images"][0]["url"]
        return await fetch_image(url, path, token="s3cret")

    with Server(studio, timing=QUICK, token="s3cret") as server:
        assert asyncio.run(run(server.url)).startswith(b"\x89PNG")
        with pytest.raises(NbgenError, match="prompt must be"):
            asyncio.run(submit(server.url, {"prompt": ""}, token="s3cret"))
        with pytest.raises(AccessDenied, match="wants a token"):
            asyncio.run(submit(server.url, {"prompt": "a cat"}))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NbgenError, match=r"no nbgen server at http://127\.0\.0\.1:1 "):
        asyncio.run(fetch_image("http://127.0.0.1:1", f"/images/{tmp_path.name}"))
