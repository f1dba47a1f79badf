"""The time left comes from the steps of this run, and before them from like runs."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.progress.pace import Pace
from nbgen.schema import Stage, StagePlan

PLAN = [
    StagePlan(Stage.BASE_MODEL, 8, 8),
    StagePlan(Stage.REFINER_MODEL, 2, 3),
    StagePlan(Stage.DECODE, 0, 1),
]
LONG_PLAN = [
    StagePlan(Stage.BASE_MODEL, 40, 40),
    StagePlan(Stage.REFINER_MODEL, 10, 15),
    StagePlan(Stage.DECODE, 0, 1),
]
LIKE_RUNS_S = {
    Stage.LOAD: 5.0,
    Stage.BASE_MODEL: 40.0,
    Stage.REFINER_MODEL: 15.0,
    Stage.DECODE: 1.0,
    Stage.SAVE: 2.0,
}


def time_left(pace: Pace, at_s: float) -> float:
    left_s = pace.remaining_s(at_s)
    assert left_s is not None
    return left_s


def take_steps(pace: Pace, times_s: list[float], at_s: float = 0.0) -> float:
    for time_s in times_s:
        at_s += time_s
        pace.count_steps(1, at_s)
    return at_s


def figures(pace: Pace, times_s: list[float]) -> list[float | None]:
    """What the pace says after each of the steps of a run of ``LONG_PLAN``."""
    said = []
    pace.start_stage(Stage.BASE_MODEL, 0)
    for step, at_s in enumerate(accumulate(times_s), start=1):
        pace.count_steps(1, at_s)
        said.append(pace.remaining_s(at_s))
        if step == LONG_PLAN[0].steps:
            pace.start_stage(Stage.REFINER_MODEL, at_s)
    return said


def test_nothing_is_known_before_two_steps_were_timed() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    for step in range(2):
        pace.count_steps(1, at_s=step)
        assert pace.remaining_s(step) is None
    pace.count_steps(1, at_s=2)
    assert pace.remaining_s(2) is not None


def test_a_slow_first_step_does_not_count() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    at_s = take_steps(pace, [60, 1, 1, 1])
    # Four base steps, two of the refiner at 1.5 each, and the decoding.
    assert time_left(pace, at_s) == pytest.approx(4 + 3 + 1)


@pytest.mark.parametrize("slow", range(7))
def test_one_slow_step_is_forgiven_wherever_it_falls(slow: int) -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    times_s = [1.0] * 7
    times_s[slow] = 30.0
    at_s = take_steps(pace, times_s)
    assert time_left(pace, at_s) == pytest.approx(1 + 3 + 1)


def test_the_time_between_two_steps_is_taken_off_but_for_no_more_than_one() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    at_s = take_steps(pace, [1, 1, 1, 1])
    assert time_left(pace, at_s + 0.4) == pytest.approx(4 + 3 + 1 - 0.4)
    assert time_left(pace, at_s + 60) == pytest.approx(4 + 3 + 1 - 1)


def test_the_refiner_goes_by_its_own_speed_once_it_was_timed() -> None:
    pace = Pace(LONG_PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    at_s = take_steps(pace, [2.0] * 40)
    pace.start_stage(Stage.REFINER_MODEL, at_s)
    assert time_left(pace, at_s) == pytest.approx(2 * (15 + 1))
    at_s = take_steps(pace, [9.0] * 6, at_s)
    # A step of the refiner was planned as 3 s: all is three times as slow.
    assert time_left(pace, at_s) == pytest.approx(4 * 9 + 6)


def test_throttling_is_followed_within_its_window() -> None:
    pace = Pace(LONG_PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    at_s = take_steps(pace, [1.0] * 20 + [3.0] * 5)
    left_s = 3 * (15 + 15 + 1)
    assert left_s / 2 < time_left(pace, at_s) < left_s
    at_s = take_steps(pace, [3.0] * 5, at_s)
    assert time_left(pace, at_s) == pytest.approx(3 * (10 + 15 + 1))


def test_more_steps_than_planned_leave_nothing_of_their_stage() -> None:
    pace = Pace(PLAN)
    pace.start_stage(Stage.BASE_MODEL, 0)
    at_s = take_steps(pace, [1.0] * 12)
    assert time_left(pace, at_s) == pytest.approx(3 + 1)


def test_like_runs_give_a_figure_from_the_first_moment() -> None:
    pace = Pace(LONG_PLAN, LIKE_RUNS_S)
    assert time_left(pace, 0) == pytest.approx(63)
    pace.start_stage(Stage.LOAD, 0)
    assert time_left(pace, 3) == pytest.approx(60)
    assert time_left(pace, 50) == pytest.approx(58)
    pace.start_stage(Stage.BASE_MODEL, 60)
    assert time_left(pace, 60) == pytest.approx(58)


def test_like_runs_count_without_a_plan_of_their_stages() -> None:
    pace = Pace([StagePlan(Stage.BASE_MODEL, 50, 50)])
    pace.expect(LIKE_RUNS_S)
    assert time_left(pace, 0) == pytest.approx(63)


def test_a_stage_that_like_runs_do_not_tell_of_counts_by_its_cost() -> None:
    pace = Pace(LONG_PLAN, {Stage.BASE_MODEL: 20.0})
    assert time_left(pace, 0) == pytest.approx(20 + 7.5 + 0.5)


def test_like_runs_that_tell_of_no_planned_stage_are_not_enough() -> None:
    assert Pace(PLAN, {Stage.SAVE: 2.0}).remaining_s(0) is None


def test_a_time_that_says_nothing_is_left_out() -> None:
    pace = Pace(LONG_PLAN, {Stage.BASE_MODEL: 40.0, Stage.DECODE: 0, Stage.SAVE: -3})
    assert time_left(pace, 0) == pytest.approx(40 + 15 + 1)
    assert Pace(PLAN, {Stage.BASE_MODEL: math.nan}).remaining_s(0) is None


def test_measured_steps_take_over_from_like_runs_bit_by_bit() -> None:
    said = figures(Pace(LONG_PLAN, LIKE_RUNS_S), [8.0] * 40)
    known = [figure for figure in said if figure is not None]
    assert known[0] == pytest.approx(39 + 15 + 1 + 2)
    # Saving does not go slower when computing does.
    assert known[9] == pytest.approx(8 * (30 + 15 + 1) + 2)
    assert all(later < 2.2 * earlier for earlier, later in pairwise(known))


def test_what_each_stage_took_is_told_once_it_is_over() -> None:
    pace = Pace(PLAN)
    assert pace.stage_times_s == {}
    pace.start_stage(Stage.LOAD, 1)
    pace.start_stage(Stage.BASE_MODEL, 4)
    take_steps(pace, [1.0] * 8, 4)
    assert pace.stage_times_s == {Stage.LOAD: 3}
    pace.start_stage(Stage.SAVE, 20)
    pace.finish_stage(22)
    assert pace.stage_times_s == {
        Stage.LOAD: 3,
        Stage.BASE_MODEL: 16,
        Stage.SAVE: 2,
    }


step_times_s = st.floats(1e-6, 1e6)


@given(
    times_s=st.lists(step_times_s, min_size=50, max_size=50),
    expected_s=st.dictionaries(st.sampled_from(Stage), step_times_s),
)
def test_any_step_times_give_a_figure_that_is_finite_and_not_negative(
    times_s: list[float], expected_s: dict[Stage, float]
) -> None:
    said = figures(Pace(LONG_PLAN, expected_s), times_s)
    assert None not in said[2:]
    for figure in said:
        assert figure is None or 0 <= figure < math.inf


@given(
    noise=st.lists(st.floats(0.9, 1.1), min_size=50, max_size=50),
    step_s=st.floats(1e-3, 1e3),
    slow_step=st.integers(0, 49),
    slowness=st.floats(1, 1e3),
    with_history=st.booleans(),
)
def test_a_steady_run_with_one_slow_step_never_leaps(
    noise: list[float],
    step_s: float,
    slow_step: int,
    slowness: float,
    with_history: bool,
) -> None:
    """However slow the one step is, the figures stay within the noise."""
    costs = [1.0] * 40 + [1.5] * 10
    times_s = [step_s * cost * by for cost, by in zip(costs, noise, strict=True)]
    times_s[slow_step] *= slowness
    history = {planned.stage: planned.cost * step_s for planned in LONG_PLAN}
    said = figures(Pace(LONG_PLAN, history if with_history else None), times_s)
    known = [figure for figure in said if figure is not None]
    assert len(known) == (50 if with_history else 48)
    for earlier, later in pairwise(known):
        assert later <= 1.1 / 0.9 * earlier
    left = [sum(costs[step:]) + 1 for step in range(1, 51)]
    for figure, cost in zip(known, left[-len(known) :], strict=True):
        assert 0.89 * cost * step_s <= figure <= 1.11 * cost * step_s


def test_cost_follows_the_stages() -> None:
    pace = Pace(PLAN)
    assert (pace.cost_done, pace.cost_total) == (0, 12)
    pace.start_stage(Stage.REFINER_MODEL, 0)
    pace.count_steps(1, at_s=0)
    assert pace.cost_done == pytest.approx(8 + 1.5)
    pace.start_stage(Stage.SAVE, 0)
    assert pace.cost_done == 12
