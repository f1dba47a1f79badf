"""Who watches a batch is told of each change of it, whatever fails in between."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from nbgen.backend import StopWatching
from nbgen.errors import DataFolderUnusable, StudioClosed
from nbgen.handles import Batch
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.schema import GenerationRequest
from nbgen.testing import Gate, MemoryBackend, PatternEngine

NAMES = ["cat", "dog"]


class Flaky(MemoryBackend):
    """Says whom it is asked to watch, and cannot as long as it is told so."""

    is_down = False
    is_closing = False

    def __init__(self, engine: PatternEngine) -> None:
        super().__init__(engine)
        self.watched: SimpleQueue[str] = SimpleQueue()
        self.refused: SimpleQueue[str] = SimpleQueue()

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        if self.is_closing:
            self.refused.put(task_id)
            raise StudioClosed
        if self.is_down:
            self.refused.put(task_id)
            raise DataFolderUnusable("The database is gone.")
        self.watched.put(task_id)
        return super().watch(task_id, callback)


def test_a_watcher_that_begins_late_sees_the_steps_of_what_runs() -> None:
    gate = Gate(at_step=2)
    backend = Flaky(PatternEngine(gate))
    request = GenerationRequest(prompt="a cat", num_inference_steps=6)
    backend.submit_batch("pets", dict.fromkeys(NAMES, request), priority=0)
    gate.wait_reached()
    batch = Batch(backend, "pets", NAMES)
    runs = batch.task_ids[0]
    told: SimpleQueue[None] = SimpleQueue()
    stop = batch.watch(lambda: told.put(None))
    told.get(timeout=10)  # the present state is to be read
    assert backend.watched.get(timeout=10) == runs
    told.get(timeout=10)  # where the task is
    gate.open()
    batch.result(10)
    stop()
    stop()
    backend.close()


def test_a_task_that_cannot_be_watched_is_told_of_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(at_step=2)
    backend = Flaky(PatternEngine(gate))
    batch = Batch(backend, "pets", NAMES)
    told = threading.Semaphore(0)
    stop = batch.watch(told.release)
    assert told.acquire(timeout=10)
    backend.is_down = True
    request = GenerationRequest(prompt="a cat", num_inference_steps=6)
    backend.submit_batch("pets", dict.fromkeys(NAMES, request), priority=0)
    gate.wait_reached()
    assert told.acquire(timeout=10)
    assert backend.refused.get(timeout=10) == batch.task_ids[0]
    backend.is_down = False
    gate.open()
    batch.result(10)
    while batch.progress.succeeded < 2:
        assert told.acquire(timeout=10)
    stop()
    backend.close()
    assert "A callback for changes raised." in caplog.text


def test_a_studio_that_closes_meanwhile_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(at_step=2)
    backend = Flaky(PatternEngine(gate))
    request = GenerationRequest(prompt="a cat", num_inference_steps=6)
    backend.submit_batch("pets", dict.fromkeys(NAMES, request), priority=0)
    gate.wait_reached()
    batch = Batch(backend, "pets", NAMES)
    backend.is_closing = True
    stop = batch.watch(lambda: None)
    assert backend.refused.get(timeout=10) == batch.task_ids[0]
    gate.open()
    batch.result(10)
    stop()
    backend.close()  # the thread of the feed has ended, and would have logged it
    assert not caplog.records
