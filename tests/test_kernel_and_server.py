"""A kernel and ``nbgen serve`` share a data folder; each asks, and either runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.errors import TaskCancelled
from nbgen.schema import GenerationProgress, Status
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.testing.plugin import MakeStudio
from tests.parts import until, until_end

WAIT_S = 60.0
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2}
LONG = {"width": 64, "height": 64, "num_inference_steps": 150, "num_images": 16}


class Serving:
    """``nbgen serve`` on a folder, with the tiny checkpoint."""

    def __init__(self, folder: Path) -> None:
        program = [sys.executable, "-u", "-m", "nbgen", "serve", "--port", "0"]
        self._process = subprocess.Popen(
            [*program, "--checkpoint", "tiny", "--data-dir", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert self._process.stdout is not None
        found = re.search(r"http://\S+", self._process.stdout.readline())
        assert found is not None
        self.url = found[0]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Get, or post a body, and return the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data)
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(WAIT_S) == 0
        finally:
            self._process.kill()
            with self._process:
                pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def serving(folder: Path) -> Iterator[Serving]:
    serves = Serving(folder)
    yield serves
    serves.close()


def wait_running(studio: Studio, task_id: str) -> None:
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    stop = studio.watch(task_id, states.put)
    while states.get(timeout=WAIT_S).current_step < 1:
        pass
    stop()


def test_a_kernel_runs_what_a_server_is_asked_for(
    folder: Path, make_studio: MakeStudio
) -> None:
    gate = Gate(at_step=2)
    kernel = make_studio(gate)
    kernel.generate("first", task_id="first", num_inference_steps=3)
    gate.wait_reached()  # so the kernel has the turn
    serves = Serving(folder)
    try:
        posted = {"prompt": "second", "task_id": "second", "wait": False, **SMALL}
        assert serves.ask("/api/media/generate", posted)["status"] == "pending"
        assert kernel.waiting() == ["second"]
        assert serves.ask("/api/tasks/first")["status"] == "generating"
        serves.ask("/api/tasks/first/cancel", {})
        gate.open()
        with pytest.raises(TaskCancelled):
            kernel.task("first").result(WAIT_S)
        assert kernel.task("second").result(WAIT_S).images
        decision = {"reviewer_id": "ada", "approved": True}
        serves.ask("/api/content/tasks/second/approve", decision)
        assert kernel.review("second").status == "approved"
        kernel.undo("second", reviewer_id="ada")
        answer = serves.ask("/api/tasks/second")
        assert answer["approval_status"] == "pending"
        assert answer["lane"] == kernel.get_record("second").lane
    finally:
        gate.open()
        serves.close()


def test_a_server_runs_what_a_kernel_asks_for(
    serving: Serving, make_studio: MakeStudio
) -> None:
    posted = {"prompt": "long", "task_id": "long", "wait": False, **LONG}
    serving.ask("/api/media/generate", posted)
    kernel = make_studio()
    wait_running(kernel, "long")
    small = kernel.generate("small", task_id="small", **SMALL)  # type: ignore[arg-type]
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    small.watch(states.put)
    assert kernel.waiting() == ["small"]
    kernel.cancel("long")
    with pytest.raises(TaskCancelled):
        kernel.task("long").result(WAIT_S)
    assert small.result(WAIT_S).images
    seen = until_end(states, WAIT_S)
    assert seen[0].status is Status.PENDING
    # The server's, not the patterns of this process.
    assert "tiny" in small.record.made_with["checkpoint"]
    kernel.reject("small", reviewer_id="ada", feedback="No.")
    assert serving.ask("/api/tasks/small")["approval_status"] == "rejected"


def test_a_kernel_takes_over_when_the_server_ends(
    folder: Path, make_studio: MakeStudio
) -> None:
    serves = Serving(folder)
    posted = {"prompt": "long", "task_id": "long", "wait": False, **LONG}
    serves.ask("/api/media/generate", posted)
    kernel = make_studio()
    own = kernel.generate("small", task_id="small", **SMALL)  # type: ignore[arg-type]
    wait_running(kernel, "long")
    serves.close()
    assert own.result(WAIT_S).images
    # The server's own task is offered, and not run unasked.
    until(kernel, lambda: kernel.offered() == ["long"], WAIT_S)
    again = Serving(folder)
    try:
        until(kernel, lambda: kernel.offered() == [], WAIT_S)
    finally:
        again.close()
