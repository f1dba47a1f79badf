"""How far a task is and how long it has left, by the cost of its stages.

One ``Pace`` belongs to one task; it is not thread-safe and is used under the lock of
its owner.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import TYPE_CHECKING

from nbgen.progress.progress import Stage, StagePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS_REMEMBERED = 8
_STEPS_NEEDED = 2


class Pace:
    """Measures the steps of a run and derives what is left of it.

    The time of one unit of cost is the median over the last eight steps. The first
    step of a stage is left out: it also encodes the prompt, warms caches up and moves
    weights. The median forgives a single slow step.

    Args:
        plan: The stages of the run, in order.
    """

    def __init__(self, plan: Sequence[StagePlan]) -> None:
        self._plan = tuple(plan)
        self._stage: Stage | None = None
        self._stage_steps = 0
        self._last_step_at_s = 0.0
        self._unit_times_s: deque[float] = deque(maxlen=_STEPS_REMEMBERED)

    def replan(self, plan: Sequence[StagePlan]) -> None:
        """Take a more exact plan; what was measured stays."""
        self._plan = tuple(plan)

    def start_stage(self, stage: Stage) -> None:
        """Note that a stage has begun."""
        self._stage = stage
        self._stage_steps = 0

    def count_steps(self, steps: int, at_s: float) -> None:
        """Note that ``steps`` more steps of the present stage were done at ``at_s``."""
        planned = self._planned(self._stage)
        if planned is not None and planned.steps and self._stage_steps:
            unit = planned.cost / planned.steps * steps
            self._unit_times_s.append((at_s - self._last_step_at_s) / unit)
        self._stage_steps += steps
        self._last_step_at_s = at_s

    @property
    def cost_done(self) -> float:
        """The cost of what was done so far."""
        if self._stage is None:
            return 0.0
        done = sum(
            planned.cost
            for planned in self._plan
            if planned.stage.position < self._stage.position
        )
        planned = self._planned(self._stage)
        if planned is not None and planned.steps:
            done += planned.cost * min(self._stage_steps / planned.steps, 1.0)
        return done

    @property
    def cost_total(self) -> float:
        """The cost of the whole run."""
        return sum(planned.cost for planned in self._plan)

    @property
    def remaining_s(self) -> float | None:
        """Seconds left, or None while too few steps were measured to say."""
        if len(self._unit_times_s) < _STEPS_NEEDED:
            return None
        left = max(self.cost_total - self.cost_done, 0.0)
        return left * statistics.median(self._unit_times_s)

    def _planned(self, stage: Stage | None) -> StagePlan | None:
        return next((p for p in self._plan if p.stage is stage), None)
