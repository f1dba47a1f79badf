"""A process that says nothing for longer than is usual is told of."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import TaskCancelled
from nbgen.generation.process import ProcessEngine
from nbgen.generation.worker_process import ProcessTiming
from nbgen.handles import Task
from nbgen.schema import GenerationProgress
from nbgen.studio import Studio
from tests.generation.engines import PacedEngine

ROOT = Path(__file__).parent.parent.parent


class Watched:
    """A task that runs in a process which can be stopped."""

    def __init__(self, task: Task, engine: ProcessEngine) -> None:
        self.task = task
        self._engine = engine
        self._states: SimpleQueue[GenerationProgress] = SimpleQueue()
        task.watch(self._states.put)

    def wait_for(
        self, is_it: Callable[[GenerationProgress], bool]
    ) -> GenerationProgress:
        while not is_it(state := self._states.get(timeout=30)):
            pass
        return state

    def send(self, number: signal.Signals) -> None:
        assert self._engine.process_id is not None
        os.kill(self._engine.process_id, number)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Return a task that has made three steps."""
    monkeypatch.syspath_prepend(ROOT)  # for the process to find its engine
    timing = ProcessTiming(quiet_s=0.5, cancel_s=3_600.0)
    engine = ProcessEngine(partial(PacedEngine, 0.02), timing)
    with Studio(tmp_path, engine=engine) as studio:
        watched = Watched(studio.generate("a cat", num_inference_steps=150), engine)
        watched.wait_for(lambda state: state.current_step >= 3)
        yield watched


def test_a_silence_is_told_until_it_is_over(watched: Watched) -> None:
    watched.send(signal.SIGSTOP)
    silent = watched.wait_for(lambda state: state.message.startswith("No sign of life"))
    assert silent.message.endswith(" s. Cancel ends it at once.")
    watched.send(signal.SIGCONT)
    later = watched.wait_for(lambda state: state.current_step > silent.current_step)
    assert later.message == "Sampling with the base model"
    assert watched.task.result(60).images


def test_a_cancel_ends_a_silent_process_at_once(watched: Watched) -> None:
    """It cannot answer, and would have an hour to do so."""
    watched.send(signal.SIGSTOP)
    watched.wait_for(lambda state: state.message.startswith("No sign of life"))
    watched.task.cancel()
    with pytest.raises(TaskCancelled):
        watched.task.result(30)
