"""A task is tried again when its process ends, and fails with the third."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from nbgen.errors import GenerationFailed
from nbgen.generation.process import ProcessEngine
from nbgen.schema import AttemptOutcome, Outcome
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from nbgen.testing.plugin import MakeStudio
from tests.generation.engines import DyingEngine, PoisonedEngine
from tests.parts import until

ROOT = Path(__file__).parent.parent.parent
LOST, GIVEN_BACK = AttemptOutcome.LOST, AttemptOutcome.GIVEN_BACK


def test_a_picture_that_kills_its_process_fails_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)  # for the process to find its engine
    with Studio(tmp_path, engine=ProcessEngine(PoisonedEngine)) as studio:
        poison = studio.generate("poison", num_inference_steps=3)
        other = studio.generate("a cat", num_inference_steps=3)
        with pytest.raises(GenerationFailed, match=r"ended 3 times\. The last time: "):
            poison.result(60)
        assert other.result(60).images
        lost = [attempt.outcome for attempt in poison.attempts[:2]]
        assert lost == [LOST, LOST]
        assert poison.attempts[2].outcome is AttemptOutcome.FAILED
        # A person who tries it once more has three attempts again.
        studio.retry(poison.id)
        with pytest.raises(GenerationFailed, match="ended 3 times"):
            studio.task(poison.id).result(60)
        assert len(poison.attempts) == 6


def test_a_process_that_ends_once_is_no_fault_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    engine = ProcessEngine(partial(DyingEngine, tmp_path / "died", 1))
    with Studio(tmp_path, engine=engine) as studio:
        task = studio.generate("a cat", num_inference_steps=5)
        assert task.result(60).images
        first, second = task.attempts
        assert (first.outcome, second.outcome) == (LOST, AttemptOutcome.SUCCEEDED)
        assert first.error
        assert second.seed == first.seed
        assert first.ended_at is not None
        assert second.started_at is not None
        assert first.ended_at <= second.started_at


RUNS_AND_DIES = """
import os, signal, sys
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

def die(step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)

studio = Studio(sys.argv[1], engine=PatternEngine(die), take_over=True)
studio.generate("poison", task_id="poison", num_inference_steps=3).result(60)
"""


def test_a_picture_that_kills_the_runner_fails_with_the_third(tmp_path: Path) -> None:
    for deaths in (1, 2, 3):
        ended = subprocess.run(
            [sys.executable, "-c", RUNS_AND_DIES, str(tmp_path)], check=False
        )
        assert ended.returncode == -signal.SIGKILL
        with Studio.open_library(tmp_path) as looking:
            assert looking.get_record("poison").attempt == deaths
    with Studio(tmp_path, engine=PatternEngine(), take_over=True) as studio:
        with pytest.raises(GenerationFailed, match="ended 3 times"):
            studio.task("poison").result(30)
        assert studio.generate("a cat", num_inference_steps=2).result(30).images


def test_a_task_that_is_given_back_each_time_never_fails_for_that(
    make_studio: MakeStudio,
) -> None:
    for _ in range(5):
        gate = Gate(at_step=2)
        studio = make_studio(gate, take_over=True)
        task = studio.generate("a cat", task_id="a", num_inference_steps=3)
        gate.wait_reached()
        gate.open()
        studio.close()
    studio = make_studio(take_over=True)
    task = studio.task("a")
    assert task.result(30).images
    outcomes = [attempt.outcome for attempt in task.attempts]
    assert outcomes == [*[GIVEN_BACK] * 5, AttemptOutcome.SUCCEEDED]


def test_a_cancel_while_nobody_runs_the_task_ends_it_at_once(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RUNS_AND_DIES, str(tmp_path)], check=False)
    with Studio.open_library(tmp_path) as looking:
        looking.cancel("poison")
        until(looking, lambda: looking.get_record("poison").status.ended)
        assert looking.get_record("poison").outcome is Outcome.CANCELLED
