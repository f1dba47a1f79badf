"""The HTTP API of the queue, asked as an outside client would."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbgen.schema import Outcome
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.changing import until_changed
from tests.server.client import ask

MakeStudio = Callable[..., Studio]
MakeServer = Callable[..., Server]

GENERATE = "/api/media/generate"


def submit(server: Server, task_id: str, **fields: Any) -> None:
    body = {"prompt": "a cat", "task_id": task_id, "num_inference_steps": 3}
    sent = ask(server, GENERATE, {**body, "wait": False, **fields})
    assert sent.status == 202


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status, answer.body["error"]["code"]


def test_the_queue_is_shown_paused_and_resumed(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    server = make_server(studio)
    for task_id in "abc":
        submit(server, task_id)
    gate.wait_reached()
    queue = {
        "name": "default",
        "is_paused": False,
        "has_runner": True,
        "running": ["a"],
        "waiting": ["b", "c"],
        "offered": [],
    }
    assert ask(server, "/api/queue").body == queue
    paused = ask(server, "/api/queue/pause", {})
    assert (paused.status, paused.body) == (200, {**queue, "is_paused": True})
    gate.open()
    assert studio.task("a").result(10).images
    assert ask(server, "/api/queue").body["waiting"] == ["b", "c"]
    resumed = ask(server, "/api/queue/resume", {})
    assert (resumed.status, resumed.body["is_paused"]) == (200, False)
    assert studio.task("c").result(10).images


def test_a_priority_over_http(studio: Studio, server: Server) -> None:
    studio.pause()
    submit(server, "a")
    submit(server, "b")
    moved = ask(server, "/api/tasks/b/priority", {"priority": 7})
    assert (moved.status, moved.body["priority"]) == (200, 7)
    assert ask(server, "/api/queue").body["waiting"] == ["b", "a"]
    for wrong in ({}, {"priority": "7"}, {"priority": 1001}, {"priority": None}):
        refused = ask(server, "/api/tasks/b/priority", wrong)
        assert code_of(refused) == (422, "invalid_request")
        assert refused.body["error"]["field"] == "priority"
    gone = ask(server, "/api/tasks/gone/priority", {"priority": 7})
    assert code_of(gone) == (404, "unknown_task")
    ask(server, "/api/tasks/b/cancel", {})
    ended = ask(server, "/api/tasks/b/priority", {"priority": 1})
    assert code_of(ended) == (409, "task_not_waiting")


def test_a_retry_and_the_history_over_http(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    faults = iter([True, False])

    def fail_once(step: int) -> None:
        if step == 1 and next(faults):
            raise ValueError("It broke.")

    studio = make_studio(fail_once)
    server = make_server(studio)
    assert ask(server, "/api/tasks/gone/retry", {}).status == 404
    assert ask(server, "/api/tasks/gone/history").status == 404
    submit(server, "a", seed=7)
    assert studio.backend.ended("a").result(10).outcome is Outcome.FAILED
    studio.pause()
    again = ask(server, "/api/tasks/a/retry", {})
    assert (again.status, again.body["status"], again.body["seed"]) == (
        200,
        "pending",
        7,
    )
    assert code_of(ask(server, "/api/tasks/a/retry", {})) == (409, "task_not_ended")
    assert [each["number"] for each in attempts(server, "a")] == [1]
    studio.resume()
    assert studio.task("a").result(10).images
    first, second = attempts(server, "a")
    assert (first["number"], first["outcome"]) == (1, "failed")
    assert first["error"] == "ValueError: It broke."
    assert (second["number"], second["outcome"]) == (2, "succeeded")
    assert second["started_at"] > first["ended_at"]
    assert second["request"]["prompt"] == "a cat"
    assert len(second["result"]["images"]) == 1
    refused = ask(server, "/api/tasks/a/retry", {})
    assert code_of(refused) == (409, "task_succeeded")


def attempts(server: Server, task_id: str) -> Any:
    answer = ask(server, f"/api/tasks/{task_id}/history")
    assert (answer.status, answer.body["task_id"]) == (200, task_id)
    return answer.body["attempts"]


def test_the_links_of_a_task_lead_on(studio: Studio, server: Server) -> None:
    studio.pause()
    sent = ask(
        server, GENERATE, {"prompt": "a cat", "task_id": "a", "wait": False}
    ).body["links"]
    assert ask(server, sent["history"]).body == {"task_id": "a", "attempts": []}
    assert ask(server, sent["cancel"], {}).body["outcome"] == "cancelled"
    assert ask(server, sent["retry"], {}).body["outcome"] is None


def test_a_cancelled_task_says_how_it_is_made_after_all(
    studio: Studio, server: Server
) -> None:
    studio.pause()
    submit(server, "a")
    studio.cancel("a")
    studio.resume()
    body = {"prompt": "a cat", "task_id": "a", "num_inference_steps": 3}
    answer = ask(server, GENERATE, body)
    assert answer.body["success"] is False
    assert answer.body["message"] == (
        "Cancelled before it started. To have it made, POST /api/tasks/a/retry."
    )
    ask(server, "/api/tasks/a/retry", {})
    assert ask(server, GENERATE, body).body["success"] is True


def test_an_ended_task_is_replaced_once_that_is_asked_for(
    studio: Studio, server: Server
) -> None:
    cat = {"prompt": "a cat", "task_id": "a", "num_inference_steps": 3}
    dog = {**cat, "prompt": "a dog"}
    first = ask(server, GENERATE, cat)
    assert code_of(ask(server, GENERATE, dog)) == (409, "task_conflict")
    wrong = ask(server, GENERATE, {**dog, "replace": "yes"})
    assert code_of(wrong) == (422, "invalid_request")
    assert wrong.body["error"]["field"] == "replace"
    second = ask(server, GENERATE, {**dog, "replace": True})
    assert (second.status, second.body["success"]) == (200, True)
    assert second.body["image_url"] != first.body["image_url"]
    prompts = [each["request"]["prompt"] for each in attempts(server, "a")]
    assert prompts == ["a cat", "a dog"]
    # Said again, it is the same task.
    again = ask(server, GENERATE, {**dog, "replace": True})
    assert again.body["image_url"] == second.body["image_url"]
    studio.approve("a", reviewer_id="ada")
    decided = ask(server, GENERATE, {**cat, "replace": True})
    assert code_of(decided) == (409, "decision_conflict")


def test_what_waits_from_before_is_told(
    tmp_path: Path, make_server: MakeServer
) -> None:
    with Studio(tmp_path, engine=PatternEngine()) as studio:
        studio.pause()
        studio.generate("a cat", task_id="a")
    with Studio(tmp_path, engine=PatternEngine()) as studio:
        server = make_server(studio)
        until_changed(studio, lambda: studio.offered() == ["a"])
        states = ask(server, "/api/queue").body
        assert (states["offered"], states["waiting"]) == (["a"], [])
        assert ask(server, "/api/tasks/a").body["is_offered"] is True


def test_a_machine_is_named_without_its_domain(
    make_studio: MakeStudio,
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "gpu-1.lab.example")
    server = make_server(make_studio())
    body = {"prompt": "a cat", "task_id": "a", "num_inference_steps": 3}
    ask(server, GENERATE, body)
    assert ask(server, "/api/tasks/a").body["lane"] == "gpu-1"
    [attempt] = attempts(server, "a")
    assert attempt["lane"] == "gpu-1"
    assert "lab.example" not in json.dumps(attempt)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/queue"),
        ("GET", "/api/queue/pause"),
        ("GET", "/api/tasks/a/retry"),
        ("POST", "/api/tasks/a/history"),
    ],
)
def test_a_method_that_an_address_does_not_take(
    server: Server, method: str, path: str
) -> None:
    body: Any = {} if method == "POST" else None
    answer = ask(server, path, body, method=method)
    assert code_of(answer) == (405, "method_not_allowed")


@pytest.mark.parametrize("what", ["retry", "history", "priority"])
def test_what_is_no_id_of_a_task(server: Server, what: str) -> None:
    body: Any = None if what == "history" else {"priority": 1}
    answer = ask(server, f"/api/tasks/a%20b/{what}", body)
    assert code_of(answer) == (422, "invalid_request")
