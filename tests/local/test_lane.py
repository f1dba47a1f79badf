"""A lane draws one job after the other; its finisher saves and ends them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbgen.errors import InvalidRequest, PictureDamaged, WorkerDied
from nbgen.generation.engine import CancelToken, EngineRunner, Work
from nbgen.generation.events import Ended, EngineEvent, PictureMade, StageStarted
from nbgen.generation.thread import ThreadEngine
from nbgen.images import open_images
from nbgen.images.folder import FolderImages
from nbgen.local.endings import Endings
from nbgen.local.ends import Ends
from nbgen.local.finisher import Finisher
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.local.lane import Lane
from nbgen.local.live_writer import LiveWriter
from nbgen.local.timings import Timings
from nbgen.progress import ChangeFollower, ProgressService
from nbgen.schema import (
    MOST_DEATHS,
    AttemptOutcome,
    GenerationRequest,
    Outcome,
    OutputFormat,
    Stage,
    Status,
    TaskRecord,
    died_too_often,
    new_record,
)
from nbgen.store import Store
from nbgen.testing.engine import PatternEngine
from tests.store.test_tasks import add, claim


class House:
    """All that a lane needs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.images = open_images(folder / "images", owner=self.store.identity)
        self.progress = ProgressService()
        self.timings = Timings(folder / "timings.json", "pattern")
        self.changes = ChangeFollower(self.store.changes)
        self.ends = Ends(self.store.tasks, self.changes, lambda _: True)
        self.endings = Endings(
            self.store.tasks, self.store.running, self.progress, self.ends
        )
        self.generation = self.store.running.begin(take_over=False)
        self.live = LiveWriter(self.store.live, self.progress)
        self.finisher = Finisher(self.images, self.endings)

    def lane(self, make_runner: Callable[[], EngineRunner]) -> Lane:
        return Lane(
            "lane",
            make_runner,
            self.images,
            self.progress,
            timings=self.timings,
            endings=self.endings,
            live=self.live,
            finisher=self.finisher,
        )

    def job(self, task_id: str, **fields: object) -> Job:
        """Return the job of a new task, which has begun."""
        wanted = {"prompt": "a cat", "seed": 7, **fields}
        request = GenerationRequest(**wanted)  # type: ignore[arg-type]
        add(self.store, new_record(task_id, request))
        return self.claim()

    def claim(self) -> Job:
        """Return the job of the next task that waits."""
        return Job(claim(self.store, self.generation), self.generation)

    def get(self, task_id: str) -> TaskRecord:
        [record] = self.store.tasks.get_known([task_id])
        return record

    def run(self, job: Job) -> JobRun:
        """Return a run of a job that has begun."""
        steps = job.request.num_inference_steps
        self.progress.create_progress(job.task_id, steps)
        run = JobRun(job, self.progress, self.timings, was_loaded=False)
        run.start()
        return run

    def close(self) -> None:
        self.live.close()
        self.finisher.close()
        self.ends.close()
        self.changes.close()
        self.progress.close()
        self.store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def picture(index: int) -> PictureMade:
    return PictureMade(
        index=index,
        seed=7 + index,
        width=64,
        height=64,
        output_format=OutputFormat.PNG,
        data=b"picture %d" % index,
        facts={"checkpoint": "none"},
    )


