"""The time left is known from the first second when a like run was seen before."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nbgen.local.timings import Timings
from nbgen.schema import GenerationProgress, GenerationRequest, Stage, StagePlan
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

REQUEST = GenerationRequest(prompt="a cat", num_inference_steps=10)
PLAN = [
    StagePlan(Stage.LOAD, 0, 0),
    StagePlan(Stage.BASE_MODEL, 8, 8),
    StagePlan(Stage.REFINER_MODEL, 2, 2),
    StagePlan(Stage.DECODE, 0, 1),
]
TIMES_S = {
    Stage.LOAD: 30.0,
    Stage.BASE_MODEL: 8.0,
    Stage.REFINER_MODEL: 4.0,
    Stage.DECODE: 1.0,
}
MADE_WITH = {"checkpoint": "sdxl", "device": "GPU", "dtype": "bfloat16"}


@pytest.fixture
def history(tmp_path: Path) -> Timings:
    history = Timings(tmp_path / "timings.json", "auto")
    history.remember(REQUEST, PLAN, TIMES_S, was_loaded=False, made_with=MADE_WITH)
    return history


def test_nothing_is_expected_of_a_first_run(tmp_path: Path) -> None:
    history = Timings(tmp_path / "timings.json", "auto")
    assert history.expected_s(REQUEST, loaded=False) == {}


def test_a_like_run_takes_as_long(history: Timings) -> None:
    assert history.expected_s(REQUEST, PLAN, loaded=False) == TIMES_S
    assert Stage.LOAD not in history.expected_s(REQUEST, PLAN, loaded=True)


def test_sampling_goes_by_the_step(history: Timings) -> None:
    twice = GenerationRequest(prompt="a dog", num_inference_steps=20)
    expected_s = history.expected_s(twice, loaded=True)
    assert expected_s == {"base_model": 16.0, "refiner_model": 8.0, "decode": 1.0}
    alone = GenerationRequest(
        prompt="a dog", num_inference_steps=20, use_refinement=False
    )
    assert history.expected_s(alone, loaded=True)[Stage.BASE_MODEL] == 20.0


@pytest.mark.parametrize(
    "other", [{"width": 512}, {"num_images": 2}, {"guidance_scale": 1.0}]
)
def test_an_unlike_run_is_not_known(history: Timings, other: dict[str, float]) -> None:
    unlike = GenerationRequest(prompt="a cat", **other)  # type: ignore[arg-type]
    assert history.expected_s(unlike, loaded=False) == {}


@pytest.mark.usefixtures("history")
def test_another_checkpoint_is_not_known(tmp_path: Path) -> None:
    other = Timings(tmp_path / "timings.json", "tiny")
    assert other.expected_s(REQUEST, loaded=False) == {}


def test_newer_runs_weigh_more_and_the_file_lasts(
    history: Timings, tmp_path: Path
) -> None:
    slower = {stage: 3 * seconds for stage, seconds in TIMES_S.items()}
    history.remember(REQUEST, PLAN, slower, was_loaded=True, made_with=MADE_WITH)
    history.keep()
    again = Timings(tmp_path / "timings.json", "auto")
    expected_s = again.expected_s(REQUEST, PLAN, loaded=False)
    assert expected_s[Stage.BASE_MODEL] == 16.0
    assert expected_s[Stage.LOAD] == 30.0


def test_a_broken_file_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    path.write_text("{")
    history = Timings(path, "auto")
    assert history.expected_s(REQUEST, loaded=False) == {}
    history.remember(REQUEST, PLAN, TIMES_S, was_loaded=False, made_with=MADE_WITH)
    assert Timings(path, "auto").expected_s(REQUEST, PLAN, loaded=False) == TIMES_S


def test_a_studio_knows_the_time_left_of_its_second_run(tmp_path: Path) -> None:
    def known_before_the_first_step() -> bool:
        running: list[GenerationProgress] = []
        is_running = threading.Event()

        def note(state: GenerationProgress) -> None:
            # The store may tell that it runs before the work has a stage.
            if state.current_stage is not None:
                running.append(state)
                is_running.set()

        def held(_step: int) -> None:
            assert is_running.wait(10)

        with Studio(tmp_path, engine=PatternEngine(held)) as studio:
            task = studio.generate("a cat", task_id=f"a{len(studio.tasks())}")
            task.watch(note)
            task.result(10)
        assert running[0].current_step == 0
        return running[0].remaining_known

    assert not known_before_the_first_step()
    assert known_before_the_first_step()
