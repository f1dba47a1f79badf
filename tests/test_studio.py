"""The studio: submit, watch, cancel, decide, with a torch-free engine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from PIL import Image

from nbgen.errors import (
    CheckpointNotFound,
    DecisionConflict,
    FeaturedImageMissing,
    GenerationFailed,
    InvalidRequest,
    NoRecipe,
    OutOfMemory,
    QueueFull,
    StudioClosed,
    TaskCancelled,
    TaskConflict,
    TaskNotEnded,
    TaskSucceeded,
    TaskUnfinished,
    UnknownTask,
)
from nbgen.generation.recipe import recipe
from nbgen.handles.task import Task
from nbgen.images.folder import FolderImages
from nbgen.progress import ProgressService
from nbgen.schema import (
    WAITS_AGAIN,
    AttemptOutcome,
    GenerationProgress,
    GenerationRequest,
    Metadata,
    Outcome,
    OutputFormat,
    Stage,
    Status,
    Verdict,
)
from nbgen.schema.checks import MAX_SEED
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine, collect_progress
from tests.parts import CancelledEngine, closes

MakeStudio = Callable[..., Studio]


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_a_picture_is_made_and_kept(studio: Studio) -> None:
    task = studio.generate("a cat", width=128, height=64, seed=7, task_id="hero-1")
    result = task.result(10)
    assert repr(result) == "GenerationResult(1 image, 128x64, seed 7)"
    assert (task.status, task.progress.percentage) == (Status.COMPLETED, 100.0)
    [path] = task.image_paths
    with Image.open(path) as picture:
        assert picture.size == (128, 64)
        assert len(picture.getcolors(10_000) or []) > 1


def test_each_picture_of_a_batch_has_its_seed(studio: Studio) -> None:
    batch = studio.generate("a cat", seed=7, num_images=3)
    alone = studio.generate("a cat", seed=9)
    assert [image.seed for image in batch.result(10).images] == [7, 8, 9]
    alone.result(10)
    assert pixels(batch.image_paths[2]) == pixels(alone.image_paths[0])
    assert len({pixels(path) for path in batch.image_paths}) == 3


def test_a_drawn_seed_is_recorded(studio: Studio) -> None:
    task = studio.generate("a cat")
    assert task.result(10).images[0].seed == task.seed == task.record.seed


def test_generate_returns_before_the_work(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=1)
    studio = make_studio(gate)
    task = studio.generate("a cat", num_inference_steps=3)
    gate.wait_reached()
    assert task.status is Status.GENERATING
    with pytest.raises(TaskUnfinished, match=r"has not ended within 0\.01 s"):
        task.result(0.01)
    gate.open()
    task.result(10)


def test_a_watcher_sees_every_step_of_both_stages(studio: Studio) -> None:
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    studio.watch("a", states.put)
    studio.generate("a cat", num_inference_steps=10, task_id="a").result(10)
    seen: list[GenerationProgress] = []
    while not (seen and seen[-1].status.ended):
        seen.append(states.get(timeout=10))
    steps = [
        (later.current_stage, later.current_step)
        for earlier, later in pairwise(seen)
        if later.current_step > earlier.current_step
    ]
    assert steps == [("base_model", n) for n in range(1, 9)] + [
        ("refiner_model", 9),
        ("refiner_model", 10),
    ]


def test_a_task_can_be_awaited(studio: Studio) -> None:
    async def run() -> int:
        result = await studio.generate("a cat")
        return len(result.images)

    assert asyncio.run(run()) == 1


def test_giving_up_waiting_does_not_stop_the_task(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=2)
    task = make_studio(gate).generate("a cat", num_inference_steps=3)

    async def give_up() -> None:
        async with asyncio.timeout(0.01):
            await task

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    gate.open()
    assert len(task.result(10).images) == 1


def test_generate_image_writes_a_file(studio: Studio, tmp_path: Path) -> None:
    target = tmp_path / "new" / "cat.png"
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    path = asyncio.run(
        studio.generate_image(
            prompt="a cat",
            output_path=target,
            task_id="a",
            num_inference_steps=4,
            use_refinement=False,
            on_progress=states.put,
        )
    )
    assert path == target
    with Image.open(path) as picture:
        picture.verify()
    assert [child.name for child in target.parent.iterdir()] == ["cat.png"]
    assert states.get(timeout=10).task_id == "a"


def test_generate_image_refuses_a_strange_suffix(
    studio: Studio, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="output_path must be a path that ends"):
        asyncio.run(studio.generate_image("a cat", tmp_path / "cat.gif"))
    assert studio.tasks() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_inference_steps": 0},
        {"width": 1001},
        {"prompt": ""},
        {"prompt": "x" * 100_000},
        {"task_id": "a/b"},
    ],
)
def test_a_wrong_input_queues_nothing(studio: Studio, wrong: dict[str, Any]) -> None:
    [field] = wrong
    with pytest.raises(InvalidRequest) as raised:
        studio.generate(**{"prompt": "a cat", **wrong})
    assert raised.value.field == field
    assert studio.tasks() == []


def test_an_unknown_checkpoint_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"no checkpoint 'nope'\. Use 'auto'"):
        Studio(tmp_path / "data", checkpoint="nope")
    assert not (tmp_path / "data").exists()


def test_the_same_request_is_the_same_task(studio: Studio) -> None:
    first = studio.generate("a cat", task_id="a")
    first.result(10)
    assert studio.generate(" a cat ", task_id="a").result(0) == first.result(0)
    with pytest.raises(TaskConflict, match="another request"):
        studio.generate("a dog", task_id="a")
    assert len(studio.tasks()) == 1


def test_tasks_run_in_the_order_of_submission(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=1)
    studio = make_studio(gate)
    order: SimpleQueue[str] = SimpleQueue()
    names = ["a", "b", "c"]
    for name in names:
        studio.watch(name, lambda p: order.put(p.task_id) if p.outcome else None)
        studio.generate("a cat", task_id=name, num_inference_steps=1)
    gate.open()
    assert [order.get(timeout=10) for _ in names] == names


def test_cancel_a_running_task(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=4)
    studio = make_studio(gate)
    task = studio.generate("a cat", num_inference_steps=10, task_id="a")
    gate.wait_reached()
    task.cancel()
    gate.open()
    with pytest.raises(TaskCancelled, match=r"Cancelled at step 3 of 10\."):
        task.result(10)
    assert task.record.outcome is Outcome.CANCELLED
    assert (task.record.current_step, task.image_paths) == (3, [])
    studio.generate("a dog").result(10)


def test_cancel_a_waiting_task(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=1)
    studio = make_studio(gate)
    running = studio.generate("a cat")
    waiting = studio.generate("a dog", task_id="b")
    waiting.cancel()
    with pytest.raises(TaskCancelled, match=r"Cancelled before it started\."):
        waiting.result(10)
    assert [s.status for s in collect_progress(studio, "b")] == [Status.FAILED]
    gate.open()
    running.result(10)


def test_cancel_after_the_end_changes_nothing(studio: Studio) -> None:
    task = studio.generate("a cat")
    task.result(10)
    task.cancel()
    assert task.status is Status.COMPLETED
    with pytest.raises(UnknownTask):
        studio.cancel("nope")


def test_an_interrupt_while_waiting_cancels(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(at_step=2)
    studio = make_studio(gate)
    task = studio.generate("a cat", num_inference_steps=5)
    gate.wait_reached()
    done = studio.backend.ended(task.id)

    def interrupt(_timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(done, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            task.result()
    gate.open()
    with pytest.raises(TaskCancelled):
        task.result(10)


@pytest.mark.parametrize("fault", [ValueError("boom"), MemoryError("too big")])
def test_a_failure_is_kept_and_the_next_task_runs(
    make_studio: MakeStudio, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [fault]

    def fail_once(step: int) -> None:
        if step == 2 and faults:
            raise faults.pop()

    studio = make_studio(fail_once)
    task = studio.generate("a cat", num_inference_steps=5)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        with pytest.raises(GenerationFailed, match=str(fault)) as raised:
            task.result(10)
        assert raised.value.__cause__ is fault
        assert task.record.error == f"{type(fault).__name__}: {fault}"
        studio.generate("a cat").result(10)


def test_a_disk_that_fails_leaves_no_watcher_waiting(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> bool:
        raise OSError("disk full")

    monkeypatch.setattr("nbgen.store.running.RunStore.end", fail)
    task = studio.generate("a cat", task_id="a")
    with pytest.raises(GenerationFailed, match="disk full"):
        task.result(10)
    assert collect_progress(studio, "a")[-1].error == (
        "The result could not be saved: disk full"
    )


def test_an_end_that_was_first_is_the_end_for_all(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    """Another has taken the turn meanwhile, and the task was cancelled there."""
    gate = Gate(at_step=2)
    studio = make_studio(gate)
    task = studio.generate("a cat", task_id="a", num_inference_steps=3)
    gate.wait_reached()
    beside = Store(tmp_path / "data")
    beside.running.begin(take_over=False)
    beside.queue.cancel(["a"])
    beside.close()
    gate.open()
    with pytest.raises(TaskCancelled, match="before it started"):
        task.result(10)
    assert collect_progress(studio, "a")[-1].outcome is Outcome.CANCELLED


def test_the_store_knows_the_end_before_anyone_is_told(studio: Studio) -> None:
    known: SimpleQueue[Status] = SimpleQueue()

    def look(progress: GenerationProgress) -> None:
        if progress.status.ended:
            known.put(studio.get_record("a").status)

    studio.watch("a", look)
    studio.generate("a cat", task_id="a")
    assert known.get(timeout=10) is Status.COMPLETED


def test_a_task_outlives_its_studio(make_studio: MakeStudio) -> None:
    first = make_studio()
    result = first.generate("a cat", task_id="a", num_inference_steps=5).result(10)
    first.close()
    again = make_studio()
    assert again.task("a").result() == result
    [state] = collect_progress(again, "a")
    assert (state.status, state.percentage) == (Status.COMPLETED, 100.0)
    assert (state.current_step, state.result) == (5, result)
    with pytest.raises(UnknownTask, match="no task 'b'"):
        again.task("b")


@pytest.mark.parametrize("interrupted", [False, True])
def test_closing_may_finish_what_runs_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    gate = Gate(at_step=2)
    engine = CancelledEngine(gate)
    studio = Studio(tmp_path, engine=engine)
    studio.generate("a cat", task_id="runs", num_inference_steps=5)
    studio.generate("a dog", task_id="waits", num_inference_steps=5)
    gate.wait_reached()
    is_closing = closes(monkeypatch)
    if interrupted:
        returned = threading.Event()

        def interrupt() -> None:
            assert is_closing.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            assert engine.cancelled.wait(10)
            returned.wait(0.3)  # it must wait for the task, so this times out
            gate.open()

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            studio.close(finish=True)
        assert gate.is_open
        returned.set()
        interrupting.join()
    else:
        closing = threading.Thread(target=studio.close, kwargs={"finish": True})
        closing.start()
        assert is_closing.wait(10)
        gate.open()
        closing.join()
    outcome = None if interrupted else Outcome.SUCCEEDED
    with Studio.open_library(tmp_path) as looking:
        assert looking.get_record("runs").outcome is outcome
        assert looking.get_record("waits").status is Status.PENDING
    with Studio(tmp_path, engine=PatternEngine(), take_over=True) as following:
        assert following.task("waits").result(10).images


def test_close_gives_back_what_runs_and_leaves_no_thread(
    make_studio: MakeStudio,
) -> None:
    gate = Gate(at_step=2)
    studio = make_studio(gate)
    running, waiting = studio.generate("a cat"), studio.generate("a dog")
    gate.wait_reached()
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    running.watch(seen.put)
    assert seen.get(timeout=10).status is Status.GENERATING
    gate.open()
    studio.close()
    told = [seen.get_nowait() for _ in range(seen.qsize())][-1]
    assert (told.status, told.current_step) == (Status.PENDING, 0)
    assert told.message == WAITS_AGAIN
    with make_studio(take_over=True) as again:
        assert again.task(running.id).result(10).images
        assert again.task(waiting.id).result(10).images
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith("nbgen-")]
    studio.close()
    with pytest.raises(StudioClosed, match=r"Open another with Studio\(\)"):
        studio.generate("a cat")


def test_a_waiting_task_outlives_its_studio_with_its_place(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine()) as studio:
        studio.pause()
        first, second, third = (studio.generate(name) for name in ("a", "b", "c"))
        studio.prioritise(third.id, 5)
        urgent = studio.generate("d", priority=9)
        order = [urgent.id, third.id, first.id, second.id]
        assert studio.waiting() == order
    with pytest.raises(TaskUnfinished, match="the studio was closed before"):
        first.result(10)
    with Studio.open_library(tmp_path) as reader:
        assert reader.waiting() == order
        reader.prioritise(second.id, 1)
        order = [urgent.id, third.id, second.id, first.id]
        assert reader.waiting() == order
    with Studio(tmp_path, engine=PatternEngine(), take_over=True) as again:
        assert again.queue_state().is_paused
        again.resume()
        for task_id in order:
            again.task(task_id).result(10)
        records = again.get_records(order)
    assert records == sorted(records, key=lambda each: str(each.started_at))


def test_a_retry_is_the_next_attempt(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=2)
    studio = make_studio(gate)
    task = studio.generate("a cat")
    gate.wait_reached()
    with pytest.raises(TaskNotEnded):
        studio.retry(task.id)
    task.cancel()
    gate.open()
    with pytest.raises(TaskCancelled):
        task.result(10)
    again = studio.retry(task.id)
    assert (again.id, again.request) == (task.id, task.request)
    assert again.result(10).images[0].seed == task.seed
    first, second = again.attempts
    assert (first.number, first.outcome) == (1, AttemptOutcome.CANCELLED)
    assert (second.number, second.outcome) == (2, AttemptOutcome.SUCCEEDED)
    assert (first.seed, second.seed) == (task.seed, task.seed)
    with pytest.raises(TaskSucceeded):
        studio.retry(task.id)
    assert len(studio.tasks()) == 1


def test_what_failed_is_made_again_when_it_is_submitted_again(
    make_studio: MakeStudio, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [ValueError("boom")]

    def fail_once(_step: int) -> None:
        if faults:
            raise faults.pop()

    studio = make_studio(fail_once)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        first = studio.generate("a cat", task_id="a")
        with pytest.raises(GenerationFailed, match="boom"):
            first.result(10)
    again = studio.generate("a cat", task_id="a")
    assert again.result(10).images
    assert first.result(0) == again.result(0)  # the task is the same
    assert studio.task("a").result(0) == again.result(0)
    assert len(studio.attempts("a")) == 2


def test_what_was_cancelled_stays_so_until_it_is_retried(studio: Studio) -> None:
    studio.pause()
    studio.generate("a cat", task_id="a")
    studio.cancel("a")
    with pytest.raises(TaskCancelled):
        studio.generate("a cat", task_id="a").result(10)
    studio.resume()
    assert studio.retry("a").result(10).images


def test_another_request_takes_the_place_of_one_that_ended(studio: Studio) -> None:
    studio.generate("a cat", task_id="a", seed=3).result(10)
    with pytest.raises(TaskConflict, match="with another request"):
        studio.generate("a dog", task_id="a")
    studio.pause()
    again = studio.generate("a dog", task_id="a", seed=5, replace=True)
    with pytest.raises(TaskNotEnded):
        studio.generate("a bird", task_id="a", replace=True)
    studio.resume()
    assert again.result(10).images[0].seed == 5
    first, second = studio.attempts("a")
    assert (first.request.prompt, second.request.prompt) == ("a cat", "a dog")
    studio.approve("a", reviewer_id="ada")
    with pytest.raises(DecisionConflict, match="Undo it"):
        studio.generate("a bird", task_id="a", replace=True)
    studio.undo("a", reviewer_id="ada")
    bird = studio.generate("a bird", task_id="a", replace=True)
    assert bird.result(10).images


def test_a_full_queue_takes_no_more_and_loses_nothing(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine(), queue_limit=1) as studio:
        studio.pause()
        waits = studio.generate("a cat")
        with pytest.raises(QueueFull, match="queue_limit"):
            studio.generate("a dog", task_id="too-many")
        assert [record.id for record in studio.tasks()] == [waits.id]
        studio.resume()
        waits.result(10)
        studio.generate("a dog", task_id="too-many").result(10)


def test_a_studio_may_share_a_progress_service(tmp_path: Path) -> None:
    service = ProgressService()
    with Studio(tmp_path, engine=PatternEngine(), progress=service) as studio:
        studio.generate("a cat", task_id="a").result(10)
    assert service.get_progress("a") is not None
    service.create_progress("b", 1)
    service.close()


def test_who_follows_what_waits_goes_on_in_the_next_studio(tmp_path: Path) -> None:
    service = ProgressService()
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    with Studio(tmp_path, engine=PatternEngine(), progress=service) as first:
        first.pause()
        first.generate("a cat", task_id="a", num_inference_steps=3)
        first.watch("a", seen.put)
    with Studio(
        tmp_path, engine=PatternEngine(), progress=service, take_over=True
    ) as second:
        second.watch("a", seen.put)
        second.resume()
        second.task("a").result(10)
    states = [seen.get(timeout=10)]
    while not states[-1].status.ended:
        states.append(seen.get(timeout=10))
    assert states[0].status is Status.PENDING
    assert states[-1].outcome is Outcome.SUCCEEDED
    service.close()


def test_a_store_that_fails_queues_nothing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> bool:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("nbgen.store.queue.QueueStore.submit", fail)
        with pytest.raises(OSError, match="disk full"):
            studio.generate("a cat", task_id="a")
    with pytest.raises(UnknownTask):
        studio.get_progress("a")
    studio.generate("a cat", task_id="a").result(10)  # the disk has room again


def test_what_a_notebook_shows_is_the_same_each_time(studio: Studio) -> None:
    task = studio.generate("a cat", num_inference_steps=20, seed=7)
    assert repr(task) == "Task(20 steps, seed 7)"
    task = studio.generate("a cat", width=128, height=64)
    assert repr(task) == "Task(50 steps, 128x64, seed random)"
    assert repr(studio) == "Studio()"


def approved(studio: Studio) -> Task:
    task = studio.generate("a cat", task_id="a")
    task.result(10)
    return task


def test_approve(studio: Studio) -> None:
    task = approved(studio)
    decision = studio.approve("a", reviewer_id=" ada ", feedback=" Lovely ")
    assert (decision.verdict, decision.reviewer_id) == (Verdict.APPROVED, "ada")
    assert decision.feedback == "Lovely"
    assert decision.featured_image_url == task.result().images[0].url
    assert task.record.approval_status == "approved"
    assert studio.approve("a", reviewer_id="ada") == decision
    assert studio.approve("a", reviewer_id="bob").version == 2
    assert task.record.decision == decision


def test_a_decision_is_not_turned_round(studio: Studio) -> None:
    approved(studio)
    studio.reject("a", reviewer_id="ada", feedback="Too dark")
    with pytest.raises(DecisionConflict, match="was rejected by ada at 20"):
        studio.approve("a", reviewer_id="bob")
    assert studio.get_record("a").approval_status == "rejected"


def test_only_a_completed_task_is_decided(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=1)
    studio = make_studio(gate)
    task = studio.generate("a cat", task_id="a")
    gate.wait_reached()
    with pytest.raises(DecisionConflict, match="'a' is generating; only a completed"):
        studio.approve("a", reviewer_id="ada")
    task.cancel()
    gate.open()
    with pytest.raises(TaskCancelled):
        task.result(10)
    with pytest.raises(DecisionConflict, match="is failed"):
        studio.reject("a", reviewer_id="ada")
    with pytest.raises(UnknownTask):
        studio.approve("b", reviewer_id="ada")


def test_a_picture_that_is_gone_is_not_approved(studio: Studio) -> None:
    task = approved(studio)
    task.image_paths[0].unlink()
    with pytest.raises(FeaturedImageMissing, match="has no picture to approve"):
        studio.approve("a", reviewer_id="ada")
    assert task.record.approval_status == "pending"
    url = "https://example.org/cat.png"
    decision = studio.approve("a", reviewer_id="ada", featured_image_url=url)
    assert decision.featured_image_url == url


class HeldSaving:
    """Holds the saving of pictures, on the saver's thread, until the test opens it.

    Args:
        at_picture: Which picture that is saved to hold, from 0.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_picture: int = 0) -> None:
        self._numbers = count()
        self._save_file = FolderImages.save
        self.gate = Gate(at_picture)

        def save(images: FolderImages, data: bytes, kind: str) -> str:
            return self._save(images, data, kind)

        monkeypatch.setattr(FolderImages, "save", save)

    def _save(self, images: FolderImages, data: bytes, kind: str) -> str:
        self.gate(next(self._numbers))
        return self._save_file(images, data, kind)


