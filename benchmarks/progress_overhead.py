"""Measures what nbgen adds to plain diffusers, and what one report of a step costs.

Run: ``.venv/bin/python benchmarks/progress_overhead.py``. A run makes one picture of
128x128 with the tiny checkpoint, 50 steps with the refiner, on one thread of torch.
Runs of both come in pairs, in turns as to which is first, over the same weights and
with the same seed, and their pixels must be equal. nbgen's are those of a worker: its
engine, its reporter and the progress service, without a watcher. A report of a step is
timed in these runs, where it finds the processor's caches full of the model, and in a
loop of reports, with and without a slow watcher.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from nbgen.generation.checkpoints import find_checkpoint
from nbgen.generation.child import _Generation
from nbgen.generation.drawing import Delivery
from nbgen.generation.engine import CancelToken, Work
from nbgen.generation.events import (
    EngineEvent,
    Planned,
    StageStarted,
    StepFinished,
)
from nbgen.generation.loading import Pipelines, load
from nbgen.generation.pipe import Outbox, PipeEnd, Start
from nbgen.generation.sdxl import SDXLEngine
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationProgress,
    GenerationRequest,
    Stage,
    StagePlan,
    new_record,
)

GOAL_RATIO, GOAL_US = 1.01, 20.0
STEPS, SIDE, SEED = 50, 128, 7
REPORTED_TASKS = 300
PLAN = (StagePlan(Stage.BASE_MODEL, 40, 40), StagePlan(Stage.REFINER_MODEL, 10, 10.8))
REQUEST = GenerationRequest(
    prompt="a red circle", width=SIDE, height=SIDE, num_inference_steps=STEPS
)


class Took(NamedTuple):
    """What a run took: seconds on the clock, and of all its threads' computing."""

    wall_s: float
    cpu_s: float


class Interval(NamedTuple):
    """A median and its 95 % interval, by ranks."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Interval:
        """Return the median of values and where the true one lies."""
        ranked = sorted(values)
        rank = max(0, int((len(ranked) - 1.96 * len(ranked) ** 0.5) / 2))
        return cls(statistics.median(ranked), ranked[rank], ranked[-1 - rank])


class Timed:
    """A reporter that notes what its reports of steps cost.

    Args:
        on_event: Takes the events, as a runner's callback does.
        times_us: Where the microseconds of each report are noted.
    """

    def __init__(
        self, on_event: Callable[[EngineEvent], None], times_us: list[float]
    ) -> None:
        self._deliver = Delivery(on_event, CancelToken())
        self._times_us = times_us

    def report(self, event: EngineEvent) -> None:
        """Report the event, and note the time that it takes if it is a step."""
        if not isinstance(event, StepFinished):
            self._deliver(event)
            return
        started_at_s = time.perf_counter()
        self._deliver(event)
        self._times_us.append((time.perf_counter() - started_at_s) * 1e6)

    def wants_preview(self) -> bool:
        """Want none."""
        return False


def in_this_process(
    progress: ProgressService, task_id: str, times_us: list[float]
) -> Timed:
    """Return the reporter of an engine in the studio's process."""
    timings = Timings(Path(os.devnull), "none")
    job = Job(new_record(task_id, REQUEST), generation=1)
    return Timed(JobRun(job, progress, timings, was_loaded=True).handle, times_us)


def in_a_process(outbox: Outbox, times_us: list[float]) -> Timed:
    """Return the reporter of an engine in a process of its own."""
    return Timed(
        _Generation(Start(1, Work(REQUEST, SEED), False), outbox).tell, times_us
    )


def plain(pipelines: Pipelines) -> Image.Image:
    """Return a picture of diffusers, without a callback."""
    shared = {
        "prompt": REQUEST.prompt,
        "num_inference_steps": STEPS,
        "guidance_scale": REQUEST.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(SEED),
    }
    end = REQUEST.denoising_end
    latents = pipelines.base(
        **shared, width=SIDE, height=SIDE, denoising_end=end, output_type="latent"
    ).images
    refined = pipelines.refiner(**shared, image=latents, denoising_start=end)
    picture: Image.Image = refined.images[0]
    return picture


