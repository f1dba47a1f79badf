"""The time left comes from the steps of this run, and is unknown before there are."""

from __future__ import annotations

import pytest

from nbgen.progress import Stage, StagePlan
from nbgen.progress.eta import Pace

PLAN = [
    StagePlan(Stage.BASE_MODEL, 8, 8),
    StagePlan(Stage.REFINER_MODEL, 2, 3),
    StagePlan(Stage.DECODE, 0, 1),
]


def test_nothing_is_known_before_two_steps_were_timed() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL)
    for step in range(2):
        pace.count_steps(1, at_s=step)
        assert pace.remaining_s is None
    pace.count_steps(1, at_s=2)
    assert pace.remaining_s is not None


def test_a_slow_first_step_does_not_count() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL)
    for at_s in (60, 61, 62, 63):
        pace.count_steps(1, at_s=at_s)
    # Four base steps, two of the refiner at 1.5 each, and the decoding.
    assert pace.remaining_s == pytest.approx(4 + 3 + 1)


def test_one_slow_step_is_forgiven() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL)
    for at_s in (0, 1, 2, 3, 33, 34):
        pace.count_steps(1, at_s=at_s)
    assert pace.remaining_s == pytest.approx(2 + 3 + 1)


def test_cost_follows_the_stages() -> None:
    pace = Pace(PLAN)
    assert (pace.cost_done, pace.cost_total) == (0, 12)
    pace.start_stage(Stage.REFINER_MODEL)
    pace.count_steps(1, at_s=0)
    assert pace.cost_done == pytest.approx(8 + 1.5)
    pace.start_stage(Stage.SAVE)
    assert pace.cost_done == 12
