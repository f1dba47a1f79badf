"""Many tasks as one: queued at once, watched, cancelled and tried again together."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from nbgen.errors import (
    InvalidRequest,
    NbgenError,
    QueueFull,
    TaskCancelled,
    TaskConflict,
    TaskUnfinished,
    UnknownBatch,
    UnknownTask,
)
from nbgen.handles import Batch
from nbgen.handles.batch import RowResult
from nbgen.schema import (
    AttemptOutcome,
    BatchProgress,
    ChangedRows,
    GenerationRequest,
    GenerationResult,
    Plan,
    Position,
    TaskEnd,
    resolved,
)
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.parts import library

MakeStudio = Callable[..., Studio]
Wait = Callable[[Batch], list[RowResult]]


def request(prompt: str, **fields: object) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, num_inference_steps=5, **fields)  # type: ignore[arg-type]


def requests(*prompts: str) -> dict[str, GenerationRequest]:
    return {prompt.replace(" ", "-"): request(prompt) for prompt in prompts}


def counts(progress: BatchProgress) -> tuple[int, ...]:
    """Return pending, generating, succeeded, failed, cancelled and lost."""
    return (
        progress.pending,
        progress.generating,
        progress.succeeded,
        progress.failed,
        progress.cancelled,
        progress.lost,
    )


def test_a_batch_tells_how_far_it_is(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a cat", "a dog"), batch_id="pets")
    gate.wait_reached()
    assert counts(batch.progress) == (1, 1, 0, 0, 0, 0)
    assert 0 < batch.progress.percentage < 50
    assert not batch.progress.remaining_known
    gate.release()
    gate.wait_reached()
    studio.task("pets:a-cat").result(10)  # it is saved while the next one samples
    half = batch.progress
    assert counts(half) == (0, 1, 1, 0, 0, 0)
    assert 50 < half.percentage < 100
    assert half.remaining_known
    assert half.estimated_remaining > 0
    assert not half.ended
    gate.release()
    first, second = batch.result(10)
    assert isinstance(first, GenerationResult)
    assert isinstance(second, GenerationResult)
    assert counts(batch.progress) == (0, 0, 2, 0, 0, 0)
    assert (batch.progress.percentage, batch.progress.total) == (100.0, 2)
    assert batch.progress.ended
    assert batch.task_ids == ["pets:a-cat", "pets:a-dog"]
    assert [record.id for record in studio.tasks(batch_id="pets")] == [
        "pets:a-dog",
        "pets:a-cat",
    ]
    assert studio.tasks(batch_id="pets", text="DOG")[0].batch_row == "a-dog"
    assert studio.tasks(batch_id="others") == []


def test_what_is_there_or_under_way_is_not_made_again(studio: Studio) -> None:
    batch = studio.submit_batch(requests("a cat", "a dog"), batch_id="pets")
    batch.result(10)
    again = studio.submit_batch(requests("a dog", "a bird"), batch_id="pets")
    again.result(10)
    assert again.task_ids == ["pets:a-dog", "pets:a-bird"]
    assert len(studio.tasks()) == 3
    assert studio.batch("pets").rows == ("a-cat", "a-dog", "a-bird")
    assert repr(again) == "Batch(2 rows)"
    assert repr(again.progress) == "BatchProgress(2 rows: 2 succeeded)"
    assert repr(studio.batch_rows("pets")[0]) == "BatchRow('a-cat', succeeded)"
    [_bird, _dog, cat] = page = studio.tasks()
    assert repr(cat) == "TaskRecord(completed, 5 steps, seed random)"
    assert repr(page) == f"[{', '.join(map(repr, page))}]"
    sized = studio.generate("x", width=64, height=128, seed=7, num_inference_steps=1)
    sized.result(10)
    assert repr(sized.record) == "TaskRecord(completed, 1 step, 64x128, seed 7)"


def test_a_row_stays_what_it_is(studio: Studio) -> None:
    studio.submit_batch(requests("a cat", "a dog"), batch_id="pets").result(10)
    with pytest.raises(TaskConflict, match=r"Task 'pets:a-dog' exists with another"):
        studio.submit_batch(
            {"a-bird": request("a bird"), "a-dog": request("a dogfish")},
            batch_id="pets",
        )
    assert len(studio.tasks()) == 2


def test_what_a_reviewer_asked_for_is_tried_again(make_studio: MakeStudio) -> None:
    broken = [True]

    def before_step(_step: int) -> None:
        if studio.tasks(limit=1)[0].request.prompt == "a blue dog" and broken:
            broken.pop()
            raise ValueError("no")

    studio = make_studio(before_step)
    batch = studio.submit_batch(requests("a dog"), batch_id="pets")
    batch.result(10)
    studio.request_changes(
        "pets:a-dog", reviewer_id="ada", feedback="Blue", prompt="a blue dog"
    )
    [error] = batch.result(10)
    assert isinstance(error, NbgenError)
    again = studio.submit_batch(requests("a dog"), batch_id="pets")
    assert isinstance(again.result(10)[0], GenerationResult)
    assert studio.get_record(again.task_ids[0]).request.prompt == "a blue dog"


def test_cancel_ends_all_of_a_batch_and_nothing_else(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a", "b", "c"), batch_id="pets")
    other = studio.generate("d", num_inference_steps=5)
    gate.wait_reached()
    batch.cancel()
    gate.release(2)
    results = batch.result(10)
    assert all(isinstance(result, TaskCancelled) for result in results)
    assert counts(batch.progress) == (0, 0, 0, 0, 3, 0)
    assert batch.progress.percentage == 100.0
    other.result(10)
    started = [record.started_at for record in studio.tasks(batch_id="pets")]
    assert [at is None for at in started] == [True, True, False]
    batch.cancel()  # of what has ended changes nothing
    assert counts(batch.progress) == (0, 0, 0, 0, 3, 0)


def test_retry_queues_what_is_missing(make_studio: MakeStudio) -> None:
    broken = {"b"}

    def before_step(step: int) -> None:
        if step == 3 and studio.task("pets:b").status == "generating" and broken:
            raise ValueError("no")

    studio = make_studio(before_step)
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    result, error = batch.result(10)
    assert isinstance(result, GenerationResult)
    assert isinstance(error, NbgenError)
    assert "ValueError: no" in str(error)
    assert counts(batch.progress) == (0, 0, 1, 1, 0, 0)
    broken.clear()
    batch.retry()
    assert all(isinstance(made, GenerationResult) for made in batch.result(10))
    assert counts(batch.progress) == (0, 0, 2, 0, 0, 0)
    assert batch.task_ids == ["pets:a", "pets:b"]
    tried = [attempt.outcome for attempt in studio.task("pets:b").attempts]
    assert tried == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    batch.retry()  # nothing is missing
    studio.submit_batch(requests("a", "b"), batch_id="pets")
    assert studio.waiting() == []
    assert len(studio.tasks()) == 2


def test_what_was_changed_by_request_takes_the_place_of_its_row(
    studio: Studio,
) -> None:
    batch = studio.submit_batch(requests("a cat"), batch_id="pets")
    batch.result(10)
    child = studio.request_changes(
        "pets:a-cat", reviewer_id="ada", feedback="Bigger", prompt="a big cat"
    )
    assert child is not None
    assert batch.task_ids == [child.id]
    child.result(10)
    assert counts(batch.progress) == (0, 0, 1, 0, 0, 0)


def test_a_batch_outlives_its_studio(make_studio: MakeStudio) -> None:
    studio = make_studio()
    studio.pause()
    studio.submit_batch(requests("a", "b"), batch_id="pets")
    studio.close()
    again = make_studio()
    batch = again.batch("pets")
    again.run_offered()
    again.resume()
    assert len(batch.result(10)) == 2
    with pytest.raises(UnknownBatch, match=r"no batch 'birds'.*data folder"):
        again.batch("birds")


def test_a_batch_is_queued_whole_or_not_at_all(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine(), queue_limit=3) as studio:
        studio.generate("x", task_id="pets:b").result(10)
        with pytest.raises(TaskConflict, match="pets:b"):
            studio.submit_batch(requests("a", "b", "c"), batch_id="pets")
        studio.pause()
        with pytest.raises(
            QueueFull, match=r"queue 4 more tasks: 0 .* fewer at a time"
        ):
            studio.submit_batch(requests("a", "c", "d", "e"), batch_id="pets")
        waiting = studio.generate("y")
        with pytest.raises(
            QueueFull,
            match=r"queue 3 more tasks: 1 of at most 3 is waiting\. .* some have",
        ):
            studio.submit_batch(requests("a", "c", "d"), batch_id="pets")
        waiting.cancel()
        with pytest.raises(InvalidRequest, match="batch_id must be 1 to 60 letters"):
            studio.submit_batch(requests("a"), batch_id="all pets")
        with pytest.raises(InvalidRequest, match="row must be 1 to 60 letters"):
            studio.submit_batch({"a/b": request("a")}, batch_id="pets")
        missing = f"{'0' * 32}.png"
        with pytest.raises(InvalidRequest, match="image must be"):
            studio.submit_batch(
                {"a": request("a"), "b": request("b", image=missing)}, batch_id="pets"
            )
        assert [record.id for record in studio.tasks()] == [waiting.id, "pets:b"]
        # A refused one leaves nothing behind that would refuse the next.
        assert len(studio.submit_batch(requests("a", "c"), batch_id="pets")) == 2


def test_waiting_in_vain_says_so_and_stops_nothing(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a"), batch_id="pets")
    told = r"Batch 'pets' has not ended within 0 s: 1 row is left\. It goes on"
    with pytest.raises(TaskUnfinished, match=told):
        batch.result(0)
    gate.release()
    assert batch.result(10)


def test_a_wait_says_how_long_it_was_and_how_many_rows_are_left(
    make_studio: MakeStudio,
) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a", "b", "c"), batch_id="pets")
    gate.release()
    studio.task("pets:a").result(10)
    with pytest.raises(TaskUnfinished, match=r"within 0\.01 s: 2 rows are left"):
        batch.result(0.01)
    batch.cancel()
    gate.release(2)
    batch.result(10)


async def awaited(batch: Batch) -> list[RowResult]:
    return await batch


def test_what_another_runs_is_waited_for(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=3)
    here, elsewhere = make_studio(gate), make_studio()
    here.submit_batch(requests("a", "b"), batch_id="pets")
    gate.wait_reached()
    with pytest.raises(TaskUnfinished, match=r"within 0 s: 2 rows are left"):
        elsewhere.batch("pets").result(0)
    gate.open()
    results = asyncio.run(awaited(elsewhere.batch("pets")))
    assert all(isinstance(made, GenerationResult) for made in results)
    assert counts(elsewhere.batch("pets").progress) == (0, 0, 2, 0, 0, 0)


@pytest.mark.parametrize("wait", [Batch.result, lambda b: asyncio.run(awaited(b))])
def test_whoever_waits_for_a_closed_studio_is_told_so(
    studio: Studio,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[Batch], list[RowResult]],
) -> None:
    studio.pause()
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    waits = threading.Event()
    ended = studio.backend.ended

    def tell(task_id: str) -> Future[TaskEnd]:
        future = ended(task_id)
        waits.set()
        return future

    monkeypatch.setattr(studio.backend, "ended", tell)
    told = r"Batch 'pets' has not ended: 2 rows are left, and the studio was closed"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, batch)
        assert waits.wait(10)
        studio.close()
        with pytest.raises(TaskUnfinished, match=told):
            waiting.result(10)


@pytest.mark.parametrize("wait", [Batch.result, lambda b: asyncio.run(awaited(b))])
def test_a_row_that_is_deleted_is_waited_for_no_longer(
    studio: Studio,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[Batch], list[RowResult]],
) -> None:
    studio.pause()
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")

    def delete(task_id: str) -> Future[TaskEnd]:
        batch.cancel()
        studio.backend.delete(["pets:a"])
        return resolved(TaskEnd(task_id, None))

    monkeypatch.setattr(studio.backend, "ended", delete)
    assert [type(row) for row in wait(batch)] == [UnknownTask, TaskCancelled]


def test_two_retries_at_once_queue_each_row_once(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = make_studio()
    studio.pause()
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    batch.cancel()
    both_asked = threading.Barrier(2)
    scheduler = library(studio).scheduler
    add = scheduler.add

    def add_together(make_plan: Callable[[], Plan]) -> Plan:
        both_asked.wait(10)
        return add(make_plan)

    monkeypatch.setattr(scheduler, "add", add_together)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(batch.retry), pool.submit(batch.retry)]:
            done.result(20)
    assert studio.waiting() == ["pets:a", "pets:b"]
    assert len(studio.tasks()) == 2


def test_a_retry_is_of_the_rows_of_its_handle(studio: Studio) -> None:
    studio.pause()
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets", priority=3)
    batch.cancel()
    part = studio.submit_batch(requests("b"), batch_id="pets", priority=5)
    assert counts(batch.progress) == (0, 0, 0, 0, 2, 0)
    part.retry()
    assert counts(batch.progress) == (1, 0, 0, 0, 1, 0)
    assert studio.waiting() == ["pets:b"]
    assert studio.get_record("pets:b").priority == 3


def test_the_time_left_is_that_of_the_usual_row(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row may wait for the model; that the others do not."""
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    gate.release()
    studio.task("pets:a").result(10)
    [row, running] = studio.batch_rows("pets")
    assert row.ended_at is not None
    # Ended long ago, and listed last: of the last ten, six took 2 s.
    old = [
        row._replace(took_s=900.0, ended_at=row.ended_at - dt.timedelta(hours=1 + n))
        for n in range(15)
    ]
    new = [row._replace(took_s=took_s) for took_s in [2.0] * 6 + [500.0] * 4]
    standing = [
        each._replace(name=str(number), task_id="pets:b" if each is running else "x")
        for number, each in enumerate([*new, running, *old])
    ]
    monkeypatch.setattr(studio.backend, "batch_rows", lambda _batch_id: standing)
    whole = ChangedRows(standing, Position("epoch", 1), is_whole=True)
    monkeypatch.setattr(studio.backend, "changed_rows", lambda *_: whole)
    progress = studio.batch("pets").progress
    assert progress.remaining_known
    assert 0 < progress.estimated_remaining <= 2
    monkeypatch.undo()
    batch.cancel()
    gate.release()
    batch.result(10)


