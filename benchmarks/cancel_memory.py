"""Measures how soon a cancel ends a run, and whether it leaves memory behind.

Run: ``.venv/bin/python benchmarks/cancel_memory.py``, on a GPU likewise. One process
makes a picture, cancels ten runs of it at random points of their steps (the same ones
each time), and makes the picture once more, which must have the same pixels.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import threading
import time
from pathlib import Path

import torch

from nbgen.generation.engine import Cancelled, CancelToken
from nbgen.generation.events import EngineEvent, StepFinished
from nbgen.generation.sdxl import SDXLEngine
from nbgen.schema import GenerationRequest

CANCELS, GOAL_STEPS = 10, 2
MIB = 2**20


class Counter:
    """A reporter that says when a step is done.

    Args:
        awaited: The step.
    """

    def __init__(self, awaited: int) -> None:
        self._awaited = awaited
        self.steps = 0
        self.last_step_s = 0.0
        self.reached = threading.Event()
        self._step_ended_at_s = time.perf_counter()

    def report(self, event: EngineEvent) -> None:
        """Count the step, if it is one."""
        if not isinstance(event, StepFinished):
            return
        self.steps += 1
        now_s = time.perf_counter()
        self.last_step_s = now_s - self._step_ended_at_s
        self._step_ended_at_s = now_s
        if self.steps == self._awaited:
            self.reached.set()

    def wants_preview(self) -> bool:
        """Return that nobody looks."""
        return False


class Bench:
    """Makes one picture again and again, on a thread of its own."""

    def __init__(self, checkpoint: str, steps: int) -> None:
        self._engine = SDXLEngine(checkpoint)
        self._request = GenerationRequest(
            prompt="a red circle", num_inference_steps=steps
        )

    def make(self) -> bytes:
        """Return the pixels of a run that is left alone."""
        return self._run(Counter(0), CancelToken())

    def cancel_at(self, step: int, share: float) -> tuple[int, float]:
        """Cancel a run; return the steps after that, and the seconds to its end.

        Args:
            step: How many steps are done.
            share: How much of the next one is done, 0 to 1.
        """
        counter, cancel = Counter(step), CancelToken()
        ended_at_s = 0.0

        def run() -> None:
            nonlocal ended_at_s
            try:
                self._run(counter, cancel)
            except Cancelled:
                ended_at_s = time.perf_counter()

        thread = threading.Thread(target=run)
        thread.start()
        counter.reached.wait()
        time.sleep(share * counter.last_step_s)
        cancelled_at_s, before = time.perf_counter(), counter.steps
        cancel.cancel()
        thread.join()
        assert ended_at_s, "the run was not cancelled"
        return counter.steps - before, ended_at_s - cancelled_at_s

    def _run(self, counter: Counter, cancel: CancelToken) -> bytes:
        [picture] = self._engine.generate(
            self._request, seed=7, reporter=counter, cancel=cancel
        )
        return picture.tobytes()


def memory_mib() -> tuple[float, float]:
    """Return what the process has in memory, and what tensors take on the GPU."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    on_gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB, on_gpu / MIB


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How soon and how cleanly runs end.")
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    bench = Bench(given.checkpoint, given.steps)
    bench.make()
    pixels = bench.make()
    print("| | steps after the cancel | seconds to the end | resident | on the GPU |")
    print("| --- | --- | --- | --- | --- |")

    def row(name: str, steps: str, seconds: str) -> float:
        resident, on_gpu = memory_mib()
        print(
            f"| {name} | {steps} | {seconds} | {resident:.1f} MiB | {on_gpu:.1f} MiB |"
        )
        return resident

    before = row("two clean runs", "", "")
    rng = random.Random(7)  # noqa: S311 - seeded, for the same points each time
    after, latencies_s = [], []
    for _ in range(CANCELS):
        step = rng.randint(1, given.steps - 2)
        wasted, latency_s = bench.cancel_at(step, rng.random())
        after.append(wasted)
        latencies_s.append(latency_s)
        row(f"cancel after step {step}", str(wasted), f"{latency_s:.3f}")
    assert bench.make() == pixels, "the picture differs"
    grown = row("a clean run, same pixels", "", "") - before
    print(
        f"At most {max(after)} steps after a cancel (goal {GOAL_STEPS}); "
        f"{statistics.median(latencies_s):.3f} s to the end in the median, at most "
        f"{max(latencies_s):.3f} s; resident memory grew by {grown:.1f} MiB."
    )


if __name__ == "__main__":
    main()
