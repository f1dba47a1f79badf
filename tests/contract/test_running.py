"""``Running``: tasks are submitted, ordered and cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from nbgen.backend import Backend
from nbgen.errors import (
    InvalidRequest,
    QueueFull,
    TaskConflict,
    TaskNotWaiting,
    UnknownTask,
)
from nbgen.schema import (
    GenerationRequest,
    Outcome,
    OutputFormat,
    QueueState,
    Status,
    TaskQuery,
)
from nbgen.testing import Gate, PatternEngine
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    A_PICTURE,
    WAIT_S,
    asks,
    hold,
    made,
    png,
    submit,
)


def ids(backend: Backend) -> list[str]:
    return [record.id for record in backend.list_tasks(TaskQuery())]


def test_a_submitted_task_is_returned_and_kept(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    record = backend.submit(asks("a dog", seed=3), task_id="a", priority=5)
    assert (record.id, record.seed, record.priority) == ("a", 3, 5)
    assert (record.status, record.outcome) == (Status.PENDING, None)
    assert record.request == asks("a dog", seed=3)
    assert backend.get_tasks(["a"]) == [record]


def test_an_id_and_a_seed_are_drawn_if_none_is_given(backend: Backend) -> None:
    one, other = (
        backend.submit(asks(seed=None), task_id=None, priority=0) for _ in range(2)
    )
    assert one.id != other.id
    assert one.request.seed is None
    assert one.seed >= 0


def test_the_same_id_and_request_are_the_same_task(backend: Backend) -> None:
    [record] = made(backend, "a")
    assert submit(backend, "a") == record
    assert ids(backend) == ["a"]


def test_an_id_stands_for_one_request(backend: Backend) -> None:
    submit(backend, "a")
    with pytest.raises(TaskConflict, match="'a' exists with another request"):
        backend.submit(asks("a dog"), task_id="a", priority=0)
    assert ids(backend) == ["a"]


@pytest.mark.parametrize(
    ("task_id", "priority", "field"),
    [("a/b", 0, "task_id"), ("a", 1_001, "priority"), ("a", -1_001, "priority")],
)
def test_an_id_and_a_priority_are_checked(
    backend: Backend, task_id: str, priority: int, field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        backend.submit(asks(), task_id=task_id, priority=priority)
    assert ids(backend) == []


@pytest.mark.parametrize("field", ["image", "mask"])
def test_a_request_refers_to_kept_pictures_only(backend: Backend, field: str) -> None:
    kept = backend.keep_picture("image", png())
    request = asks(**{"image": kept, field: A_PICTURE})
    with pytest.raises(InvalidRequest, match=field):
        backend.submit(request, task_id="a", priority=0)
    backend.submit(asks(image=kept, mask=kept), task_id="a", priority=0)
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_no_more_tasks_wait_than_may(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend, queue_limit=1)
    submit(backend, "a")
    with pytest.raises(QueueFull, match="queue 1 more task: 1 of at most 1 is waiting"):
        backend.submit(asks(), task_id="b", priority=0)
    submit(backend, "a")
    assert backend.waiting() == ["a"]


def test_tasks_run_by_priority_then_in_their_order(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    for task_id, priority in [("a", 0), ("b", 0), ("c", 1), ("d", -1)]:
        submit(backend, task_id, priority=priority)
    assert backend.waiting() == ["c", "a", "b", "d"]
    gate.open()
    for task_id in "abcd":
        backend.ended(task_id).result(WAIT_S)
    records = backend.get_tasks(list("abcd"))
    started = {record.started_at: record.id for record in records}
    assert [started[at] for at in sorted(filter(None, started))] == list("cabd")
    assert backend.waiting() == []


def test_a_priority_is_changed_while_a_task_waits(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    for task_id in "ab":
        submit(backend, task_id)
    backend.prioritise("b", 1)
    assert backend.waiting() == ["b", "a"]
    backend.prioritise("b", 0)
    assert backend.waiting() == ["a", "b"]
    backend.prioritise("a", -7)
    assert backend.waiting() == ["b", "a"]
    assert backend.get_tasks(["a"])[0].priority == -7
    with pytest.raises(TaskNotWaiting):
        backend.prioritise("runs", 1)
    with pytest.raises(UnknownTask):
        backend.prioritise("z", 1)
    with pytest.raises(InvalidRequest, match="priority"):
        backend.prioritise("a", 1_001)
    gate.open()
    backend.ended("a").result(WAIT_S)
    with pytest.raises(TaskNotWaiting):
        backend.prioritise("a", 1)


def test_a_pause_lets_the_running_task_go_on(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    backend.pause()
    submit(backend, "a")
    gate.open()
    backend.ended("runs").result(WAIT_S)
    assert backend.waiting() == ["a"]
    backend.resume()
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_the_queue_tells_where_it_stands(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    for task_id in "ab":
        submit(backend, task_id)
    assert backend.queue_state() == QueueState(
        name="default", has_runner=True, waiting=2, running=1
    )
    assert backend.running() == ["runs"]
    backend.pause()
    assert backend.queue_state().is_paused
    backend.cancel(["a"])
    gate.open()
    backend.ended("runs").result(WAIT_S)
    assert backend.queue_state() == QueueState(
        name="default", is_paused=True, has_runner=True, waiting=1
    )
    backend.resume()
    backend.ended("b").result(WAIT_S)
    assert backend.queue_state() == QueueState(name="default", has_runner=True)
    assert backend.running() == []


def test_nothing_is_offered_of_what_waits_here(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    submit(backend, "a")
    assert backend.offered() == []
    backend.run_offered()
    assert backend.waiting() == ["a"]


def test_an_end_says_what_was_made(backend: Backend) -> None:
    [record] = made(backend, "a")
    end = backend.ended("a").result(WAIT_S)
    assert (end.task_id, end.outcome) == ("a", Outcome.SUCCEEDED)
    assert end.result == record.result
    assert (end.error, end.cause) == (None, None)
    assert (record.status, record.current_step) == (Status.COMPLETED, 4)
    assert record.result is not None
    assert [image.seed for image in record.result.images] == [7]
    assert record.made_with == {"checkpoint": "pattern"}
    assert record.stages.keys() >= {"load", "base_model", "decode"}
    assert record.started_at is not None
    assert record.ended_at is not None
    assert record.created_at <= record.started_at <= record.ended_at


def test_an_end_is_kept_before_it_is_told(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    future = backend.ended("runs")
    assert not future.done()
    kept: list[Status] = []
    future.add_done_callback(
        lambda _: kept.append(backend.get_tasks(["runs"])[0].status)
    )
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    backend.close(finish=True)
    assert kept == [Status.COMPLETED]


def test_a_failure_is_an_end_with_its_cause(make_backend: MakeBackend) -> None:
    cause = RuntimeError("the model broke")
    gate = Gate(at_step=2)

    def fail(step: int) -> None:
        gate(step)
        if step == 2:
            raise cause

    backend = make_backend(fail)
    submit(backend, "a")
    future = backend.ended("a")
    gate.open()
    end = future.result(WAIT_S)
    assert (end.outcome, end.result, end.cause) == (Outcome.FAILED, None, cause)
    [record] = backend.get_tasks(["a"])
    assert record.error == end.error == "RuntimeError: the model broke"
    assert (record.status, record.current_step) == (Status.FAILED, 1)
    again = backend.ended("a").result(WAIT_S)
    assert (again.outcome, again.error) == (end.outcome, end.error)


class Wrong(PatternEngine):
    """Makes one picture too few, or one that cannot be encoded."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        pictures = list(super().generate(*args, **kwargs))
        if args[0].prompt == "too few":
            yield from pictures[1:]
        else:
            yield Image.new("LAB", (8, 8))


