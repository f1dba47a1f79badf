"""The examples in docs/protocol.md have the shape of what the server sends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from nbgen.schema import Attempt, GenerationRequest
from nbgen.server import Server
from nbgen.server.base import _HTTP_ERRORS
from nbgen.studio import Studio
from nbgen.testing import MemoryBackend
from tests.server.client import ask, socket_url

CAT = "https://example.org/cat.png"
PAGE = Path(__file__).parent.parent.parent / "docs" / "protocol.md"


def shape(value: Any) -> Any:
    """Return what stays of a value when only keys and kinds count."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value)


@pytest.fixture(scope="module")
def examples() -> list[Any]:
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [json.loads(block) for block in blocks]


def test_the_examples_are_what_is_sent(
    studio: Studio,
    server: Server,
    make_server: Callable[..., Server],
    examples: list[Any],
) -> None:
    request = GenerationRequest(prompt="a dog")
    studio.submit_batch({"dog": request}, batch_id="pets").result(20)
    with connect(socket_url(server, "hero-1")) as client:
        body = {"prompt": "a cat", "task_id": "hero-1"}
        sent = [json.loads(client.recv())]
        generated = ask(server, "/api/media/generate", body)
        messages = [json.loads(message) for message in client]
    ask(server, "/api/queue/pause", {})
    following = {"prompt": "a dog", "task_id": "hero-2", "wait": False}
    ask(server, "/api/media/generate", following)
    queue = ask(server, "/api/queue").body
    with Studio(backend=MemoryBackend(checkpoint="tiny")) as of_tiny:
        model = ask(make_server(of_tiny), "/api/model").body
    sent += [
        next(m for m in messages if m["current_step"] == 32),
        messages[-1],
        ask(server, "/api/media/generate", {"prompt": "a cat", "width": 1001}).body,
        generated.body,
        ask(server, "/api/media/generate", {**body, "wait": False}).body,
        ask(server, "/api/batches/pets").body,
        queue,
        model,
        ask(
            server,
            "/api/content/tasks/hero-1/approve",
            {"approved": True, "reviewer_id": "ada", "human_feedback": "Just right"},
        ).body,
        ask(
            server,
            "/api/content/tasks/post-7",
            {"task_metadata": {"title": "Cats", "image": {"url": CAT}}},
            method="PUT",
        ).body,
        ask(
            server,
            "/api/content/tasks/bulk-decide",
            {
                "decisions": [
                    {"task_id": name, "approved": True, "reviewer_id": "ada"}
                    for name in ("post-7", "nope")
                ]
            },
        ).body,
    ]
    assert [shape(example) for example in examples] == [shape(body) for body in sent]
    assert examples[0] == sent[0]
    assert examples[3] == sent[3]
    assert examples[7] == queue
    assert examples[8] == model
    assert examples[-1]["results"][1] == sent[-1]["results"][1]
    assert studio.get_record("hero-1").approval_status == "approved"


def test_every_code_is_on_the_page() -> None:
    codes = {code for code, _ in _HTTP_ERRORS.values()}
    page = PAGE.read_text()
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_what_an_attempt_has_is_on_the_page() -> None:
    page = PAGE.read_text()
    fields = Attempt.__struct_fields__
    assert [name for name in fields if f"`{name}`" not in page] == []
