"""Measures what looking at previews costs: the same run, looked at and not, in turns.

Run: ``.venv/bin/python benchmarks/previews.py``, with the name of a checkpoint behind
it for another than the tiny one. Uses the GPU if there is one. The ratio is the median
over pairs of neighbours, of the wall time; previews are made at their usual pace.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence

from nbgen.generation.engine import CancelToken
from nbgen.generation.sdxl import SDXLEngine
from nbgen.progress import Preview, Stage, StagePlan
from nbgen.schema import GenerationRequest

PAIRS = 12
REQUEST = GenerationRequest(
    prompt="a red house on green hills", num_inference_steps=150
)


class Looker:
    """A reporter that looks at previews, or does not."""

    def __init__(self, *, looks: bool) -> None:
        self.previews = 0
        self._looks = looks

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Take no note."""

    def start_stage(self, stage: Stage) -> None:
        """Take no note."""

    def finish_step(self) -> None:
        """Take no note."""

    def warn(self, message: str) -> None:
        """Take no note."""

    def wants_preview(self) -> bool:
        """Say what was asked for."""
        return self._looks

    def show_preview(self, _preview: Preview) -> None:
        """Count it."""
        self.previews += 1


def seconds(engine: SDXLEngine, looker: Looker) -> float:
    """Return how long a run takes."""
    started_at_s = time.perf_counter()
    for _ in engine.generate(REQUEST, seed=7, reporter=looker, cancel=CancelToken()):
        pass
    return time.perf_counter() - started_at_s


def main() -> None:
    """Print the ratio."""
    engine = SDXLEngine(sys.argv[1] if len(sys.argv) > 1 else "tiny")
    for looks in (False, True):  # warms up, and fits the colours
        seconds(engine, Looker(looks=looks))
    ratios, previews, times_s = [], 0, []
    for _ in range(PAIRS):
        order = [False, True]
        random.shuffle(order)
        taken = {}
        for looks in order:
            looker = Looker(looks=looks)
            taken[looks] = seconds(engine, looker)
            previews += looker.previews
        ratios.append(taken[True] / taken[False])
        times_s.append(taken[True])
    engine.close()
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{engine.facts()['device']}, {statistics.median(times_s):.2f} s a run")
    print(f"{previews / sum(times_s):.1f} previews a second")
    print(
        f"looked at / not, {PAIRS} pairs: median {middle:.4f} "
        f"(quartiles {low:.4f} to {high:.4f}; goal 1.01)"
    )


if __name__ == "__main__":
    main()
