"""``Watching``: each state of a task comes once, in order, up to its end."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

import pytest

from nbgen.backend import Backend
from nbgen.errors import UnknownTask
from nbgen.schema import GenerationProgress, Outcome, Preview, Stage, Status
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    asks,
    made,
    submit,
)
from tests.parts import until_end

States = SimpleQueue[GenerationProgress]


def check_whole(seen: list[GenerationProgress]) -> None:
    """Check that these are all states of a task that succeeded, from the first."""
    assert [state.seq for state in seen] == list(range(1, len(seen) + 1))
    assert [state.status.ended for state in seen[:-1]] == [False] * (len(seen) - 1)
    assert seen[0].status is Status.PENDING
    steps = [state.current_step for state in seen]
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 2, 3, 4}
    stages = [state.current_stage for state in seen if state.current_stage]
    assert list(dict.fromkeys(stages))[:2] == [Stage.LOAD, Stage.BASE_MODEL]
    assert stages[-1] is Stage.SAVE
    shares = [state.overall_percentage for state in seen]
    assert shares == sorted(shares)
    assert (seen[-1].outcome, shares[-1]) == (Outcome.SUCCEEDED, 100.0)


def test_progress_is_told_from_waiting_to_the_end(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    submit(backend, "a")
    gate.wait_reached()
    submit(backend, "b")
    states = {task_id: backend.get_progress(task_id) for task_id in "ab"}
    assert states["a"].status is Status.GENERATING
    assert (states["a"].current_step, states["a"].total_steps) == (1, 4)
    assert states["b"].status is Status.PENDING
    assert states["b"].seq == 1
    gate.open()
    end = backend.ended("b").result(WAIT_S)
    last = backend.get_progress("b")
    assert (last.status, last.outcome) == (Status.COMPLETED, Outcome.SUCCEEDED)
    assert (last.result, last.percentage) == (end.result, 100.0)


def test_an_unknown_task_has_no_progress(backend: Backend) -> None:
    with pytest.raises(UnknownTask):
        backend.get_progress("a")


def test_a_watcher_of_a_waiting_task_sees_all_states(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    submit(backend, "first")
    gate.wait_reached()
    submit(backend, "a")
    states: States = SimpleQueue()
    backend.watch("a", states.put)
    gate.open()
    check_whole(until_end(states))


def test_a_task_can_be_watched_before_it_exists(backend: Backend) -> None:
    states: States = SimpleQueue()
    backend.watch("a", states.put)
    submit(backend, "a")
    check_whole(until_end(states))


def test_a_late_watcher_begins_with_the_present_state(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=3)
    backend = make_backend(gate)
    submit(backend, "a")
    gate.wait_reached()
    states: States = SimpleQueue()
    backend.watch("a", states.put)
    first = states.get(timeout=WAIT_S)
    assert (first.current_step, first.status) == (2, Status.GENERATING)
    assert first == backend.get_progress("a")
    gate.open()
    later = until_end(states)
    numbers = [state.seq for state in (first, *later)]
    assert numbers == list(range(first.seq, first.seq + len(numbers)))


def test_a_watcher_of_an_ended_task_sees_its_end_alone(backend: Backend) -> None:
    made(backend, "a")
    states: States = SimpleQueue()
    backend.watch("a", states.put)
    assert states.get(timeout=WAIT_S) == backend.get_progress("a")
    assert states.empty()


def test_a_failure_and_a_cancel_are_the_last_states(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    submit(backend, "runs")
    gate.wait_reached()
    submit(backend, "waits")
    ends = {}
    for task_id in ("runs", "waits"):
        states: States = SimpleQueue()
        backend.watch(task_id, states.put)
        ends[task_id] = states
    backend.cancel(["runs", "waits"])
    gate.open()
    for task_id, states in ends.items():
        last = until_end(states)[-1]
        assert last.outcome is Outcome.CANCELLED
        assert last.error == backend.ended(task_id).result(WAIT_S).error


@pytest.mark.parametrize("begins_before", [True, False])
def test_nothing_is_told_once_the_watching_has_ended(
    make_backend: MakeBackend, begins_before: bool
) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    if begins_before:
        submit(backend, "a")
        gate.wait_reached()
    stopped: States = SimpleQueue()
    stop = backend.watch("a", stopped.put)
    if begins_before:
        stopped.get(timeout=WAIT_S)
    stop()
    stop()
    if not begins_before:
        submit(backend, "a")
    states: States = SimpleQueue()
    backend.watch("a", states.put)
    gate.open()
    until_end(states)
    assert stopped.empty()


def test_a_callback_that_raises_harms_nobody(
    make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend()

    def broken(_: GenerationProgress) -> None:
        raise RuntimeError("no")

    states: States = SimpleQueue()
    backend.watch("a", broken)
    backend.watch("a", states.put)
    submit(backend, "a")
    check_whole(until_end(states))
    assert "progress callback of task a raised" in caplog.text


def test_previews_are_shown_while_a_task_samples(make_backend: MakeBackend) -> None:
    backend = make_backend()
    seen: SimpleQueue[Preview] = SimpleQueue()
    stopped: SimpleQueue[Preview] = SimpleQueue()
    backend.watch_previews("a", seen.put)
    stop = backend.watch_previews("a", stopped.put)
    stop()
    stop()
    made(backend, "a", "b")
    assert seen.qsize() == 4
    assert seen.get().jpeg.startswith(b"\xff\xd8")
    assert stopped.empty()


def test_a_callback_may_call_the_backend(make_backend: MakeBackend) -> None:
    backend = make_backend()
    kept: SimpleQueue[Status] = SimpleQueue()

    def look(progress: GenerationProgress) -> None:
        if progress.status.ended:
            kept.put(backend.get_tasks(["a"])[0].status)

    watch: Callable[[], None] = backend.watch("a", look)
    backend.submit(asks(), task_id="a", priority=0)
    assert kept.get(timeout=WAIT_S) is Status.COMPLETED
    watch()
