"""The next attempt at a task begins once the last is told, and is a job of its own."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import WorkerDied
from nbgen.progress import ProgressService
from nbgen.schema import Changes, GenerationProgress, GenerationRequest, Outcome
from nbgen.testing import Gate, PatternEngine
from nbgen.testing.plugin import open_alone

REQUEST = GenerationRequest(prompt="a cat", num_inference_steps=4, seed=7)
DIED = WorkerDied("It was killed.")


class Slow(ProgressService):
    """Takes its time to tell that a task waits again: until the next attempt begins.

    That is not to be, so it waits for half a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: SimpleQueue[str] = SimpleQueue()
        self.has_begun_again = threading.Event()

    def create_progress(
        self, task_id: str, total_steps: int, *, began_at: dt.datetime | None = None
    ) -> GenerationProgress:
        if not self.begun.empty():
            self.has_begun_again.set()
        self.begun.put(task_id)
        return super().create_progress(task_id, total_steps, began_at=began_at)

    def publish_foreign(
        self, progress: GenerationProgress, *, was_here: bool = False
    ) -> None:
        if was_here:
            assert not self.has_begun_again.wait(0.5)
        super().publish_foreign(progress, was_here=was_here)


@pytest.fixture
def slow() -> Iterator[Slow]:
    service = Slow()
    yield service
    service.close()


def test_the_next_attempt_waits_until_the_last_is_told(
    tmp_path: Path, slow: Slow
) -> None:
    gate = Gate(at_step=2)
    with open_alone(
        tmp_path, engine=PatternEngine(gate), progress=slow, worker="thread"
    ) as studio:
        task = studio.submit(REQUEST, task_id="a")
        gate.wait_reached()
        gate.fail(DIED)
        gate.open()
        task.result(30)
        assert [each.outcome for each in task.attempts] == ["lost", "succeeded"]


def test_an_attempt_that_is_claimed_at_once_can_be_cancelled(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    told: SimpleQueue[Changes] = SimpleQueue()
    is_claimed = threading.Event()

    def until(state: str) -> None:
        while state not in [each.state for each in told.get(timeout=30).changes]:
            pass

    with open_alone(tmp_path, engine=PatternEngine(gate)) as studio:
        studio.submit(REQUEST, task_id="a")
        gate.wait_reached()
        studio.watch_changes(told.put)
        # The first attempt is not over before this returns.
        ended = studio.backend.ended("a")
        ended.add_done_callback(lambda _: is_claimed.wait(30))
        gate.fail(ValueError("no"))
        until("failed")
        studio.retry("a")
        until("generating")
        is_claimed.set()
        gate.wait_reached()
        studio.cancel("a")
        gate.open()
        assert studio.backend.ended("a").result(30).outcome is Outcome.CANCELLED