class Dying:
    """A runner whose process dies, the first few times.

    Args:
        times: How often.
    """

    def __init__(self, times: int) -> None:
        self._times = times
        self.runs = 0
        self.closed = threading.Event()

    def run(
        self,
        _work: Work,
        *,
        on_event: Callable[[EngineEvent], None],
        wants_preview: Callable[[], bool],  # noqa: ARG002
        cancel: CancelToken,  # noqa: ARG002
    ) -> None:
        self.runs += 1
        if self.runs <= self._times:
            on_event(Ended(WorkerDied("Killed.")))
            return
        on_event(StageStarted(Stage.SAVE))
        on_event(picture(0))
        on_event(Ended())

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def test_a_lane_takes_a_job_to_its_committed_end(house: House) -> None:
    lane = house.lane(lambda: ThreadEngine(PatternEngine))
    job = house.job("a", num_images=2)
    lane.run(job)
    end = job.done.result(10)
    assert end.outcome is Outcome.SUCCEEDED
    assert end.result is not None
    assert [image.seed for image in end.result.images] == [7, 8]
    assert all(house.images.has(image.name) for image in end.result.images)
    record = house.get("a")
    assert (record.outcome, record.result) == (end.outcome, end.result)
    assert record.made_with == {"checkpoint": "pattern"}
    lane.close()


def test_a_task_whose_process_dies_is_tried_three_times(house: House) -> None:
    runner = Dying(MOST_DEATHS)
    lane = house.lane(lambda: runner)
    job = house.job("a")
    for _ in range(MOST_DEATHS - 1):
        lane.run(job)
        assert job.done.result(10).outcome is None
        assert house.get("a").status is Status.PENDING
        job = house.claim()
    lane.run(job)
    end = job.done.result(10)
    assert (end.outcome, end.error) == (Outcome.FAILED, died_too_often("Killed."))
    outcomes = [each.outcome for each in house.store.tasks.attempts("a")]
    assert outcomes == [
        AttemptOutcome.LOST,
        AttemptOutcome.LOST,
        AttemptOutcome.FAILED,
    ]
    lane.close()
    assert runner.closed.is_set()


def test_a_job_that_is_cancelled_before_it_is_drawn_ends(house: House) -> None:
    runner = Dying(0)
    lane = house.lane(lambda: runner)
    job = house.job("a")
    job.cancel.cancel()
    lane.run(job)
    assert job.done.result(10).outcome is Outcome.CANCELLED
    assert (house.get("a").outcome, runner.runs) == (Outcome.CANCELLED, 0)
    lane.close()


def test_a_job_that_is_given_back_before_it_is_drawn_waits(house: House) -> None:
    runner = Dying(0)
    lane = house.lane(lambda: runner)
    job = house.job("a")
    job.give_back()
    lane.run(job)
    assert job.done.result(10).outcome is None
    assert (house.get("a").status, runner.runs) == (Status.PENDING, 0)
    lane.close()


def test_what_another_generation_runs_is_not_ended(house: House) -> None:
    """What was drawn is saved; the task is another's by now."""
    lane = house.lane(lambda: Dying(0))
    job = house.job("a")
    house.store.running.begin(take_over=False)
    lane.run(job)
    assert job.done.result(10).outcome is None
    assert house.get("a").status is Status.PENDING
    lane.close()


def test_a_picture_to_start_from_that_is_gone_fails_the_job(house: House) -> None:
    lane = house.lane(lambda: Dying(0))
    job = house.job("a", image="0" * 32 + ".png")
    lane.run(job)
    end = job.done.result(10)
    assert end.outcome is Outcome.FAILED
    assert isinstance(end.cause, InvalidRequest)
    lane.close()


def test_a_picture_to_start_from_that_is_damaged_fails_the_job(
    house: House, tmp_path: Path
) -> None:
    name = house.images.save(b"red", "png")
    (tmp_path / "images" / name).write_bytes(b"not red")
    runner = Dying(0)
    lane = house.lane(lambda: runner)
    job = house.job("a", image=name)
    lane.run(job)
    end = job.done.result(10)
    assert isinstance(end.cause, PictureDamaged)
    assert (end.outcome, runner.runs) == (Outcome.FAILED, 0)
    lane.close()


def test_pictures_are_saved_as_they_come(house: House) -> None:
    job = house.job("a", num_images=2)
    run = house.run(job)
    house.finisher.finish(run)
    run.handle(picture(0))
    run.handle(picture(1))
    assert not job.done.done()
    run.handle(Ended())
    end = job.done.result(10)
    assert end.result is not None
    assert [house.images.read(image.name) for image in end.result.images] == [
        b"picture 0",
        b"picture 1",
    ]


