"""Whoever waits for a task is told when the process that runs the queue is silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.local import watching
from nbgen.local.silence import ABANDONED, SILENT_AFTER_S, Silence
from nbgen.schema import GenerationProgress, Outcome
from nbgen.studio import Studio
from nbgen.testing import PatternEngine
from tests.other_process import OtherProcess
from tests.parts import until_end

WAIT_S = 30.0
SAID = "has given no sign of life for "


class Beats:
    """A turn whose signs of life the test gives."""

    def __init__(self) -> None:
        self.beat: object = 0

    def last_beat(self) -> object:
        return self.beat


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def beats() -> Beats:
    return Beats()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def silence(beats: Beats, clock: Clock) -> Silence:
    return Silence(beats, clock)  # type: ignore[arg-type]


def look(silence: Silence, clock: Clock, *, seconds: int) -> None:
    for _ in range(seconds):
        clock.now_s += 1.0
        silence.look()


def test_a_silence_is_counted_until_the_next_sign(
    silence: Silence, beats: Beats, clock: Clock
) -> None:
    silence.look()
    assert silence.silent_s == 0
    look(silence, clock, seconds=11)
    assert silence.silent_s == 11 > SILENT_AFTER_S
    beats.beat = 1
    look(silence, clock, seconds=1)
    assert silence.silent_s == 0


def test_whoever_was_asleep_takes_nobody_for_silent(
    silence: Silence, clock: Clock
) -> None:
    silence.look()
    clock.now_s += 3_600.0
    silence.look()
    assert silence.silent_s < SILENT_AFTER_S


def test_nobody_at_work_is_not_a_silence(
    silence: Silence, beats: Beats, clock: Clock
) -> None:
    silence.look()
    beats.beat = None
    look(silence, clock, seconds=12)
    assert (silence.silent_s, silence.absent_s) == (0, 12)
    beats.beat = 5
    look(silence, clock, seconds=1)
    assert (silence.silent_s, silence.absent_s) == (0, 0)


@pytest.fixture
def folder(
    tmp_path: Path, database: str | None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    if database is not None:
        monkeypatch.setenv("NBGEN_DATABASE", database)
    # Twice as long as from one sign of life to the next.
    monkeypatch.setattr(watching, "SILENT_AFTER_S", 2.0)
    return tmp_path / "data"


@pytest.fixture
def states(folder: Path) -> Iterator[SimpleQueue[GenerationProgress]]:
    """Return the states of the task "a", as a library sees them."""
    found: SimpleQueue[GenerationProgress] = SimpleQueue()
    with Studio.open_library(folder) as studio:
        studio.watch("a", found.put)
        yield found


def wait_for(states: SimpleQueue[GenerationProgress], text: str) -> None:
    while text not in states.get(timeout=WAIT_S).message:
        pass


def wait_past(states: SimpleQueue[GenerationProgress], text: str) -> None:
    while text in states.get(timeout=WAIT_S).message:
        pass


def test_a_runner_that_is_stopped_is_shown_until_it_goes_on(
    folder: Path, states: SimpleQueue[GenerationProgress]
) -> None:
    other = OtherProcess(folder)
    try:
        other.tell(submits=["a"], prompt="held", steps=9)
        wait_for(states, "Sampling")
        os.kill(other.process_id, signal.SIGSTOP)
        wait_for(states, SAID)
        os.kill(other.process_id, signal.SIGCONT)
        wait_past(states, SAID)
        other.tell(lets_go=True)
        assert until_end(states)[-1].outcome is Outcome.SUCCEEDED
    finally:
        assert other.close() == 0


def test_a_task_whose_runner_died_is_said_to_be_abandoned(
    folder: Path, states: SimpleQueue[GenerationProgress]
) -> None:
    other = OtherProcess(folder)
    other.tell(submits=["a"], prompt="held", steps=9)
    wait_for(states, "Sampling")
    os.kill(other.process_id, signal.SIGKILL)
    wait_for(states, ABANDONED)
    other.close()
    with Studio.open_library(folder) as looking:
        assert not looking.queue_state().has_runner
    with Studio(folder, engine=PatternEngine(), take_over=True):
        assert until_end(states)[-1].outcome is Outcome.SUCCEEDED
