"""Measures how honest the predicted time left is.

Run: ``.venv/bin/python benchmarks/time_left.py``. Simulated runs are 50 steps, a fifth
of them the refiner's, on a machine where a step takes 1 s with 10 % of noise and one
step takes three times as long; recorded runs are the tiny checkpoint's, 50 steps
through a studio. All are replayed through the progress service, without history and
with that of other runs of their kind, which for throttled runs were not throttled.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from nbgen import Studio
from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress, Stage, StagePlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbgen.schema import GenerationResult

RUNS = 30
STEPS, BASE_STEPS = 50, 40
REFINER_STEPS = STEPS - BASE_STEPS
JUDGED_FROM_STEP = STEPS // 5
PLAN = [
    StagePlan(Stage.BASE_MODEL, BASE_STEPS, BASE_STEPS),
    StagePlan(Stage.REFINER_MODEL, REFINER_STEPS, REFINER_STEPS * 1.08),
    StagePlan(Stage.DECODE, 0, 0.77),
]


class Report(NamedTuple):
    """One call of ``update_progress``."""

    at_s: float
    arguments: Mapping[str, Any]


class Run(NamedTuple):
    """What was reported of one generation, from 0 s to its end."""

    reports: list[Report]
    end_s: float


@dataclass(frozen=True)
class Scenario:
    """How a simulated machine behaves.

    Attributes:
        step_s: Seconds of a step of the base model.
        refiner_step_s: Seconds of a step of the refiner.
        first_step_s: What the first step of each stage takes in addition.
        throttling: How many times slower all is from the middle of the run on.
    """

    step_s: float = 1.0
    refiner_step_s: float = 1.08
    first_step_s: float = 0.0
    throttling: float = 1.0

    def run(self, rng: random.Random) -> Run:
        """Return one run of this machine."""
        now_s = 0.0
        reports = [Report(now_s, {"current_stage": Stage.LOAD})]
        now_s += 5 * rng.lognormvariate(0, 0.1)
        slow_step = rng.randint(1, STEPS)
        reports.append(Report(now_s, {"plan": PLAN}))
        for step in range(1, STEPS + 1):
            in_base = step <= BASE_STEPS
            step_s = self.step_s if in_base else self.refiner_step_s
            step_s *= rng.lognormvariate(0, 0.1) * (3 if step == slow_step else 1)
            if step in (1, BASE_STEPS + 1):
                stage = Stage.BASE_MODEL if in_base else Stage.REFINER_MODEL
                reports.append(Report(now_s, {"current_stage": stage}))
                step_s += self.first_step_s
            now_s += step_s * (self.throttling if step > STEPS / 2 else 1)
            reports.append(Report(now_s, {"current_step": step}))
        reports.append(Report(now_s, {"current_stage": Stage.DECODE}))
        now_s += 0.77 * self.step_s * self.throttling
        reports.append(Report(now_s, {"current_stage": Stage.SAVE}))
        return Run(reports, now_s + 0.3)


class Recorder(ProgressService):
    """A progress service that keeps what is reported of its latest task."""

    def __init__(self) -> None:
        super().__init__()
        self._started_at_s = 0.0
        self._reports: list[Report] = []
        self.runs: list[Run] = []

    def update_progress(self, task_id: str, **arguments: Any) -> GenerationProgress:
        """Keep the report and pass it on."""
        now_s = time.monotonic()
        if not self._reports:
            self._started_at_s = now_s
        self._reports.append(Report(now_s - self._started_at_s, arguments))
        return super().update_progress(task_id, **arguments)

    def mark_complete(
        self, task_id: str, *, result: GenerationResult | None = None
    ) -> GenerationProgress:
        """Keep the run and pass its end on."""
        self.runs.append(Run(self._reports, time.monotonic() - self._started_at_s))
        self._reports = []
        return super().mark_complete(task_id, result=result)


def record_runs(num_images: int) -> list[Run]:
    """Return the reports of real runs, but for the first, which loads."""
    recorder = Recorder()
    with (
        tempfile.TemporaryDirectory() as folder,
        Studio(folder, "tiny", progress=recorder) as studio,
    ):
        for _ in range(RUNS + 1):
            studio.generate(
                "a red circle",
                num_inference_steps=STEPS,
                seed=7,
                num_images=num_images,
            ).result()
    recorder.close()
    return recorder.runs[1:]


class Replay(NamedTuple):
    """What the progress service said of a run."""

    states: list[GenerationProgress]
    stage_times_s: dict[Stage, float]


def replay(run: Run, expected_s: Mapping[Stage, float] | None) -> Replay:
    """Report a run again and return each new state."""
    now_s = 0.0
    service = ProgressService(clock=lambda: now_s)
    service.create_progress("a", STEPS)
    states = []
    for at_s, arguments in run.reports:
        now_s = at_s
        states.append(service.update_progress("a", expected_s=expected_s, **arguments))
    now_s = run.end_s
    service.mark_complete("a")
    return Replay(states, service.stage_times("a"))


def history_of(runs: list[Run]) -> dict[Stage, float]:
    """Return the median of what each stage took."""
    times_s = [replay(run, None).stage_times_s for run in runs]
    return {
        stage: statistics.median(times[stage] for times in times_s)
        for stage in times_s[0]
    }


def error_of(state: GenerationProgress, run: Run) -> float:
    """Return by how many percent of the true time left a state is wrong."""
    left_s = run.end_s - state.elapsed_time
    return 100 * abs(state.estimated_remaining - left_s) / left_s


def judge(name: str, replayed: list[tuple[Run, Replay]], from_step: int) -> None:
    """Print one row of the table."""
    at_start, at_mark, after, jumps = [], [], [], [0.0]
    negatives = 0
    for run, (states, _) in replayed:
        if states[0].remaining_known:
            at_start.append(error_of(states[0], run))
        by_step = {state.current_step: state for state in reversed(states)}
        at_mark.append(error_of(by_step[from_step], run))
        after += [error_of(by_step[step], run) for step in range(from_step, STEPS + 1)]
        for earlier, later in pairwise(by_step[step] for step in range(1, STEPS + 1)):
            if earlier.estimated_remaining:
                jumps.append(later.estimated_remaining / earlier.estimated_remaining)
        negatives += sum(not 0 <= s.estimated_remaining < math.inf for s in states)
    start = f"{statistics.median(at_start):.1f} %" if at_start else "unknown"
    print(
        f"| {name} | {start} | {statistics.median(at_mark):.1f} % "
        f"| {statistics.median(after):.1f} % | {max(jumps):.2f} | {negatives} |"
    )


def simulated() -> Iterator[tuple[str, list[Run], list[Run], int]]:
    """Yield name, runs, the runs before them and the first step that is judged."""
    after_change = STEPS // 2 + 5
    for name, scenario, from_step in (
        ("steady", Scenario(), JUDGED_FROM_STEP),
        ("slow first step, + 8 s", Scenario(first_step_s=8), JUDGED_FROM_STEP),
        ("refiner twice as slow", Scenario(refiner_step_s=2), JUDGED_FROM_STEP),
        ("throttled to half", Scenario(throttling=2), JUDGED_FROM_STEP),
        ("the same, 5 steps later", Scenario(throttling=2), after_change),
        ("batch of 4", Scenario(step_s=4, refiner_step_s=4.32), JUDGED_FROM_STEP),
    ):
        rng = random.Random(7)  # noqa: S311 - seeded, for the same figures each time
        before = [replace(scenario, throttling=1.0).run(rng) for _ in range(RUNS)]
        yield name, [scenario.run(rng) for _ in range(RUNS)], before, from_step


def recorded() -> Iterator[tuple[str, list[Run], list[Run], int]]:
    """Yield the same of real runs: half of them are the history of the others."""
    for num_images in (1, 4):
        runs = record_runs(num_images)
        before, after = runs[: RUNS // 2], runs[RUNS // 2 :]
        yield f"recorded, {num_images} a run", after, before, JUDGED_FROM_STEP


def main() -> None:
    """Print the table."""
    print("| runs | at the start | at the mark | from then on | jump up | invalid |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kinds in (simulated(), recorded()):
        for name, runs, before, from_step in kinds:
            for history, expected_s in (
                ("", None),
                (", with history", history_of(before)),
            ):
                replayed = [(run, replay(run, expected_s)) for run in runs]
                judge(name + history, replayed, from_step)


if __name__ == "__main__":
    main()
