"""Measures cancels: how many steps they take, and whether they leak memory.

Run: ``.venv/bin/python benchmarks/cancel_memory.py``. Ten runs with the tiny checkpoint
are cancelled at random steps (from a fixed seed), each time from another thread, then
one runs to its end; all in one process. On a GPU its memory is measured too.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nbgen.generation.engine import Cancelled, CancelToken
from nbgen.generation.sdxl import SDXLEngine
from nbgen.progress import Preview, Stage, StagePlan
from nbgen.schema import GenerationRequest

CANCELS = 10
STEPS = 50
REQUEST = GenerationRequest(prompt="a red house", num_inference_steps=STEPS)


class Canceller:
    """A reporter that wakes a thread which cancels after a step."""

    def __init__(self, after: int) -> None:
        self.token = CancelToken()
        self.cancelled_at_s = 0.0
        self.steps = 0
        self.steps_at_cancel = 0
        self._after = after
        self._reached = threading.Event()
        self._thread = threading.Thread(target=self._cancel)
        self._thread.start()

    def _cancel(self) -> None:
        self._reached.wait()
        self.steps_at_cancel = self.steps
        self.cancelled_at_s = time.perf_counter()
        self.token.cancel()

    def end(self) -> None:
        """End the thread."""
        self._reached.set()
        self._thread.join()

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Take no note."""

    def start_stage(self, stage: Stage) -> None:
        """Take no note."""

    def finish_step(self) -> None:
        """Count it, and have the run cancelled after the one."""
        self.steps += 1
        if self.steps == self._after:
            self._reached.set()

    def warn(self, message: str) -> None:
        """Take no note."""

    def wants_preview(self) -> bool:
        """Look, so that previews are cancelled too."""
        return True

    def show_preview(self, preview: Preview) -> None:
        """Take no note."""


def resident_mib() -> float:
    """Return the memory of this process that is in RAM, in MiB; Linux only."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def device_mib() -> float:
    """Return the memory that torch holds on the GPU, in MiB."""
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def run(engine: SDXLEngine, after: int) -> Canceller:
    """Make a picture, or be cancelled after so many steps."""
    canceller = Canceller(after)
    try:
        for _ in engine.generate(
            REQUEST, seed=7, reporter=canceller, cancel=canceller.token
        ):
            pass
    except Cancelled:
        pass
    canceller.end()
    return canceller


def main() -> None:
    """Print a row for each run."""
    engine = SDXLEngine("tiny")
    for _ in range(3):  # what torch keeps for itself grows with the first runs
        run(engine, STEPS + 1)
    rng = random.Random(7)  # noqa: S311 - the same points each time, not a secret
    print(f"before: {resident_mib():.1f} MiB resident, {device_mib():.1f} on the GPU")
    print("after step  further steps  until it ended  resident  on the GPU")
    for _ in range(CANCELS):
        after = rng.randint(1, STEPS - 3)
        canceller = run(engine, after)
        took_s = time.perf_counter() - canceller.cancelled_at_s
        print(
            f"{after:10}  {canceller.steps - canceller.steps_at_cancel:13}  "
            f"{took_s * 1000:11.0f} ms  {resident_mib():8.1f}  {device_mib():10.1f}"
        )
    canceller = run(engine, STEPS + 1)
    print(
        f"a clean run: {canceller.steps} steps, {resident_mib():.1f} MiB resident, "
        f"{device_mib():.1f} on the GPU"
    )
    engine.close()


if __name__ == "__main__":
    main()
