"""A task ends once: in the store first, then for its watchers."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from nbgen.local.job_queue import Job

from nbgen.errors import DataFolderUnusable
from nbgen.local.endings import Endings
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationProgress,
    GenerationRequest,
    Outcome,
    TaskEnd,
    new_record,
)
from nbgen.store import Store

REQUEST = GenerationRequest(prompt="a cat", seed=7)
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


class House:
    """A store, a service, and what ends tasks."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.progress = ProgressService()
        self.endings = Endings(self.store.tasks, self.progress, now=lambda: NOW)

    def job(self, task_id: str) -> Job:
        """Return the job of a new task."""
        self.store.tasks.add_tasks([new_record(task_id, REQUEST)])
        self.progress.create_progress(task_id, REQUEST.num_inference_steps)
        return Job(task_id, REQUEST, 7)

    def told(self, task_id: str) -> GenerationProgress | None:
        return self.progress.get_progress(task_id)

    def close(self) -> None:
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
    assert stored.get(timeout=10) == (Outcome.FAILED, NOW)
    assert job.done.result(0) == TaskEnd("a", Outcome.FAILED, "Boom.", None, cause)


def test_of_two_ends_the_first_is_told(house: House) -> None:
    job = house.job("a")
    house.store.tasks.end_tasks(["a"], Outcome.CANCELLED, ended_at=NOW, error="No.")
    house.endings.end(job, Outcome.SUCCEEDED)
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
        patched.setattr(house.store.tasks, "end_task", fail)
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


def test_jobs_that_wait_end_as_cancelled_and_those_that_began_do_not_resolve(
    house: House,
) -> None:
    waiting, begun = house.job("a"), house.job("b")
    house.endings.cancel_waiting([waiting, begun], lambda jobs: list(jobs)[:1])
    assert waiting.done.result(0).outcome is Outcome.CANCELLED
    assert not begun.done.done()


def test_a_job_without_a_stored_end_resolves_silently(house: House) -> None:
    for task_id, record in (("a", None), ("b", new_record("b", REQUEST))):
        job = house.job(task_id)
        house.endings.resolve_from_record(job, record)
        assert job.done.result(0) == TaskEnd(task_id, None)
        told = house.told(task_id)
        assert told is not None
        assert told.outcome is None
