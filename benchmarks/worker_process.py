"""Measures what it costs, and gains, to make pictures in a process of their own.

Run: ``.venv/bin/python benchmarks/worker_process.py``. The times of a studio are those
of a new interpreter each, with the tiny checkpoint and 20 steps with the refiner; for
"beside a busy loop", the thread that opened the studio computes in Python meanwhile, as
a notebook's cell does. What a step costs on the pipe is measured with an engine whose
steps are empty, as the difference between many steps and few.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time

from nbgen.generation.engine import CancelToken, EngineRunner, Work
from nbgen.generation.events import Ended, EngineEvent
from nbgen.generation.process import ProcessEngine
from nbgen.generation.thread import ThreadEngine
from nbgen.schema import GenerationRequest
from nbgen.testing.engine import PatternEngine

RUNS = 3
FEW_STEPS, MANY_STEPS = 10, 150
STEP_RUNS = 50
PROGRAM = """
import sys, tempfile, time
from nbgen.studio import Studio

def seconds(studio, busy):
    steps_at_s = []
    task = studio.generate("a red circle", num_inference_steps=20, task_id=task_id())
    task.watch(lambda p: p.current_step and steps_at_s.append(time.perf_counter()))
    while busy and not task.status.ended:
        sum(range(1000))
    task.result()
    return steps_at_s[0], time.perf_counter()

def task_id(number=iter(range(100))):
    return str(next(number))

with tempfile.TemporaryDirectory() as folder:
    opened_at_s = time.perf_counter()
    with Studio(folder, "tiny", worker=sys.argv[1]) as studio:
        print(time.perf_counter() - opened_at_s)
        print(seconds(studio, False)[0] - opened_at_s)
        for busy in (False, True):
            asked_at_s = time.perf_counter()
            first_step_at_s, done_at_s = seconds(studio, busy)
            print(first_step_at_s - asked_at_s, done_at_s - asked_at_s)
"""
FIGURES = (
    "Studio() returns",
    "Studio() to the first step",
    "warm: generate() to the first step",
    "warm: generate() to the result",
    "beside a busy loop: to the first step",
    "beside a busy loop: to the result",
)


def measure_studio(worker: str) -> list[float]:
    """Return the figures of one studio, in seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, worker],
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def seconds_a_run(runner: EngineRunner, steps: int) -> float:
    """Return the median of how long so many steps take, and one picture's file."""
    work = Work(GenerationRequest(prompt="a", num_inference_steps=steps), seed=7)
    times = []
    for _ in range(STEP_RUNS):
        ended = threading.Event()

        def look(event: EngineEvent, ended: threading.Event = ended) -> None:
            if isinstance(event, Ended):
                ended.set()

        started_at_s = time.perf_counter()
        runner.run(
            work, on_event=look, wants_preview=lambda: False, cancel=CancelToken()
        )
        ended.wait()
        times.append(time.perf_counter() - started_at_s)
    return statistics.median(times)


def main() -> None:
    """Print the medians."""
    print(f"Seconds, median of {RUNS} (least to most)")
    runs = {
        worker: [measure_studio(worker) for _ in range(RUNS)]
        for worker in ("thread", "process")
    }
    for number, figure in enumerate(FIGURES):
        for worker, figures in runs.items():
            times = [run[number] for run in figures]
            print(
                f"{figure:38}{worker:8}{statistics.median(times):8.3f} "
                f"({min(times):.3f} to {max(times):.3f})"
            )
    runners: list[tuple[str, EngineRunner]] = [
        ("thread", ThreadEngine(PatternEngine)),
        ("process", ProcessEngine(PatternEngine)),
    ]
    for name, made_by in runners:
        few = seconds_a_run(made_by, FEW_STEPS)
        many = seconds_a_run(made_by, MANY_STEPS)
        step_s = (many - few) / (MANY_STEPS - FEW_STEPS)
        print(
            f"{name:8} an empty step {1e6 * step_s:6.1f} µs, "
            f"a generation of {FEW_STEPS} of them {1e3 * few:6.2f} ms"
        )
        made_by.close()


if __name__ == "__main__":
    main()
