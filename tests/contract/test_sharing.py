"""Several backends of the same data share one queue, and one at a time runs it."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest

from nbgen.backend import Backend
from nbgen.errors import TaskConflict, TaskNotEnded, TaskNotWaiting
from nbgen.schema import (
    AttemptOutcome,
    GenerationProgress,
    Outcome,
    QueueState,
    Status,
    TaskQuery,
    Verdict,
)
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    Follower,
    asks,
    hold,
    hold_telling,
    made,
    says,
    submit,
    told,
)
from tests.parts import until_end

pytestmark = pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)


def leave(make_backend: MakeBackend, *task_ids: str) -> None:
    """Leave tasks waiting of a backend that is closed."""
    gone = make_backend(runs=False)
    for task_id in task_ids:
        submit(gone, task_id)
    gone.close()


def open_on_left(make_backend: MakeBackend, *task_ids: str, **options: Any) -> Backend:
    """Return a backend that offers tasks, which were left waiting."""
    leave(make_backend, *task_ids)
    follower = Follower(make_backend(runs=False))
    backend = make_backend(**options)
    follower.until("task", task_ids[-1], "pending")
    return backend


def test_what_one_submits_another_runs(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    submit(other, "a")
    here, there = backend.ended("a"), other.ended("a")
    assert backend.waiting() == other.waiting() == ["a"]
    gate.open()
    assert there.result(WAIT_S)[:2] == ("a", Outcome.SUCCEEDED)
    assert here.result(WAIT_S)[:3] == there.result(WAIT_S)[:3]
    assert other.get_tasks(["a"]) == backend.get_tasks(["a"])
    assert submit(other, "runs").outcome is Outcome.SUCCEEDED


def test_a_batch_of_another_is_run(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    rows = {"cat": asks("a cat"), "dog": asks("a dog")}
    other.submit_batch("pets", rows, priority=0)
    backend.submit_batch("pets", rows, priority=0)
    assert other.waiting() == ["pets:cat", "pets:dog"]
    gate.open()
    for name in rows:
        assert other.ended(f"pets:{name}").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_changes_that_another_asks_for_are_made(make_backend: MakeBackend) -> None:
    backend = make_backend()
    made(backend, "a")
    other = make_backend(runs=False)
    asked = says("a", "ada", Verdict.CHANGES_REQUESTED, feedback="bluer")
    child = other.request_changes(asked, prompt="a blue cat")
    assert child is not None
    assert other.ended(child.id).result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_an_id_stands_for_one_request_everywhere(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    with pytest.raises(TaskConflict):
        other.submit(asks("a dog"), task_id="runs", priority=0)
    with pytest.raises(TaskNotEnded):
        other.submit(asks("a dog"), task_id="runs", priority=0, replace=True)
    gate.open()
    backend.ended("runs").result(WAIT_S)
    other.submit(asks("a dog"), task_id="runs", priority=0, replace=True)
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.get_tasks(["runs"])[0].request == asks("a dog")


def test_another_cancels_what_waits(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    submit(backend, "a")
    future = backend.ended("a")
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("a", states.put)
    other.cancel(["a"])
    assert future.result(WAIT_S).outcome is Outcome.CANCELLED
    assert until_end(states)[-1].outcome is Outcome.CANCELLED
    assert backend.waiting() == []
    gate.open()


def test_another_cancels_what_runs(make_backend: MakeBackend) -> None:
    backend, gate, is_asked = hold_telling(make_backend)
    other = make_backend(runs=False)
    here, there = backend.ended("runs"), other.ended("runs")
    other.cancel(["runs"])
    assert is_asked.wait(WAIT_S)
    gate.open()
    assert there.result(WAIT_S).outcome is Outcome.CANCELLED
    assert here.result(WAIT_S).error == "Cancelled at step 1 of 4."


def test_another_orders_what_waits(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    for task_id in "ab":
        submit(backend, task_id)
    other.prioritise("b", 1)
    submit(other, "c", priority=2)
    assert backend.waiting() == other.waiting() == ["c", "b", "a"]
    with pytest.raises(TaskNotWaiting):
        other.prioritise("runs", 1)
    follower = Follower(other)
    gate.open()
    seen = map(told, follower.until("task", "a", "succeeded"))
    starts = [task_id for _, task_id, state in seen if state == "generating"]
    assert starts == ["c", "b", "a"]


def test_another_tries_again_what_failed(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    gate.fail(ValueError("no"))
    assert other.ended("runs").result(WAIT_S).outcome is Outcome.FAILED
    other.pause()  # else it may run again before it is looked at
    [record] = other.retry(["runs"])
    assert (record.status, record.attempt) == (Status.PENDING, 1)
    gate.open()
    other.resume()
    assert other.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    outcomes = [attempt.outcome for attempt in other.attempts("runs")]
    assert outcomes == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert backend.get_progress("runs").outcome is Outcome.SUCCEEDED


def test_a_pause_is_everybodys_and_outlasts_all(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend(runs=False)
    submit(backend, "a")
    other.pause()
    gate.open()
    backend.ended("runs").result(WAIT_S)
    paused = QueueState(name="default", is_paused=True, has_runner=True, waiting=1)
    assert backend.queue_state() == other.queue_state() == paused
    other.close()
    backend.close()
    again = make_backend()
    assert again.queue_state().is_paused
    submit(again, "a")
    assert again.waiting() == ["a"]
    third = make_backend(runs=False)
    third.resume()
    assert again.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_what_a_closed_one_submitted_goes_on(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    other = make_backend()
    submit(other, "a")
    other.close()
    gate.open()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_another_goes_on_with_its_own_when_the_first_closes(
    make_backend: MakeBackend,
) -> None:
    backend, gate, is_asked = hold_telling(make_backend)
    other = make_backend()
    submit(other, "a")
    future = other.ended("a")
    closing = Thread(target=backend.close)
    closing.start()
    assert is_asked.wait(WAIT_S)
    gate.open()
    closing.join(WAIT_S)
    assert future.result(WAIT_S).outcome is Outcome.SUCCEEDED
    # What the first one had submitted is for a person to decide on.
    assert other.offered() == ["runs"]
    [attempt] = other.attempts("runs")
    assert attempt.outcome is AttemptOutcome.GIVEN_BACK
    submit(other, "runs")
    assert other.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert other.get_tasks(["runs"])[0].attempt == 2


def test_a_server_goes_on_with_all_when_the_first_closes(
    make_backend: MakeBackend,
) -> None:
    backend, gate, is_asked = hold_telling(make_backend)
    submit(backend, "a")
    other = make_backend(take_over=True)
    futures = [other.ended(task_id) for task_id in ("runs", "a")]
    closing = Thread(target=backend.close)
    closing.start()
    assert is_asked.wait(WAIT_S)
    gate.open()
    closing.join(WAIT_S)
    for future in futures:
        assert future.result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_what_waits_from_before_is_offered(make_backend: MakeBackend) -> None:
    backend = open_on_left(make_backend, "a", "b")
    assert backend.offered() == ["a", "b"]
    assert backend.waiting() == []
    assert backend.queue_state() == QueueState(
        name="default", has_runner=True, offered=2
    )
    [record] = backend.get_tasks(["a"])
    assert (record.status, record.is_offered) == (Status.PENDING, True)
    state = backend.get_progress("a")
    assert (state.status, state.message) == (
        Status.PENDING,
        "Waits from before. It runs once it is asked for.",
    )
    made(backend, "new")
    assert backend.offered() == ["a", "b"]
    backend.run_offered()
    for task_id in ("a", "b"):
        assert backend.ended(task_id).result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.offered() == []


def test_what_is_asked_for_before_it_is_offered_is_run(
    make_backend: MakeBackend,
) -> None:
    leave(make_backend, "a", "b")
    other = make_backend(runs=False)
    other.run_offered()
    backend = make_backend()
    for task_id in ("a", "b"):
        assert backend.ended(task_id).result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_one_that_is_submitted_again_runs_alone(make_backend: MakeBackend) -> None:
    backend = open_on_left(make_backend, "a", "b", queue_limit=2)
    record = submit(backend, "b")
    assert (record.status.ended, record.is_offered) == (False, False)
    assert backend.ended("b").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.offered() == ["a"]
    assert len(backend.list_tasks(TaskQuery())) == 2


def test_what_is_offered_can_be_cancelled_and_deleted(
    make_backend: MakeBackend,
) -> None:
    backend = open_on_left(make_backend, "a", "b")
    backend.cancel(["a"])
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.CANCELLED
    assert not backend.get_tasks(["a"])[0].is_offered
    backend.delete(["a"])
    assert backend.offered() == ["b"]


def test_a_server_runs_what_waits_from_before(make_backend: MakeBackend) -> None:
    leave(make_backend, "a")
    backend = make_backend(take_over=True)
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_a_batch_that_waits_from_before_runs_when_it_is_submitted_again(
    make_backend: MakeBackend,
) -> None:
    gone = make_backend(runs=False)
    rows = {"cat": asks("a cat"), "dog": asks("a dog")}
    gone.submit_batch("pets", rows, priority=0)
    gone.cancel(["pets:dog"])
    gone.close()
    backend = make_backend(queue_limit=1)
    # Whether they are offered by now or not.
    backend.submit_batch("pets", rows, priority=0)
    assert backend.ended("pets:cat").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.batch_rows("pets")[1].outcome is Outcome.CANCELLED


def test_what_is_submitted_again_before_it_is_offered_never_is(
    make_backend: MakeBackend,
) -> None:
    leave(make_backend, "a", "b")
    other = make_backend(runs=False)
    assert submit(other, "b").status is Status.PENDING
    follower = Follower(other)
    backend = make_backend()
    follower.until("task", "a", "pending")
    assert backend.offered() == ["a"]
    assert other.ended("b").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_what_waits_of_one_that_is_there_stays_its_own(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "a")
    other = make_backend(runs=False)
    follower = Follower(other)
    submit(other, "a")
    other.put_content("end", {})
    assert told(follower.next()) == ("content", "end", "known")
    gate.open()
