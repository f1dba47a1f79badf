"""Measures sampling on the CPU with and without a core left free for others.

Run: ``.venv/bin/python benchmarks/cpu_threads.py``. Each run makes one picture with the
tiny checkpoint, 20 steps with the refiner, in a process of its own; alone on the
machine, and beside one process that keeps a core busy, as a browser or a notebook's
cell does.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 5
PROGRAM = """
import sys, time, torch
from nbgen.generation import loading, sdxl
from nbgen.generation.engine import CancelToken
from nbgen.schema import GenerationRequest

class Silent:
    def report(self, event): pass
    def wants_preview(self): return False

loading._leave_a_core_free = lambda: torch.set_num_threads(int(sys.argv[1]))
engine = sdxl.SDXLEngine("tiny")
request = GenerationRequest(prompt="a red circle", num_inference_steps=20)
for _ in range(2):  # the first loads and warms up
    started_at_s = time.perf_counter()
    list(engine.generate(request, seed=7, reporter=Silent(), cancel=CancelToken()))
print(time.perf_counter() - started_at_s)
"""


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def seconds_a_picture(threads: int) -> float:
    """Return how long one picture takes with so many threads."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Print the medians."""
    cores = os.cpu_count() or 1
    print(f"{cores} cores; seconds a picture, median of {RUNS} (least to most)")
    for threads in (cores, max(1, cores - 1)):
        alone, beside = [], []
        for _ in range(RUNS):
            alone.append(seconds_a_picture(threads))
            with busy_core():
                beside.append(seconds_a_picture(threads))
        for name, times in (("alone", alone), ("beside a busy core", beside)):
            print(
                f"{threads} threads, {name:18}  {statistics.median(times):6.2f} s "
                f"({min(times):.2f} to {max(times):.2f})"
            )


if __name__ == "__main__":
    main()