def kept_files(folder: Path) -> list[Path]:
    return list((folder / "data" / "images").glob("*.*"))


def collect_all(studio: Studio, folder: Path) -> list[str]:
    """Remove the pictures that nothing refers to, as if they were old."""
    for path in kept_files(folder):
        os.utime(path, (0, 0))
    return studio.collect_garbage(dry_run=False)


def test_saving_goes_on_while_the_next_task_samples(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = HeldSaving(monkeypatch)
    sampled = threading.Event()
    studio = make_studio(lambda step: sampled.set() if step == 3 else None)
    first = studio.generate("a cat", num_inference_steps=1)
    saving.gate.wait_reached()
    second = studio.generate("a dog", num_inference_steps=3)
    assert sampled.wait(10)
    assert first.progress.current_stage is Stage.SAVE
    assert first.status is Status.GENERATING
    saving.gate.open()
    first.result(10)
    second.result(10)


def test_what_a_cancel_while_saving_leaves_is_garbage(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    studio = make_studio()
    saving = HeldSaving(monkeypatch, at_picture=2)
    task = studio.generate("a cat", task_id="a", num_images=3, num_inference_steps=4)
    saving.gate.wait_reached()
    assert len(kept_files(tmp_path)) == 2
    task.cancel()
    saving.gate.open()
    with pytest.raises(TaskCancelled, match=r"Cancelled at step 4 of 4\."):
        task.result(10)
    assert task.record.result is None
    assert collect_progress(studio, "a")[-1].outcome is Outcome.CANCELLED
    assert len(collect_all(studio, tmp_path)) == 3
    assert kept_files(tmp_path) == []


def test_a_cancelled_task_keeps_the_pictures_of_another(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that made the same while the cancelled one was saving."""
    studio = make_studio()
    other = make_studio(queue="other")
    saving = HeldSaving(monkeypatch, at_picture=1)
    # Without metadata, the same picture is the same file.
    batch = studio.generate("a cat", seed=7, metadata="none", num_images=2)
    saving.gate.wait_reached()
    alone = other.generate("a cat", seed=7, metadata="none")
    alone.result(10)
    batch.cancel()
    saving.gate.open()
    with pytest.raises(TaskCancelled):
        batch.result(10)
    assert len(alone.image_paths) == 1


def test_of_a_cancel_and_an_end_that_race_one_wins_for_all(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    studio = make_studio()
    outcomes: list[Outcome] = []
    for number in range(60):
        task_id = f"race-{number}"
        told: SimpleQueue[Outcome | None] = SimpleQueue()
        near = threading.Event()

        def look(
            progress: GenerationProgress,
            *,
            told: SimpleQueue[Outcome | None] = told,
            near: threading.Event = near,
            step: int = number % 4,
        ) -> None:
            if progress.current_step >= step:
                near.set()
            if progress.outcome is not None:
                told.put(progress.outcome)

        studio.watch(task_id, look)
        studio.watch(task_id, look)
        task = studio.generate(
            f"a cat {number}", task_id=task_id, num_inference_steps=3, num_images=2
        )
        assert near.wait(10)
        task.cancel()
        try:
            task.result(10)
            won = Outcome.SUCCEEDED
        except TaskCancelled:
            won = Outcome.CANCELLED
        assert [told.get(timeout=10), told.get(timeout=10)] == [won, won]
        assert (task.record.outcome, task.progress.outcome) == (won, won)
        assert len(task.image_paths) == (2 if won is Outcome.SUCCEEDED else 0)
        outcomes.append(won)
    collect_all(studio, tmp_path)
    assert len(kept_files(tmp_path)) == 2 * outcomes.count(Outcome.SUCCEEDED)


class FailingEngine(PatternEngine):
    """Makes two pictures of a batch and fails at the third."""

    def generate(self, *arguments: Any, **options: Any) -> Iterator[Image.Image]:
        yield from islice(super().generate(*arguments, **options), 2)
        raise self.error

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemory("There is not enough memory."), "There is not enough memory."),
        (ValueError("boom"), "ValueError: boom."),
    ],
)
def test_the_pictures_before_a_failure_are_kept(
    tmp_path: Path, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Studio(tmp_path / "data", engine=FailingEngine(error)) as studio:
        task = studio.generate("a cat", task_id="a", num_images=4, seed=7)
        said += " The first 2 of 4 pictures were kept."
        with (
            caplog.at_level(logging.CRITICAL, "nbgen"),
            pytest.raises(GenerationFailed) as raised,
        ):
            task.result(10)
        assert str(raised.value) == task.record.error == said
        assert raised.value.__cause__ is error
        end = collect_progress(studio, "a")[-1]
        assert (end.outcome, end.result) == (Outcome.FAILED, task.record.result)
        assert task.record.result is not None
        assert [image.seed for image in task.record.result.images] == [7, 8]
        assert len(task.image_paths) == 2


class ReleasedEngine(PatternEngine):
    """Counts how often its memory was given back."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.released: SimpleQueue[str] = SimpleQueue()
        self._error = error

    def close(self) -> None:
        self.released.put(threading.current_thread().name)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, RuntimeError("the device is lost")])
def test_an_idle_studio_gives_its_memory_back(
    tmp_path: Path, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ReleasedEngine(error)
    with (
        caplog.at_level(logging.CRITICAL, "nbgen"),
        Studio(tmp_path, engine=engine, release_after=0.01) as studio,
    ):
        for _ in range(2):
            studio.generate("a cat").result(10)
            assert engine.released.get(timeout=10) == "nbgen-worker"


def test_a_studio_that_keeps_its_memory_gives_it_back_when_it_closes(
    tmp_path: Path,
) -> None:
    engine = ReleasedEngine()
    with Studio(tmp_path, engine=engine, release_after=None) as studio:
        studio.generate("a cat").result(10)
        assert engine.released.empty()
    assert engine.released.get(timeout=10) == threading.current_thread().name


class SeenEngine(PatternEngine):
    """Remembers the pictures that it was to start from."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: SimpleQueue[tuple[Any, Any]] = SimpleQueue()

    def generate(
        self, *arguments: Any, image: Any = None, mask: Any = None, **options: Any
    ) -> Iterator[Image.Image]:
        self.seen.put((image, mask))
        return super().generate(*arguments, **options)


def test_a_picture_and_a_mask_reach_the_engine(tmp_path: Path) -> None:
    engine = SeenEngine()
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    mask.save(tmp_path / "mask.png")
    with Studio(tmp_path / "data", engine=engine) as studio:
        task = studio.generate("a cat", image=picture, mask=tmp_path / "mask.png")
        task.result(10)
        image, seen_mask = engine.seen.get(timeout=10)
        assert image.tobytes() == picture.tobytes()
        assert seen_mask.getpixel((0, 0)) == (255, 255, 255)
        # What is kept can be asked for again, by its name.
        assert task.request.image is not None
        assert studio.image_path(task.request.image) is not None
        studio.submit(task.request).result(10)
        with pytest.raises(InvalidRequest, match="image must be a picture"):
            studio.generate("a cat", image="missing.png")
        assert len(studio.tasks()) == 2


def test_variations_start_from_the_first_picture(tmp_path: Path) -> None:
    engine = SeenEngine()
    with Studio(tmp_path / "data", engine=engine) as studio:
        task = studio.generate("a cat", seed=7, width=72, output_format="jpeg")
        first = task.result(10).images[0]
        engine.seen.get(timeout=10)
        varied = task.variations(3, strength=0.5)
        assert len(varied.result(10).images) == 3
        image, mask = engine.seen.get(timeout=10)
        assert (image.size, mask) == ((72, 64), None)
        request = varied.request
        assert (request.image, request.strength) == (first.name, 0.5)
        assert (request.width, request.height) == (72, 64)
        assert (request.prompt, request.output_format) == ("a cat", "jpeg")
        for count, strength in ((0, 0.5), (17, 0.5), (3, 0.0), (3, 1.1)):
            with pytest.raises(InvalidRequest):
                task.variations(count, strength=strength)


def test_there_are_no_variations_of_what_is_not_there(make_studio: MakeStudio) -> None:
    gate = Gate(at_step=1)
    task = make_studio(gate).generate("a cat")
    gate.wait_reached()
    with pytest.raises(TaskUnfinished, match="has not ended"):
        task.variations()
    task.cancel()
    gate.open()
    with pytest.raises(TaskCancelled):
        task.result(10)
    with pytest.raises(TaskCancelled):
        task.variations()


@pytest.mark.parametrize("kind", OutputFormat)
@pytest.mark.parametrize("metadata", Metadata)
def test_a_picture_is_kept_in_the_format_that_was_asked_for(
    studio: Studio, kind: OutputFormat, metadata: Metadata
) -> None:
    task = studio.generate(
        "a cat", seed=7, output_format=kind, metadata=metadata, num_images=2
    )
    task.result(10)
    _, path = task.image_paths
    with Image.open(path) as picture:
        assert (path.suffix, picture.format) == (f".{kind}", kind.upper())
    if metadata is Metadata.FULL:
        made_again = recipe(path)
        assert (made_again.seed, made_again.num_images) == (8, 1)
    else:
        with pytest.raises(NoRecipe):
            recipe(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cat.jpg", "JPEG"), ("cat.JPEG", "JPEG"), ("cat.webp", "WEBP")],
)
def test_generate_image_writes_what_the_path_says(
    studio: Studio, tmp_path: Path, name: str, kind: str
) -> None:
    path = asyncio.run(studio.generate_image("a cat", tmp_path / name))
    with Image.open(path) as picture:
        assert picture.format == kind
    assert recipe(path).prompt == "a cat"


def test_every_picture_of_a_batch_has_a_seed(studio: Studio) -> None:
    last = studio.generate("a cat", seed=MAX_SEED - 2, num_images=3).result(10)
    assert last.images[2].seed == MAX_SEED
    with pytest.raises(InvalidRequest, match="so low that each of 3 pictures") as wrong:
        studio.generate("a cat", seed=MAX_SEED - 1, num_images=3)
    assert wrong.value.field == "seed"


def test_a_process_that_exits_gives_back_its_task(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    program = f"""
import threading
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

reached = threading.Event()

class Endless(PatternEngine):
    def generate(self, request, *, cancel, **options):
        reached.set()
        while not cancel.cancelled:
            pass
        cancel.raise_if_cancelled()
        yield

studio = Studio({str(tmp_path / "data")!r}, engine=Endless())
studio.generate("a cat", task_id="a")
reached.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert make_studio(take_over=True).task("a").result(10).images


def test_a_picture_that_nobody_waits_for_any_more_is_cancelled(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    gate = Gate(at_step=2)
    studio = make_studio(gate)

    async def make_and_stop() -> None:
        drawing = studio.generate_image("a cat", tmp_path / "cat.png", task_id="a")
        making = asyncio.create_task(drawing)
        await asyncio.to_thread(gate.wait_reached)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        gate.open()

    asyncio.run(make_and_stop())
    with pytest.raises(TaskCancelled):
        studio.task("a").result(10)
    assert not (tmp_path / "cat.png").exists()


def test_a_submission_that_is_repeated_with_its_key_makes_one_task(
    studio: Studio,
) -> None:
    first = studio.generate("a cat", request_key="click-1", num_inference_steps=1)
    again = studio.generate("a cat", request_key="click-1", num_inference_steps=1)
    other = studio.generate("a cat", request_key="click-2", num_inference_steps=1)
    request = GenerationRequest(prompt="a cat", num_inference_steps=1)
    submitted = studio.submit(request, request_key="click-1")
    assert first.id == again.id == submitted.id != other.id
    assert first.result(10) == again.result(10)
    assert {record.id for record in studio.tasks()} == {first.id, other.id}
    with pytest.raises(TaskConflict, match=r"^The key 'click-1' was used for another"):
        studio.generate("a dog", request_key="click-1")


@pytest.mark.parametrize("key", ["", " ", "two words", "é", "a" * 256, 5])
def test_a_key_that_cannot_be_one_is_refused(studio: Studio, key: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^request_key must be 1 to 255 visible"):
        studio.generate("a cat", request_key=key)
    with pytest.raises(InvalidRequest, match="request_key must be left out beside a"):
        studio.generate("a cat", task_id="cat", request_key="click-1")
    assert list(studio.tasks()) == []