def timed(make: Callable[[], Image.Image]) -> tuple[Took, bytes]:
    """Return what a picture took, and its pixels."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    picture = make()
    took = Took(time.perf_counter() - wall_s, time.process_time() - cpu_s)
    return took, picture.tobytes()


def compare(pairs: int, worker: str) -> list[float]:
    """Print how much longer nbgen takes than plain diffusers.

    Args:
        pairs: How many pairs of runs.
        worker: As which worker of a studio it reports: ``"process"``, which
            writes the reports into a pipe, or ``"thread"``.

    Returns:
        What each report of a step cost, in microseconds.
    """
    checkpoint = find_checkpoint("tiny")
    pipelines = load(checkpoint, None, {})
    torch.set_num_threads(1)
    engine = SDXLEngine(load_models=lambda: (checkpoint, pipelines))
    service = ProgressService()
    # As to a studio's process: whoever reads has to be woken.
    reader = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert reader.stdin is not None
    outbox = Outbox(PipeEnd(reader.stdin.fileno()))
    threading.Thread(target=outbox.send_waiting, daemon=True).start()
    runs = 0
    times_us: list[float] = []

    def ours() -> Image.Image:
        nonlocal runs
        runs += 1
        task_id = f"task-{runs}"
        service.create_progress(task_id, STEPS)
        reporter = (
            in_this_process(service, task_id, times_us)
            if worker == "thread"
            else in_a_process(outbox, times_us)
        )
        [picture] = engine.generate(
            REQUEST, seed=SEED, reporter=reporter, cancel=CancelToken()
        )
        service.mark_complete(task_id)
        return picture

    makers: list[Callable[[], Image.Image]] = [ours, lambda: plain(pipelines)]
    for make in makers:
        timed(make)
    both: list[tuple[Took, Took]] = []
    for pair in range(pairs):
        order = makers if pair % 2 else makers[::-1]
        (first, pixels), (second, others) = [timed(make) for make in order]
        assert pixels == others, "the pictures differ"
        both.append((first, second) if pair % 2 else (second, first))
    print(
        f"{pairs} pairs of {STEPS} steps, {SIDE}x{SIDE}, reported as a worker "
        f"{worker} does; their pixels are equal"
    )
    print(
        "| | plain diffusers | nbgen | ratio | 95 % interval | of the fastest | goal |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, index in (("wall", 0), ("computing", 1)):
        ours_s = statistics.median(our[index] for our, _ in both)
        plain_s = statistics.median(other[index] for _, other in both)
        ratio = Interval.of([our[index] / other[index] for our, other in both])
        # What others on the machine add is never negative.
        fastest = min(our[index] for our, _ in both) / min(o[index] for _, o in both)
        print(
            f"| {name} | {plain_s:.3f} s | {ours_s:.3f} s | {ratio.median:.4f} "
            f"| {ratio.low:.4f} to {ratio.high:.4f} | {fastest:.4f} | {GOAL_RATIO} |"
        )
    service.close()
    return times_us


def reports_us(watch: Callable[[GenerationProgress], None] | None) -> list[float]:
    """Return what each report of a step cost in a loop of reports."""
    service = ProgressService()
    times_us: list[float] = []
    for index in range(REPORTED_TASKS):
        task_id = f"task-{index}"
        service.create_progress(task_id, STEPS)
        leave = service.register_callback(task_id, watch) if watch else None
        made = in_this_process(service, task_id, times_us)
        made.report(Planned(PLAN))
        for planned in PLAN:
            made.report(StageStarted(planned.stage))
            for _ in range(planned.steps):
                made.report(StepFinished())
        if leave:
            leave()
        service.mark_complete(task_id)
    service.close()
    return times_us


def sleep_10_ms(_progress: Any) -> None:
    """Be a slow watcher."""
    time.sleep(0.01)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="What nbgen adds to plain diffusers.")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--worker", choices=("process", "thread"), default="process")
    options = parser.parse_args()
    in_runs_us = compare(options.pairs, options.worker)
    print("\nMicroseconds that the sampling thread takes for one report of a step")
    print("| | median | 99 % take less than | goal for the median |")
    print("| --- | --- | --- | --- |")
    for name, times_us in (
        ("in a loop, no watcher", reports_us(None)),
        ("in a loop, a watcher that takes 10 ms", reports_us(sleep_10_ms)),
        ("in the runs above, no watcher", in_runs_us),
    ):
        ranked = sorted(times_us)
        median, high = (ranked[int(len(ranked) * share)] for share in (0.5, 0.99))
        print(f"| {name} | {median:.1f} | {high:.1f} | {GOAL_US:g} |")


if __name__ == "__main__":
    main()
