"""Who watches a task that another process runs sees its end."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from websockets.sync.client import connect

from nbgen.backend import ProgressCallback
from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress, GenerationRequest, Outcome, Status, utc_now
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from nbgen.testing.plugin import open_alone
from tests.parts import another_runs, until_end
from tests.server.client import ask, socket_url

REQUEST = GenerationRequest(prompt="a cat", num_inference_steps=2)


def following() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "nbgen-watching"]


def test_a_reader_sees_the_present_state_and_the_end(tmp_path: Path) -> None:
    """Another studio of this process, which is as far from here as another process."""
    gate = Gate()
    with (
        open_alone(tmp_path, engine=PatternEngine(gate)) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        told: SimpleQueue[GenerationProgress] = SimpleQueue()
        too_late: SimpleQueue[GenerationProgress] = SimpleQueue()
        runs.submit(REQUEST, task_id="a")
        gate.wait_reached()
        reader.watch("a", told.put)
        stop = reader.watch("a", too_late.put)
        for seen in (told, too_late):
            assert seen.get(timeout=10).status is Status.GENERATING
        stop()
        stop()
        gate.open()
        states = until_end(told)
        assert states[-1].outcome is Outcome.SUCCEEDED
        assert states[-1].result == runs.task("a").result(10)
        seqs = [state.seq for state in states]
        assert seqs == sorted(set(seqs))
        assert told.empty()
        assert too_late.empty()


class LateService(ProgressService):
    """Registers no watcher before it was told to go on, as a slow thread does."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()
        self._before = before

    def register_callback(
        self, task_id: str, callback: ProgressCallback
    ) -> Callable[[], None]:
        self._before()
        return super().register_callback(task_id, callback)


def test_an_end_while_the_watching_begins_is_told(tmp_path: Path) -> None:
    gate = Gate()
    runs = open_alone(tmp_path, engine=PatternEngine(gate))
    task = runs.submit(REQUEST, task_id="a")
    gate.wait_reached()

    def end() -> None:
        gate.open()
        task.result(10)
        for thread in threading.enumerate():
            if thread.name == "nbgen-watching":
                thread.join(10)

    told: SimpleQueue[GenerationProgress] = SimpleQueue()
    service = LateService(end)
    other = open_alone(tmp_path, engine=PatternEngine(), progress=service)
    with other:
        other.watch("a", told.put)
        assert until_end(told, 10)[-1].outcome is Outcome.SUCCEEDED
    service.close()
    runs.close()


def test_a_watching_that_is_ended_late_ends_no_other(tmp_path: Path) -> None:
    """The id of a deleted task is free, and may be watched again."""
    with (
        open_alone(tmp_path, engine=PatternEngine()) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        first: SimpleQueue[GenerationProgress] = SimpleQueue()
        again: SimpleQueue[GenerationProgress] = SimpleQueue()
        stop = reader.watch("a", first.put)
        runs.submit(REQUEST, task_id="a")
        until_end(first)
        runs.delete("a")
        reader.watch("a", again.put)
        stop()
        runs.submit(REQUEST, task_id="a")
        assert until_end(again)[-1].outcome is Outcome.SUCCEEDED
        assert first.empty()


def test_nobody_looks_where_nobody_watches(tmp_path: Path) -> None:
    gate = Gate()
    with (
        open_alone(tmp_path, engine=PatternEngine(gate)) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        runs.submit(REQUEST, task_id="a")
        stop = reader.watch("a", lambda _: None)
        [thread] = [t for t in threading.enumerate() if t.name == "nbgen-watching"]
        stop()
        thread.join(10)
        assert not thread.is_alive()
        reader.watch("a", lambda _: None)
        assert following()
        gate.open()
        runs.task("a").result(10)
    assert not following()


def test_a_task_that_another_could_have_run_is_followed_here(tmp_path: Path) -> None:
    told: SimpleQueue[GenerationProgress] = SimpleQueue()
    with open_alone(tmp_path, engine=PatternEngine(), release_after=0.01) as studio:
        with another_runs(tmp_path):
            studio.submit(REQUEST, task_id="a")
            studio.watch("a", told.put)
            assert told.get(timeout=10).status is Status.PENDING
        states = until_end(told)
        assert Status.GENERATING in {state.status for state in states}
        assert states[-1].outcome is Outcome.SUCCEEDED
        seqs = [state.seq for state in states]
        assert seqs == sorted(set(seqs))


def test_an_end_stays_told_though_a_clock_was_set_back(tmp_path: Path) -> None:
    behind = ProgressService(now=lambda: utc_now() - dt.timedelta(hours=1))
    with open_alone(tmp_path, engine=PatternEngine(), progress=behind) as studio:
        task = studio.submit(REQUEST, task_id="a")
        states: SimpleQueue[GenerationProgress] = SimpleQueue()
        studio.watch("a", states.put)
        end = until_end(states)[-1]
        task.result(10)
        assert end.seq > 1
        assert studio.get_progress("a") == end
    behind.close()


def test_each_attempt_is_watched_anew(tmp_path: Path) -> None:
    faults = [ValueError("boom")]

    def fail_once(_step: int) -> None:
        if faults:
            raise faults.pop()

    with (
        open_alone(tmp_path, engine=PatternEngine(fail_once)) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        first: SimpleQueue[GenerationProgress] = SimpleQueue()
        runs.submit(REQUEST, task_id="a")
        runs.watch("a", first.put)
        assert until_end(first)[-1].outcome is Outcome.FAILED
        runs.pause()
        reader.retry("a")
        told: SimpleQueue[GenerationProgress] = SimpleQueue()
        for studio in (runs, reader):
            assert studio.get_progress("a").status is Status.PENDING
        reader.watch("a", told.put)
        assert told.get(timeout=10).status is Status.PENDING
        runs.watch("a", first.put)
        runs.resume()
        assert until_end(first)[-1].outcome is Outcome.SUCCEEDED
        assert until_end(told)[-1].outcome is Outcome.SUCCEEDED


def test_http_tells_the_step_of_a_task_that_another_runs(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    gate = Gate(at_step=2)
    with (
        open_alone(tmp_path, engine=PatternEngine(gate)) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        runs.submit(REQUEST, task_id="a")
        gate.wait_reached()
        states: SimpleQueue[GenerationProgress] = SimpleQueue()
        reader.watch("a", states.put)  # says when the live state is written
        while states.get(timeout=10).current_step < 1:
            pass
        server = make_server(reader)
        [listed] = ask(server, "/api/tasks").body["tasks"]
        for task in (listed, ask(server, "/api/tasks/a").body):
            assert (task["status"], task["current_step"]) == ("generating", 1)
        gate.open()
        until_end(states)
        server.close()


def test_a_socket_of_a_reader_is_told_of_the_end(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    gate = Gate()
    with (
        open_alone(tmp_path, engine=PatternEngine(gate)) as runs,
        Studio.open_library(tmp_path) as reader,
    ):
        runs.submit(REQUEST, task_id="a")
        gate.wait_reached()
        server = make_server(reader)
        with connect(socket_url(server, "a")) as client:
            assert '"generating"' in client.recv(timeout=10)
            gate.open()
            messages = [client.recv(timeout=10)]
            while '"completed"' not in messages[-1]:
                messages.append(client.recv(timeout=10))
        server.close()
