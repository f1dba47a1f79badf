"""A task ends once: in the store first, then for its watchers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.local.endings import Endings
from nbgen.local.ends import Ends
from nbgen.local.job import Job
from nbgen.progress import ChangeFollower, ProgressService
from nbgen.schema import (
    MOST_DEATHS,
    WAITS,
    WAITS_AGAIN,
    GenerationProgress,
    GenerationRequest,
    Outcome,
    Status,
    TaskEnd,
    died_too_often,
    new_record,
)
from nbgen.store import Store
from nbgen.store.running import Ending
from tests.store.test_tasks import LATER, add, claim

REQUEST = GenerationRequest(prompt="a cat", seed=7)


class House:
    """A store, a service, and what ends tasks."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.progress = ProgressService()
        self.changes = ChangeFollower(self.store.changes)
        self.ends = Ends(self.store.tasks, self.changes, lambda _: True)
        self.endings = Endings(
            self.store.tasks,
            self.store.running,
            self.progress,
            self.ends,
            now=lambda: LATER,
        )
        self.generation = self.store.running.begin(take_over=False)

    def job(self, task_id: str) -> Job:
        """Return the job of a new task, which has begun."""
        add(self.store, new_record(task_id, REQUEST))
        record = claim(self.store, self.generation)
        self.progress.create_progress(task_id, REQUEST.num_inference_steps)
        return Job(record, self.generation)

    def told(self, task_id: str) -> GenerationProgress | None:
        return self.progress.get_progress(task_id)

    def close(self) -> None:
        self.ends.close()
        self.changes.close()
        self.progress.close()
        self.store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_an_end_is_committed_before_it_is_told(house: House) -> None:
    job = house.job("a")
    stored: SimpleQueue[Any] = SimpleQueue()

    def look(state: GenerationProgress) -> None:
        if state.status.ended:
            record = house.store.tasks.get_task("a")
            stored.put((record and record.outcome, record and record.ended_at))

    house.progress.register_callback("a", look)
    cause = ValueError("boom")
    house.endings.end(job, Outcome.FAILED, error="Boom.", cause=cause)
    assert stored.get(timeout=10) == (Outcome.FAILED, LATER)
    assert job.done.result(0) == TaskEnd("a", Outcome.FAILED, "Boom.", None, cause)


def test_of_two_ends_the_first_is_told(house: House) -> None:
    job = house.job("a")
    waited = house.ends.of("a")
    first = Ending(Outcome.CANCELLED, "No.")
    house.store.running.end("a", house.generation, first, ended_at=LATER)
    house.endings.end(job, Outcome.SUCCEEDED)
    assert waited.result(0) == TaskEnd("a", Outcome.CANCELLED, "No.")
    assert job.done.result(0) == TaskEnd("a", Outcome.CANCELLED, "No.")
    told = house.told("a")
    assert told is not None
    assert (told.outcome, told.error) == (Outcome.CANCELLED, "No.")


def test_an_end_that_cannot_be_saved_is_kept_and_saved_later(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        # The second half is wrong by the time that somebody reads it.
        message = "The disk is full. It is not known whether the change was kept."
        raise DataFolderUnusable(message, reason="The disk is full.")

    job = house.job("a")
    with (
        monkeypatch.context() as patched,
        caplog.at_level(logging.CRITICAL, "nbgen"),
    ):
        patched.setattr(house.store.running, "end", fail)
        house.endings.end(job, Outcome.SUCCEEDED)
    end = job.done.result(0)
    assert end.outcome is Outcome.FAILED
    assert end.error == "The result could not be saved: The disk is full."
    assert isinstance(end.cause, DataFolderUnusable)
    assert house.endings.has_unsaved_end("a")
    house.endings.save_ends()
    assert not house.endings.has_unsaved_end("a")
    record = house.store.tasks.get_task("a")
    assert record is not None
    assert (record.outcome, record.error) == (Outcome.FAILED, end.error)


def test_a_progress_that_cannot_be_read_fails_the_job(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_task_id: str) -> None:
        raise RuntimeError("No times.")

    job = house.job("a")
    monkeypatch.setattr(house.progress, "stage_times", fail)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        house.endings.end(job, Outcome.SUCCEEDED)
    assert job.done.result(0).outcome is Outcome.FAILED
    told = house.told("a")
    assert told is not None
    assert told.outcome is Outcome.FAILED


def test_an_end_of_a_past_generation_is_not_the_task_s(house: House) -> None:
    """Another has taken the turn, and the task waits or runs there."""
    job = house.job("a")
    house.progress.update_progress("a", current_step=1)
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    house.progress.register_callback("a", seen.put)
    waited = house.ends.of("a")
    house.store.running.begin(take_over=False)
    house.endings.end(job, Outcome.SUCCEEDED)
    assert job.done.result(0) == TaskEnd("a", None)
    assert not waited.done()
    assert house.told("a") is None  # nor does it run here any more
    states = [seen.get(timeout=10).status for _ in range(2)]
    assert states == [Status.GENERATING, Status.PENDING]
    [record] = house.store.tasks.get_known(["a"])
    assert record.status is Status.PENDING


def test_an_end_of_a_task_that_was_deleted_resolves_silently(house: House) -> None:
    job = house.job("a")
    house.store.running.begin(take_over=False)
    house.store.queue.cancel(["a"])
    house.store.delete_tasks(["a"], lambda *_: None)
    house.endings.end(job, Outcome.SUCCEEDED)
    assert job.done.result(0) == TaskEnd("a", None)


@pytest.mark.parametrize("died_of", [None, "Signal 9."])
def test_a_task_that_is_given_back_waits_and_says_why(
    house: House, died_of: str | None
) -> None:
    job = house.job("a")
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    house.progress.register_callback("a", seen.put)
    waited = house.ends.of("a")
    house.endings.give_back(job, died_of=died_of)
    assert job.done.result(0) == TaskEnd("a", None)
    assert not waited.done()
    states = [seen.get(timeout=10) for _ in range(2)]
    assert [state.message for state in states] == [WAITS, WAITS_AGAIN]
    assert states[0].seq < states[1].seq
    assert house.store.queue.waiting() == ["a"]


def test_the_third_death_is_the_end(house: House) -> None:
    job = house.job("a")
    for _ in range(MOST_DEATHS - 1):
        house.store.running.give_back("a", house.generation, died_of="Signal 9.")
        job = Job(claim(house.store, house.generation), house.generation)
    waited = house.ends.of("a")
    house.endings.give_back(job, died_of="Signal 9.")
    end = waited.result(0)
    assert (end.outcome, end.error) == (Outcome.FAILED, died_too_often("Signal 9."))
    assert job.done.result(0) == end
    told = house.told("a")
    assert told is not None
    assert (told.outcome, told.error) == (end.outcome, end.error)