def test_all_but_one_of_many_is_not_all(studio: Studio) -> None:
    studio.pause()
    many = requests(*(f"a {number}" for number in range(1_100)))
    batch = studio.submit_batch(many, batch_id="pets")
    studio.cancel_tasks(batch.task_ids[:-1])
    assert counts(batch.progress) == (1, 0, 0, 0, 1_099, 0)
    assert batch.progress.percentage == 99.9
    assert repr(batch.progress) == (
        "BatchProgress(1,100 rows: 1 pending, 1,099 cancelled)"
    )


def test_an_interrupt_while_waiting_cancels_the_batch(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    gate.wait_reached()
    done = studio.backend.ended("pets:a")

    def interrupt(_timeout: float | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(done, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            batch.result()
    gate.release()
    batch.result(10)
    assert counts(batch.progress) == (0, 0, 0, 0, 2, 0)


def test_a_batch_can_be_awaited(make_studio: MakeStudio) -> None:
    async def wait(studio: Studio) -> list[object]:
        batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
        batch.cancel()
        studio.resume()
        batch.retry()
        studio.cancel(batch.task_ids[0])
        return list(await batch)

    studio = make_studio()
    studio.pause()
    first, second = asyncio.run(wait(studio))
    # The first may have been made before it was cancelled.
    assert isinstance(first, (GenerationResult, TaskCancelled))
    assert isinstance(second, GenerationResult)