def test_an_engine_that_makes_too_few_pictures_has_failed(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(engine=Wrong())
    request = GenerationRequest(prompt="too few", num_images=2)
    task_id = backend.submit(request, task_id=None, priority=0).id
    end = backend.ended(task_id).result(WAIT_S)
    assert (end.outcome, end.error) == (
        Outcome.FAILED,
        "The engine made 1 of 2 pictures. The first 1 of 2 pictures were kept.",
    )
    assert end.result is not None


def test_a_picture_that_cannot_be_encoded_fails_its_task_alone(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(engine=Wrong())
    for _ in range(2):
        request = GenerationRequest(prompt="wrong", output_format=OutputFormat.PNG)
        task_id = backend.submit(request, task_id=None, priority=0).id
        end = backend.ended(task_id).result(WAIT_S)
        assert (end.outcome, end.result) == (Outcome.FAILED, None)


def test_nobody_who_waits_can_cancel_the_future(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    assert not backend.ended("runs").cancel()
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED


def test_an_unknown_task_has_no_end(backend: Backend) -> None:
    with pytest.raises(UnknownTask):
        backend.ended("a")


def test_a_cancel_ends_what_waits_at_once(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    submit(backend, "a")
    submit(backend, "b")
    future = backend.ended("a")
    backend.cancel(["a"])
    assert future.result(WAIT_S).outcome is Outcome.CANCELLED
    [record] = backend.get_tasks(["a"])
    assert (record.status, record.outcome) == (Status.FAILED, Outcome.CANCELLED)
    assert record.error == "Cancelled before it started."
    assert record.started_at is None
    assert backend.waiting() == ["b"]


def test_a_cancel_ends_what_runs(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    backend.cancel(["runs"])
    gate.open()
    end = backend.ended("runs").result(WAIT_S)
    assert end.outcome is Outcome.CANCELLED
    assert end.error == "Cancelled at step 1 of 4."


def test_a_cancel_leaves_ended_tasks_as_they_are(backend: Backend) -> None:
    before = made(backend, "a")
    backend.cancel(["a"])
    backend.cancel([])
    assert backend.get_tasks(["a"]) == before


def test_a_cancel_of_an_unknown_task_asks_none(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "a")
    with pytest.raises(UnknownTask):
        backend.cancel(["a", "runs", "z"])
    assert backend.waiting() == ["a"]
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
