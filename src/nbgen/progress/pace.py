"""How far a task is and how long it has left, by the cost of its stages.

One ``Pace`` belongs to one task; it is not thread-safe and is used under the lock of
its owner.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING

from nbgen.schema import Stage, StagePlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STEPS_REMEMBERED = 10
_STEPS_NEEDED = 2
_STEPS_TRUSTED = 4
"""After so many timed steps of a stage, nothing but these counts for its speed."""


class Pace:
    """Measures the stages and steps of a run and derives what is left of it.

    Each stage is first given a time: what like runs took, or else its planned cost.
    The steps of a stage tell how many times slower the stage is than that; a stage
    whose steps have not been timed is taken to be as slow as the one before it.

    The speed of a stage is the mean over its last ten steps but the fastest and the
    slowest, so a single slow step is forgiven. The first step of a stage is left out:
    it also encodes the prompt, warms caches up and moves weights.

    Args:
        plan: The stages of the run, in order.
        expected_s: Seconds that like runs took for whole stages, if that is known.
    """

    def __init__(
        self,
        plan: Sequence[StagePlan],
        expected_s: Mapping[Stage, float] | None = None,
    ) -> None:
        self._stage: Stage | None = None
        self._stage_steps = 0
        self._stage_started_at_s = 0.0
        self._last_event_at_s = 0.0
        self._stage_times_s: dict[Stage, float] = {}
        self._step_times_s: dict[Stage, list[float]] = {}
        self._last_step_times_s: dict[Stage, deque[float]] = {}
        self._expected_s: dict[Stage, float] = {}
        self.replan(plan)
        self.expect(expected_s or {})

    def replan(self, plan: Sequence[StagePlan]) -> None:
        """Take a more exact plan; what was measured stays."""
        self._plan = {planned.stage: planned for planned in plan}
        self._price()

    def expect(self, expected_s: Mapping[Stage, float]) -> None:
        """Take the seconds that like runs took for whole stages."""
        self._expected_s = {
            stage: seconds
            for stage, seconds in expected_s.items()
            if 0 < seconds < math.inf
        }
        self._price()

    def start_stage(self, stage: Stage, at_s: float) -> None:
        """Note that a stage has begun, and so the one before it has ended."""
        self.finish_stage(at_s)
        self._stage = stage
        self._stage_steps = 0
        self._stage_started_at_s = self._last_event_at_s = at_s

    def finish_stage(self, at_s: float) -> None:
        """Note that the present stage, if there is one, has come to its end."""
        if self._stage is not None:
            self._stage_times_s[self._stage] = at_s - self._stage_started_at_s

    def count_steps(self, steps: int, at_s: float) -> None:
        """Note that ``steps`` more steps of the present stage were done at ``at_s``."""
        took_s = (at_s - self._last_event_at_s) / steps
        if self._stage is not None:
            self._step_times_s.setdefault(self._stage, []).extend([took_s] * steps)
        if self._stage is not None and self._stage_steps:
            last_s = self._last_step_times_s.setdefault(
                self._stage, deque(maxlen=_STEPS_REMEMBERED)
            )
            last_s.append(took_s)
        self._stage_steps += steps
        self._last_event_at_s = at_s

    @property
    def stage_times_s(self) -> dict[Stage, float]:
        """The seconds that each finished stage took."""
        return dict(self._stage_times_s)

    @property
    def step_times_s(self) -> dict[Stage, tuple[float, ...]]:
        """The seconds that each step took, of each stage that has some."""
        return {stage: tuple(times) for stage, times in self._step_times_s.items()}

    @property
    def cost_done(self) -> float:
        """The cost of what was done so far."""
        if self._stage is None:
            return 0.0
        done = sum(
            planned.cost
            for planned in self._plan.values()
            if planned.stage.position < self._stage.position
        )
        present = self._plan.get(self._stage)
        if present is not None and present.steps:
            done += present.cost * min(self._stage_steps / present.steps, 1.0)
        return done

    @property
    def cost_total(self) -> float:
        """The cost of the whole run."""
        return sum(planned.cost for planned in self._plan.values())

    def remaining_s(self, at_s: float) -> float | None:
        """Seconds left at ``at_s``.

        None while neither two steps were timed nor the time of like runs is known.
        """
        slowness = self._slowness_at_first
        left_s = 0.0
        for planned, piece_s in self._pieces:
            stage = planned.stage
            # What is not planned does not compute: it is not slow when a GPU is.
            if planned.cost:
                slowness = self._slowness(stage, piece_s, slowness)
            if self._stage is not None and stage.position < self._stage.position:
                continue
            if slowness is None:
                return None
            factor = slowness if planned.cost else 1.0
            left_s += self._left_s(planned, piece_s * factor, at_s)
        return left_s

    def _price(self) -> None:
        """Work out, once for all steps, what each piece of each stage takes."""
        timed = self._plan.keys() & self._expected_s.keys()
        cost = sum(self._plan[stage].cost for stage in timed)
        seconds = sum(self._expected_s[stage] for stage in timed)
        unit_s = seconds / cost if cost else 1.0
        self._slowness_at_first = 1.0 if cost else None
        self._pieces: list[tuple[StagePlan, float]] = []
        stages = self._plan.keys() | self._expected_s.keys()
        for stage in sorted(stages, key=lambda stage: stage.position):
            planned = self._plan.get(stage, StagePlan(stage, 0, 0.0))
            stage_s = self._expected_s.get(stage, planned.cost * unit_s)
            # A stage without steps is one piece of work.
            self._pieces.append((planned, stage_s / max(planned.steps, 1)))

    def _slowness(
        self, stage: Stage, planned_s: float, before: float | None
    ) -> float | None:
        """Return how many times ``planned_s`` a step of the stage takes.

        Args:
            stage: The stage.
            planned_s: Seconds that a step is planned to take.
            before: The slowness of the stage before, or None if it is not known.
        """
        times_s = self._last_step_times_s.get(stage, ())
        if len(times_s) < _STEPS_NEEDED or not planned_s:
            return before
        measured = _trimmed_mean(times_s) / planned_s
        if before is None:
            return measured
        # By factors, so that a run ten times as slow does not show in one leap.
        trust = min((len(times_s) - 1) / (_STEPS_TRUSTED - 1), 1.0)
        return float(before ** (1 - trust) * measured**trust)

    def _left_s(self, planned: StagePlan, piece_s: float, at_s: float) -> float:
        pieces = max(planned.steps, 1)
        if planned.stage is not self._stage:
            return pieces * piece_s
        pieces = max(pieces - self._stage_steps, 0)
        if not pieces:
            return 0.0
        return pieces * piece_s - min(at_s - self._last_event_at_s, piece_s)


def _trimmed_mean(times_s: Sequence[float]) -> float:
    if len(times_s) == _STEPS_NEEDED:
        return min(times_s)
    return statistics.fmean(sorted(times_s)[1:-1])
