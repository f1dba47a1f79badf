"""Attempts: a task is tried again under its id, and made anew where that is asked."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.backend import Backend
from nbgen.errors import (
    DecisionConflict,
    QueueFull,
    TaskConflict,
    TaskNotEnded,
    TaskSucceeded,
    UnknownTask,
    WorkerDied,
)
from nbgen.schema import (
    WAITS_AGAIN,
    AttemptOutcome,
    GenerationProgress,
    Outcome,
    Status,
    TaskQuery,
    TaskRecord,
)
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    asks,
    decide,
    hold,
    made,
    says,
    submit,
)
from tests.parts import until_end

DIED = WorkerDied("It was killed.")
NO = ValueError("no")


class Trouble:
    """Has each run end with the next error, until there is none left."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self, step: int) -> None:
        if step == 3 and self.errors:
            raise self.errors.pop(0)


def failed(make_backend: MakeBackend, **options: Any) -> Backend:
    """Return a paused backend whose task ``a`` has failed."""
    backend = make_backend(Trouble(NO), **options)
    submit(backend, "a")
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.FAILED
    backend.pause()
    return backend


def outcomes(backend: Backend, task_id: str) -> list[AttemptOutcome | None]:
    attempts = backend.attempts(task_id)
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    return [attempt.outcome for attempt in attempts]


def only(backend: Backend) -> TaskRecord:
    [record] = backend.list_tasks(TaskQuery())
    return record


