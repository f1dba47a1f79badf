"""Two processes share a data folder: what one does, the other sees, once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from nbgen.schema import (
    Change,
    ChangeKind,
    Changes,
    GenerationProgress,
    Outcome,
    Status,
)
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.testing.plugin import MakeStudio
from tests.other_process import HELD_AT, OtherProcess
from tests.parts import until_end

WAIT_S = 30.0
STEPS = 40

States = SimpleQueue[GenerationProgress]


@pytest.fixture
def folder(
    tmp_path: Path, database: str | None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return the folder of a database of each kind, which both processes open."""
    if database is not None:
        monkeypatch.setenv("NBGEN_DATABASE", database)
    return tmp_path / "data"


@pytest.fixture
def other(folder: Path) -> Iterator[OtherProcess]:
    process = OtherProcess(folder)
    try:
        yield process
    finally:
        status = process.close()
    assert status == 0


@pytest.fixture
def studio(folder: Path, other: OtherProcess) -> Iterator[Studio]:  # noqa: ARG001
    """Return a studio beside the other process, which runs no task."""
    with Studio.open_library(folder) as studio:
        yield studio


def watch(studio: Studio, task_id: str) -> States:
    states: States = SimpleQueue()
    studio.watch(task_id, states.put)
    return states


def test_a_hundred_tasks_are_seen_and_decided_on_beside_their_process(
    studio: Studio, other: OtherProcess
) -> None:
    ids = [f"t{number}" for number in range(100)]
    watched = {task_id: watch(studio, task_id) for task_id in ids}
    told: SimpleQueue[Changes] = SimpleQueue()
    studio.watch_changes(told.put)
    other.tell(submits=ids)
    seen: list[Change] = []
    decided: dict[str, str] = {}
    while not (seen and seen[-1].id == "end"):
        for change in told.get(timeout=WAIT_S).changes:
            seen.append(change)
            if change.state == "succeeded":
                decide = studio.reject if len(decided) % 3 else studio.approve
                verdict = decide(change.id, reviewer_id="ada").verdict
                decided[change.id] = verdict.value
                if len(decided) == len(ids):
                    studio.put_content("end", {})
    there = [said_change(other)]
    while there[-1].id != "end":
        there.append(said_change(other))
    # Every change, in one order, on both sides: so none twice and none left out.
    assert there == seen
    assert [change.number for change in seen] == list(range(1, len(seen) + 1))
    tasks = Counter(
        (change.id, change.state) for change in seen if change.kind is ChangeKind.TASK
    )
    states = ("pending", "generating", "succeeded")
    assert tasks == Counter((each, state) for each in ids for state in states)
    verdicts = Counter(
        (change.id, change.state)
        for change in seen
        if change.kind is ChangeKind.DECISION
    )
    assert verdicts == Counter(decided.items())
    for states_of_one in watched.values():
        assert until_end(states_of_one)[-1].outcome is Outcome.SUCCEEDED
        assert states_of_one.empty()


def said_change(other: OtherProcess) -> Change:
    change = other.next().change
    assert change is not None
    return change


def test_slow_tasks_are_seen_at_least_twice_a_second(
    studio: Studio, other: OtherProcess
) -> None:
    ids = ["slow-0", "slow-1"]
    watched = [watch(studio, task_id) for task_id in ids]
    other.tell(submits=ids, prompt="slow", steps=STEPS)
    for states in watched:
        seen = until_end(states)
        assert states.empty()
        running = [state for state in seen if state.status is Status.GENERATING]
        ended = seen[-1]
        assert ended.outcome is Outcome.SUCCEEDED
        assert len(running) >= 2 * ended.elapsed_time
        steps = {state.current_step for state in running}
        assert len(steps) >= ended.elapsed_time
        assert [state.seq for state in seen] == sorted({state.seq for state in seen})


def messages_of(url: str) -> Iterator[dict[str, Any]]:
    """Connect, and yield every message up to the close."""
    with connect(url) as client:
        try:
            while True:
                yield json.loads(client.recv(timeout=WAIT_S))
        except ConnectionClosed:
            assert client.close_code == 1000


def socket_of(url: str, task_id: str) -> str:
    return f"{url.replace('http', 'ws', 1)}/ws/image-generation/{task_id}"


def check_messages(
    messages: Iterator[dict[str, Any]],
    submit: Callable[[], object],
    let_go: Callable[[], object],
) -> None:
    """Check what a socket is sent that was opened before its task existed."""
    first = next(messages)
    assert (first["type"], first["task_id"]) == ("status", "a")
    submit()
    seen = [next(messages)]
    while seen[-1]["current_step"] < HELD_AT - 1:
        seen.append(next(messages))
    assert seen[-1]["status"] == "generating"
    let_go()
    seen += list(messages)
    statuses = [message["status"] for message in seen]
    assert statuses.count("completed") == 1
    assert statuses[-1] == "completed"
    assert seen[-1]["outcome"] == "succeeded"
    assert len(seen[-1]["result"]["images"]) == 1
    steps = [message["current_step"] for message in seen]
    assert steps == sorted(steps)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_socket_of_nbgen_serve_shows_what_a_kernel_runs(
    folder: Path, make_studio: MakeStudio
) -> None:
    gate = Gate(HELD_AT)
    kernel = make_studio(gate)
    program = [sys.executable, "-m", "nbgen", "serve", "--port", "0"]
    with subprocess.Popen(
        [*program, "--checkpoint", "tiny", "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as serves:
        assert serves.stdout is not None
        try:
            found = re.search(r"http://\S+", serves.stdout.readline())
            assert found is not None
            check_messages(
                messages_of(socket_of(found[0], "a")),
                lambda: kernel.generate("a cat", task_id="a", num_inference_steps=9),
                gate.open,
            )
        finally:
            serves.send_signal(signal.SIGTERM)
        assert serves.wait(WAIT_S) == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_socket_of_the_process_that_decides_shows_what_another_runs(
    folder: Path, other: OtherProcess, make_server: Callable[..., Any]
) -> None:
    with Studio.open_library(folder) as studio:
        server = make_server(studio)
        check_messages(
            messages_of(socket_of(server.url, "a")),
            lambda: other.tell(submits=["a"], prompt="held", steps=9),
            lambda: other.tell(lets_go=True),
        )
        server.close()


def test_a_kernel_watches_what_was_posted_to_a_server(
    studio: Studio, other: OtherProcess
) -> None:
    states = watch(studio, "a")
    other.tell(serves=True)
    url = other.next().url
    body = {"prompt": "held", "task_id": "a", "num_inference_steps": 9, "wait": False}
    request = urllib.request.Request(
        f"{url}/api/media/generate", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as response:
        assert response.status in (200, 202)
    seen = [states.get(timeout=WAIT_S)]
    while seen[-1].current_step < HELD_AT - 1:
        seen.append(states.get(timeout=WAIT_S))
    assert seen[-1].status is Status.GENERATING
    other.tell(lets_go=True)
    seen += until_end(states)
    assert states.empty()
    assert seen[-1].outcome is Outcome.SUCCEEDED
    assert [state.current_step for state in seen] == sorted(
        state.current_step for state in seen
    )