def test_one_run_at_a_time_is_finished(house: House) -> None:
    first, second = house.run(house.job("a")), house.run(house.job("b"))
    house.finisher.finish(first)
    handing_over = threading.Thread(target=house.finisher.finish, args=(second,))
    handing_over.start()
    try:
        handing_over.join(0.3)  # it must wait for the first, so this times out
        assert handing_over.is_alive()
    finally:
        for run in (first, second):
            run.handle(picture(0))
            run.handle(Ended())
    handing_over.join(10)
    assert second.job.done.result(10).outcome is Outcome.SUCCEEDED


def test_a_picture_that_is_missing_fails_the_job(house: House) -> None:
    run = house.run(house.job("a", num_images=2))
    house.finisher.finish(run)
    run.handle(picture(0))
    run.handle(Ended())
    end = run.job.done.result(10)
    assert (end.outcome, end.error) == (
        Outcome.FAILED,
        "The engine made 1 of 2 pictures. The first 1 of 2 pictures were kept.",
    )


class Sharing:
    """A runner whose process dies in its second run, before the first is encoded."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self._waiting: Callable[[EngineEvent], None] = print

    def run(
        self,
        work: Work,
        *,
        on_event: Callable[[EngineEvent], None],
        wants_preview: Callable[[], bool],  # noqa: ARG002
        cancel: CancelToken,  # noqa: ARG002
    ) -> None:
        self.prompts.append(work.request.prompt)
        if len(self.prompts) == 1:
            on_event(StageStarted(Stage.SAVE))
            self._waiting = on_event
        elif len(self.prompts) == 2:
            for callback in (self._waiting, on_event):
                callback(Ended(WorkerDied("Killed.")))
        else:
            on_event(StageStarted(Stage.SAVE))
            on_event(picture(0))
            on_event(Ended())

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_what_was_drawn_survives_the_death_of_the_next_job(house: House) -> None:
    runner = Sharing()
    lane = house.lane(lambda: runner)
    drawn, deadly = house.job("a", prompt="drawn"), house.job("b", prompt="deadly")
    lane.run(drawn)
    assert not drawn.done.done()
    lane.run(deadly)
    for job in (drawn, deadly):
        assert job.done.result(10).outcome is None
    outcomes = [house.store.tasks.attempts(each)[0].outcome for each in ("a", "b")]
    assert outcomes == [AttemptOutcome.GIVEN_BACK, AttemptOutcome.LOST]
    again = house.claim()
    assert again.task_id == "a"
    lane.run(again)
    assert again.done.result(10).outcome is Outcome.SUCCEEDED
    assert runner.prompts == ["drawn", "deadly", "drawn"]
    lane.close()


def test_a_disk_that_is_full_fails_the_job(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(FolderImages, "save", fail)
    run = house.run(house.job("a"))
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        house.finisher.finish(run)
        run.handle(picture(0))
        end = run.job.done.result(10)
    assert (end.outcome, end.error) == (
        Outcome.FAILED,
        "OSError: No space left on device",
    )


def test_a_run_reports_what_the_engine_says(house: House) -> None:
    run = house.run(house.job("a"))
    run.handle(StageStarted(Stage.BASE_MODEL))
    run.warn("Mind the gap.")
    run.warn("Mind the gap.")
    told = house.progress.get_progress("a")
    assert told is not None
    assert (told.current_stage, told.message) == (Stage.BASE_MODEL, "Mind the gap.")
    assert run.notes == ["Mind the gap."]
    assert run.describe_cancel() == "Cancelled at step 0 of 50."
    assert not run.drawn
    run.handle(StageStarted(Stage.SAVE))
    assert run.drawn