def test_a_retry_is_the_next_attempt_at_the_same_task(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(Trouble(NO))
    old = backend.submit(asks(seed=None), task_id="a", priority=3)
    backend.ended("a").result(WAIT_S)
    [first] = backend.attempts("a")
    backend.pause()
    [again] = backend.retry(["a"])
    assert again == only(backend)
    assert (again.status, again.outcome, again.error) == (Status.PENDING, None, None)
    assert (again.started_at, again.ended_at, again.result) == (None, None, None)
    assert (again.request, again.seed, again.priority) == (old.request, old.seed, 3)
    assert (again.created_at, again.attempt) == (old.created_at, 1)
    assert backend.attempts("a") == [first]
    assert backend.waiting() == ["a"]
    backend.resume()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    record = only(backend)
    assert (record.attempt, record.seed) == (2, old.seed)
    kept, second = backend.attempts("a")
    assert kept == first
    assert (first.outcome, first.error) == (AttemptOutcome.FAILED, "ValueError: no")
    assert second.outcome is AttemptOutcome.SUCCEEDED
    assert second.result == record.result
    assert first.lane == second.lane == record.lane
    assert record.lane
    assert first.started_at is not None
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.started_at <= first.ended_at <= second.started_at


def test_an_attempt_that_runs_is_told_of(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "a")
    [attempt] = backend.attempts("runs")
    assert (attempt.number, attempt.outcome, attempt.ended_at) == (1, None, None)
    assert attempt.request == backend.get_tasks(["runs"])[0].request
    assert backend.attempts("a") == []
    gate.open()
    with pytest.raises(UnknownTask):
        backend.attempts("z")


def test_what_was_cancelled_before_it_ran_is_made_by_a_retry(backend: Backend) -> None:
    backend.pause()
    submit(backend, "a")
    backend.cancel(["a"])
    assert outcomes(backend, "a") == []
    backend.retry(["a"])
    backend.resume()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert outcomes(backend, "a") == [AttemptOutcome.SUCCEEDED]


def test_what_was_cancelled_while_it_ran_is_made_by_a_retry(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    backend.cancel(["runs"])
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.CANCELLED
    backend.retry(["runs"])
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert outcomes(backend, "runs") == [
        AttemptOutcome.CANCELLED,
        AttemptOutcome.SUCCEEDED,
    ]


def test_a_retry_is_of_all_or_none(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate, queue_limit=2)
    gate.release(2)
    made(backend, "made", "decided")
    decide(backend, says("decided", "ada"))
    submit(backend, "runs")
    for _ in range(3):
        gate.wait_reached()
    for task_id in "ab":
        submit(backend, task_id)
    backend.cancel(["a", "b"])
    with pytest.raises(TaskNotEnded):
        backend.retry(["a", "runs"])
    with pytest.raises(UnknownTask):
        backend.retry(["a", "z"])
    with pytest.raises(TaskSucceeded, match="'made' has its pictures"):
        backend.retry(["a", "made"])
    with pytest.raises(DecisionConflict, match="a decision on task 'decided'"):
        backend.retry(["a", "decided"])
    submit(backend, "waits")
    with pytest.raises(QueueFull):
        backend.retry(["a", "b"])
    assert backend.waiting() == ["waits"]
    assert backend.retry([]) == []


def test_a_retry_that_names_a_task_twice_tries_it_once(
    make_backend: MakeBackend,
) -> None:
    backend = failed(make_backend, queue_limit=1)
    one, twin = backend.retry(["a", "a"])
    assert one == twin
    assert backend.waiting() == ["a"]


def test_a_task_that_is_tried_again_keeps_its_place(make_backend: MakeBackend) -> None:
    backend = failed(make_backend)
    submit(backend, "b")
    submit(backend, "c", priority=1)
    backend.retry(["a"])
    assert backend.waiting() == ["c", "a", "b"]


def test_the_same_submission_tries_again_what_failed(make_backend: MakeBackend) -> None:
    backend = failed(make_backend, queue_limit=1)
    again = submit(backend, "a", priority=5)
    assert (again.status, again.attempt, again.priority) == (Status.PENDING, 1, 0)
    assert submit(backend, "a") == again
    assert backend.waiting() == ["a"]
    backend.resume()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert outcomes(backend, "a") == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    record = only(backend)
    assert submit(backend, "a") == record
    assert backend.waiting() == []


def test_the_same_submission_leaves_what_was_cancelled(backend: Backend) -> None:
    backend.pause()
    submit(backend, "a")
    backend.cancel(["a"])
    assert submit(backend, "a").outcome is Outcome.CANCELLED
    assert backend.waiting() == []


def test_a_full_queue_takes_no_further_attempt(make_backend: MakeBackend) -> None:
    backend = failed(make_backend, queue_limit=1)
    submit(backend, "b")
    with pytest.raises(QueueFull):
        backend.submit(asks(), task_id="a", priority=0)
    assert backend.get_tasks(["a"])[0].outcome is Outcome.FAILED


def test_a_task_is_made_anew_with_another_request(backend: Backend) -> None:
    [old] = made(backend, "a")
    backend.pause()
    with pytest.raises(TaskConflict, match="anew with replace"):
        backend.submit(asks("a dog", seed=9), task_id="a", priority=2)
    dog = asks("a dog", seed=9)
    new = backend.submit(dog, task_id="a", priority=2, replace=True)
    assert new == only(backend)
    assert (new.request, new.seed, new.priority) == (dog, 9, 2)
    assert (new.status, new.attempt, new.result) == (Status.PENDING, 1, None)
    assert (new.step_times, new.made_with, new.current_step) == ({}, {}, 0)
    assert backend.list_tasks(TaskQuery(text="dog")) == [new]
    assert backend.list_tasks(TaskQuery(text="cat")) == []
    backend.resume()
    end = backend.ended("a").result(WAIT_S)
    first, second = backend.attempts("a")
    assert (first.request, first.seed, first.result) == (old.request, 7, old.result)
    assert (second.request, second.seed, second.result) == (dog, 9, end.result)
    assert end.result is not None
    assert end.result != old.result


def test_what_waits_or_runs_is_not_made_anew(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "waits")
    for task_id in ("runs", "waits"):
        with pytest.raises(TaskNotEnded):
            backend.submit(asks("x"), task_id=task_id, priority=0, replace=True)
    assert backend.get_tasks(["waits"])[0].request == asks()
    gate.open()


def test_what_is_decided_on_is_not_made_anew(backend: Backend) -> None:
    made(backend, "a")
    decide(backend, says("a", "ada"))
    with pytest.raises(DecisionConflict, match="Undo it before"):
        backend.submit(asks("a dog"), task_id="a", priority=0, replace=True)
    backend.undo("a", reviewer_id="ada")
    backend.submit(asks("a dog"), task_id="a", priority=0, replace=True)
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert only(backend).request.prompt == "a dog"


def test_replace_changes_nothing_where_nothing_differs(backend: Backend) -> None:
    backend.submit(asks(), task_id="a", priority=0, replace=True)
    backend.ended("a").result(WAIT_S)
    record = only(backend)
    assert backend.submit(asks(), task_id="a", priority=0, replace=True) == record
    assert outcomes(backend, "a") == [AttemptOutcome.SUCCEEDED]


def test_what_was_cancelled_is_made_anew(backend: Backend) -> None:
    backend.pause()
    submit(backend, "a")
    backend.cancel(["a"])
    backend.submit(asks("a dog"), task_id="a", priority=0, replace=True)
    backend.resume()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_a_deleted_task_takes_its_attempts_along(make_backend: MakeBackend) -> None:
    backend = failed(make_backend)
    backend.retry(["a"])
    backend.resume()
    backend.ended("a").result(WAIT_S)
    backend.delete(["a"])
    made(backend, "a")
    assert outcomes(backend, "a") == [AttemptOutcome.SUCCEEDED]


def test_a_further_attempt_is_watched_from_its_beginning(
    make_backend: MakeBackend,
) -> None:
    backend = failed(make_backend)
    assert backend.get_progress("a").outcome is Outcome.FAILED
    backend.retry(["a"])
    waits = backend.get_progress("a")
    assert (waits.status, waits.error) == (Status.PENDING, None)
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("a", states.put)
    backend.resume()
    seen = until_end(states)
    assert seen[0].status is Status.PENDING
    assert [state.current_step for state in seen] == sorted(
        state.current_step for state in seen
    )
    assert seen[-1].outcome is Outcome.SUCCEEDED
    assert backend.get_progress("a").outcome is Outcome.SUCCEEDED


def test_a_task_waits_again_when_its_process_died(make_backend: MakeBackend) -> None:
    backend = make_backend(Trouble(DIED, DIED))
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("a", states.put)
    submit(backend, "a")
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    lost = AttemptOutcome.LOST
    assert outcomes(backend, "a") == [lost, lost, AttemptOutcome.SUCCEEDED]
    first, _, last = backend.attempts("a")
    assert (first.error, first.result) == ("It was killed.", None)
    assert first.ended_at is not None
    assert last.seed == first.seed
    record = only(backend)
    assert (record.attempt, record.error) == (3, None)
    seen = until_end(states)
    assert WAITS_AGAIN in [state.message for state in seen]
    assert [s.seq for s in seen] == sorted({s.seq for s in seen})


def test_the_third_attempt_that_dies_fails_the_task(make_backend: MakeBackend) -> None:
    backend = make_backend(Trouble(DIED, DIED, DIED, DIED, DIED))
    submit(backend, "a")
    future = backend.ended("a")
    told = "The process that made it ended 3 times. The last time: It was killed."
    assert future.result(WAIT_S)[:3] == ("a", Outcome.FAILED, told)
    lost = AttemptOutcome.LOST
    assert outcomes(backend, "a") == [lost, lost, AttemptOutcome.FAILED]
    # A person's retry counts anew.
    backend.retry(["a"])
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert outcomes(backend, "a")[3:] == [lost, lost, AttemptOutcome.SUCCEEDED]


def test_a_task_that_waits_again_can_be_cancelled(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    backend.pause()
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("runs", states.put)
    future = backend.ended("runs")
    gate.fail(DIED)
    while states.get(timeout=WAIT_S).message != WAITS_AGAIN:
        pass
    assert backend.waiting() == ["runs"]
    assert not future.done()
    backend.cancel(["runs"])
    assert future.result(WAIT_S).outcome is Outcome.CANCELLED
    assert outcomes(backend, "runs") == [AttemptOutcome.LOST]
    assert until_end(states)[-1].outcome is Outcome.CANCELLED


def test_what_was_cancelled_is_not_tried_again_when_it_dies(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    backend.cancel(["runs"])
    gate.fail(DIED)
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.CANCELLED
    assert outcomes(backend, "runs") == [AttemptOutcome.CANCELLED]
