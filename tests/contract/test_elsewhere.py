"""What one backend runs, another of the same data shows: states, steps, the end."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.backend import Backend
from nbgen.errors import DataFolderUnusable
from nbgen.schema import GenerationProgress, Outcome, Stage, Status, TaskQuery
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import STEPS, WAIT_S, hold, local_only, made, submit
from tests.parts import until_end

States = SimpleQueue[GenerationProgress]


def watch(backend: Backend, task_id: str) -> States:
    states: States = SimpleQueue()
    backend.watch(task_id, states.put)
    return states


def until_step(states: States, step: int) -> GenerationProgress:
    state = states.get(timeout=WAIT_S)
    while state.current_step < step:
        state = states.get(timeout=WAIT_S)
    return state


def check_order(seen: list[GenerationProgress]) -> None:
    """Check that nothing goes back, and that nothing is told twice."""
    seqs = [state.seq for state in seen]
    assert seqs == sorted(set(seqs))
    assert [s.current_step for s in seen] == sorted(s.current_step for s in seen)
    assert [s.elapsed_time for s in seen] == sorted(s.elapsed_time for s in seen)
    assert [s.timestamp for s in seen] == sorted(s.timestamp for s in seen)
    assert [s.status.ended for s in seen[:-1]] == [False] * (len(seen) - 1)


@local_only
def test_a_watcher_sees_the_steps_and_the_end(make_backend: MakeBackend) -> None:
    runs, gate = hold(make_backend)
    other = make_backend()
    states = watch(other, "runs")
    first = until_step(states, 1)
    assert (first.status, first.current_stage) == (
        Status.GENERATING,
        Stage.BASE_MODEL,
    )
    gate.open()
    seen = [first, *until_end(states)]
    check_order(seen)
    assert seen[-1].outcome is Outcome.SUCCEEDED
    assert seen[-1].result == runs.ended("runs").result(WAIT_S).result


@local_only
def test_a_task_can_be_watched_before_another_submits_it(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=3)
    runs = make_backend(gate)
    other = make_backend()
    states = watch(other, "a")
    submit(runs, "a")
    gate.wait_reached()
    seen = [until_step(states, 2)]
    gate.open()
    seen += until_end(states)
    check_order(seen)
    assert seen[-1].outcome is Outcome.SUCCEEDED


@local_only
def test_a_waiting_task_is_seen_to_wait_and_to_be_cancelled(
    make_backend: MakeBackend,
) -> None:
    runs, gate = hold(make_backend)
    other = make_backend()
    states = watch(other, "waits")
    submit(runs, "waits")
    assert states.get(timeout=WAIT_S).status is Status.PENDING
    runs.cancel(["waits"])
    assert until_end(states)[-1].outcome is Outcome.CANCELLED
    gate.open()


@local_only
def test_the_live_step_is_read_too(make_backend: MakeBackend) -> None:
    runs, gate = hold(make_backend)
    other = make_backend()
    states = watch(other, "runs")  # says when the live state is written
    until_step(states, 1)
    assert other.get_progress("runs").current_step == 1
    assert other.get_tasks(["runs"])[0].current_step == 1
    assert other.list_tasks(TaskQuery())[0].current_step == 1
    # Where it runs no sample is needed.
    assert runs.get_tasks(["runs"])[0].current_step == 1
    gate.open()
    until_end(states)
    assert other.get_tasks(["runs"])[0].current_step == STEPS


@local_only
def test_a_watcher_that_has_stopped_is_told_nothing(make_backend: MakeBackend) -> None:
    runs = make_backend()
    other = make_backend()
    stopped: States = SimpleQueue()
    other.watch("a", stopped.put)()
    states = watch(other, "a")
    made(runs, "a")
    until_end(states)
    assert stopped.empty()


@local_only
def test_many_tasks_are_watched_at_once(make_backend: MakeBackend) -> None:
    runs = make_backend()
    other = make_backend()
    names = [f"t{number}" for number in range(20)]
    watched = {name: watch(other, name) for name in names}
    made(runs, *names)
    for states in watched.values():
        seen = until_end(states)
        check_order(seen)
        assert seen[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_watcher_is_told_that_the_data_folder_has_vanished(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    _, gate = hold(make_backend)
    other = make_backend()
    states = watch(other, "runs")
    until_step(states, 1)
    folder = tmp_path / "data"
    away = folder.rename(folder.with_name("away"))
    state = states.get(timeout=WAIT_S)
    while "has vanished" not in state.message:
        state = states.get(timeout=WAIT_S)
    assert state.status is Status.GENERATING
    with pytest.raises(DataFolderUnusable):
        other.watch_changes(print)
    away.rename(folder)
    gate.open()
    assert until_end(states)[-1].outcome is Outcome.SUCCEEDED
