"""Measures what previews add to the time of a run.

Run: ``.venv/bin/python benchmarks/previews.py``, on a GPU likewise. A run makes one
picture with a checkpoint (the tiny one unless another is named), 150 steps with the
refiner, through an engine, a worker's reporter and the progress service. Runs whose
previews somebody looks at, four a second, and runs without come in pairs, in turns as
to which is first; their pixels must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from nbgen.generation.engine import CancelToken
from nbgen.generation.sdxl import SDXLEngine
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import GenerationRequest, Preview, new_record

GOAL_RATIO = 1.01


class Took(NamedTuple):
    """What a run took: seconds on the clock, and of all its threads' computing."""

    wall_s: float
    cpu_s: float


class Reporting(JobRun):
    """A job's run that takes the events of an engine itself."""

    def __init__(
        self, task_id: str, request: GenerationRequest, service: ProgressService
    ) -> None:
        timings = Timings(Path(os.devnull), "none")
        job = Job(new_record(task_id, request), generation=1)
        super().__init__(job, service, timings, was_loaded=True)
        self.report = self.handle


class Bench:
    """Makes one picture again and again."""

    def __init__(self, checkpoint: str, request: GenerationRequest) -> None:
        self._engine = SDXLEngine(checkpoint)
        self._request = request
        self._service = ProgressService()
        self._runs = 0
        self.shown = 0

    def run(self, *, looked_at: bool) -> tuple[Took, bytes]:
        """Return what a run took, and the pixels."""
        self._runs += 1
        task_id = f"task-{self._runs}"
        self._service.create_progress(task_id, self._request.num_inference_steps)
        if looked_at:
            self._service.previews.register(task_id, self._look)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        [picture] = self._engine.generate(
            self._request,
            seed=7,
            reporter=Reporting(task_id, self._request, self._service),
            cancel=CancelToken(),
        )
        took = Took(time.perf_counter() - wall_s, time.process_time() - cpu_s)
        self._service.mark_complete(task_id)
        return took, picture.tobytes()

    def close(self) -> None:
        """Give the memory back."""
        self._engine.close()
        self._service.close()

    def _look(self, _preview: Preview) -> None:
        self.shown += 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What previews add to a run.")
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    request = GenerationRequest(
        prompt="a red circle",
        width=given.side,
        height=given.side,
        num_inference_steps=given.steps,
    )
    bench = Bench(given.checkpoint, request)
    # The first loads, and fits the colours of previews.
    bench.run(looked_at=True)
    bench.run(looked_at=False)
    bench.shown = 0
    both: list[tuple[Took, Took]] = []
    for pair in range(given.pairs):
        looked_first = bool(pair % 2)
        first, pixels = bench.run(looked_at=looked_first)
        second, others = bench.run(looked_at=not looked_first)
        assert pixels == others, "the pictures differ"
        both.append((first, second) if looked_first else (second, first))
    bench.close()
    print(
        f"{given.pairs} pairs of {given.steps} steps, {given.side}x{given.side}; "
        f"{bench.shown / given.pairs:.1f} previews a run; the pixels are equal"
    )
    print("| | alone | looked at | ratio | 95 % interval | of the fastest | goal |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, index in (("wall", 0), ("computing", 1)):
        looked_s = [looked[index] for looked, _ in both]
        alone_s = [alone[index] for _, alone in both]
        ratios = sorted(a / b for a, b in zip(looked_s, alone_s, strict=True))
        rank = max(0, int((len(ratios) - 1.96 * len(ratios) ** 0.5) / 2))
        print(
            f"| {name} | {statistics.median(alone_s):.3f} s "
            f"| {statistics.median(looked_s):.3f} s | {statistics.median(ratios):.4f} "
            f"| {ratios[rank]:.4f} to {ratios[-1 - rank]:.4f} "
            # What others on the machine add is never negative.
            f"| {min(looked_s) / min(alone_s):.4f} | {GOAL_RATIO} |"
        )


if __name__ == "__main__":
    main()
