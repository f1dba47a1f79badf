"""The queue runs one job at a time, by priority, and can be held and bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbgen.local.job_queue import Job, JobQueue

from nbgen.errors import QueueFull
from nbgen.schema import GenerationRequest, Outcome, TaskEnd

REQUEST = GenerationRequest(prompt="a cat")


class Runs:
    """What a queue ran, and the gate that each run waits at."""

    def __init__(self) -> None:
        self.started: SimpleQueue[str] = SimpleQueue()
        self.gate = threading.Semaphore(0)
        self.idle: SimpleQueue[None] = SimpleQueue()
        self.empty: SimpleQueue[str] = SimpleQueue()

    def run(self, job: Job) -> None:
        self.started.put(job.task_id)
        self.gate.acquire()
        job.done.set_result(TaskEnd(job.task_id, Outcome.SUCCEEDED))


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def make_queue(runs: Runs) -> Iterator[Callable[..., JobQueue]]:
    made = []

    def make(limit: int = 100, idle_s: float | None = None) -> JobQueue:
        queue = JobQueue(
            runs.run,
            stop=lambda: None,
            on_idle=lambda: runs.idle.put(None),
            idle_s=idle_s,
            limit=limit,
        )
        queue.start(
            on_empty=lambda: runs.empty.put(threading.current_thread().name),
            is_asked_to_rest=lambda: False,
        )
        made.append(queue)
        return queue

    yield make
    for queue in made:
        runs.gate.release(1000)
        queue.close(finish=False)


def job(task_id: str, priority: int = 0) -> Job:
    return Job(task_id, REQUEST, 0, priority=priority)


def test_higher_priorities_run_first(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    queue = make_queue()
    queue.set_paused(paused=True)
    for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5)]:
        queue.submit([job(name, priority)])
    assert queue.waiting() == ["b", "d", "a", "c"]
    queue.prioritise("c", 9)
    queue.prioritise("gone", 9)
    runs.gate.release(4)
    queue.set_paused(paused=False)
    assert [runs.started.get(timeout=10) for _ in range(4)] == ["c", "b", "d", "a"]


@given(
    st.lists(st.integers(-3, 3), max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(-3, 3))),
)
def test_the_order_is_that_of_priority_and_submission(
    priorities: list[int], changes: list[tuple[int, int]]
) -> None:
    queue = JobQueue(
        lambda _: None,
        stop=lambda: None,
        on_idle=lambda: None,
        idle_s=None,
        limit=1000,
    )
    queue.set_paused(paused=True)
    for number, priority in enumerate(priorities):
        queue.submit([job(str(number), priority)])
    now = dict(enumerate(priorities))
    for number, priority in changes:
        queue.prioritise(str(number), priority)
        if number in now:
            now[number] = priority
    expected = sorted(now, key=lambda number: (-now[number], number))
    assert queue.waiting() == [str(number) for number in expected]
    queue.close(finish=False)
    assert queue.waiting() == []


def test_a_paused_queue_finishes_what_runs(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    queue = make_queue()
    first, second = job("a"), job("b")
    queue.submit([first])
    assert runs.started.get(timeout=10) == "a"
    queue.set_paused(paused=True)
    queue.submit([second])
    runs.gate.release()
    first.done.result(timeout=10)
    assert queue.waiting() == ["b"]
    queue.set_paused(paused=False)
    assert runs.started.get(timeout=10) == "b"


def test_closing_can_wait_for_what_runs(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    for finish in (True, False):
        queue = make_queue()
        running, waiting = job("a"), job("b")
        queue.submit([running])
        assert runs.started.get(timeout=10) == "a"
        queue.submit([waiting])
        runs.gate.release()
        queue.close(finish=finish)
        assert running.done.done()
        assert waiting.done.done()
        assert not waiting.cancel.cancelled
        assert not (finish and running.cancel.cancelled)


def test_a_full_queue_says_what_to_do(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(limit=2)
    queue.set_paused(paused=True)
    queue.submit([job("a")])
    queue.check_room(1)
    make_queue(limit=0).check_room(0)
    with pytest.raises(QueueFull, match=r"1 of at most 2 is waiting\. .*queue_limit"):
        queue.check_room(2)


def test_an_idle_queue_says_so_once_until_it_has_worked(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    queue = make_queue(idle_s=0.01)
    for number in range(2):
        runs.idle.get(timeout=10)
        with pytest.raises(Empty):
            runs.idle.get(timeout=0.2)
        runs.gate.release()
        queue.submit([job(str(number))])
    runs.idle.get(timeout=10)


def test_an_empty_queue_says_so_when_the_last_has_ended(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    queue = make_queue()
    queue.submit([job("a"), job("b")])
    runs.gate.release()
    assert [runs.started.get(timeout=10) for _ in range(2)] == ["a", "b"]
    assert runs.empty.empty()
    assert not queue.is_empty
    runs.gate.release()
    assert runs.empty.get(timeout=10) == "nbgen-worker"
    assert queue.is_empty
    assert runs.empty.empty()


def test_a_job_is_queued_once(make_queue: Callable[..., JobQueue], runs: Runs) -> None:
    queue = make_queue()
    queue.submit([job("a")])
    assert runs.started.get(timeout=10) == "a"
    queue.submit([job("a"), job("b"), job("c")])
    queue.submit([job("c"), job("b")])
    assert queue.waiting() == ["b", "c"]


def test_a_cancelled_job_keeps_its_place_until_it_is_taken_out(
    make_queue: Callable[..., JobQueue], runs: Runs
) -> None:
    queue = make_queue()
    jobs = [job(name) for name in "abc"]
    queue.submit(jobs)
    assert runs.started.get(timeout=10) == "a"
    asked = queue.cancel(["a", "b", "gone"])
    assert asked == [jobs[1]]
    assert [job.cancel.cancelled for job in jobs] == [True, True, False]
    assert queue.waiting() == ["b", "c"]
    assert queue.take_out(jobs) == jobs[1:]
    assert queue.find("b") is None
    assert queue.find("a") is jobs[0]
    assert not queue.is_empty
