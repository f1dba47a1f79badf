"""How long a table of 1,000 rows takes to become tasks, and to come back as a table.

Run: ``.venv/bin/python benchmarks/frames.py``. Each run has a data folder of its own in
the temporary folder (``TMPDIR``), on a disk as it is used; ``PatternEngine`` stands in
for the model, so that nothing but nbgen is measured. It prints a table with the median
and the slowest of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from nbgen.frames import FrameBatch
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

COLOURS = ("red", "green", "blue", "amber", "violet")


def table(rows: int) -> pd.DataFrame:
    """Return rows such as an editor's sheet has, no two of them alike."""
    numbers = range(rows)
    return pd.DataFrame(
        {
            "article": [f"article-{number}" for number in numbers],
            "headline": [f"Harbour {n} opens to the public" for n in numbers],
            "colour": [COLOURS[number % len(COLOURS)] for number in numbers],
            "guidance": [5.0 + number % 3 for number in numbers],
        }
    )


@contextmanager
def timed(took_ms: list[float]) -> Iterator[None]:
    """Add how long the block takes."""
    began_s = time.perf_counter()
    yield
    took_ms.append(1_000 * (time.perf_counter() - began_s))


def measure(rows: int, took_ms: dict[str, list[float]]) -> None:
    """Queue a table while nothing gets on, then cancel it; then have it all made."""
    sheet = table(rows)
    go_on = threading.Event()

    def hold(_step: int) -> None:
        go_on.wait()

    with (
        tempfile.TemporaryDirectory() as folder,
        Studio(folder, engine=PatternEngine(hold), queue_limit=2 * rows) as studio,
    ):

        def submit() -> FrameBatch:
            return studio.generate_frame(
                sheet,
                prompt="{headline}, {colour}, watercolor",
                key="article",
                guidance_scale="guidance",
                num_inference_steps=1,
                width=64,
                height=64,
            )

        with timed(took_ms["checking and queueing them"]):
            batch = submit()
        with timed(took_ms["the same cell again: nothing is missing"]):
            submit()
        with timed(took_ms["`batch.progress` while they wait"]):
            assert batch.progress.pending + batch.progress.generating == rows
        with timed(took_ms["`batch.cancel()`"]):
            batch.cancel()
        go_on.set()
        batch.result()

    with (
        tempfile.TemporaryDirectory() as folder,
        Studio(folder, engine=PatternEngine(), queue_limit=2 * rows) as studio,
    ):
        batch = studio.generate_frame(
            sheet,
            prompt="{headline}",
            key="article",
            num_inference_steps=1,
            width=64,
            height=64,
        )
        with timed(took_ms["making and saving them, a step each, 64 x 64"]):
            batch.result()
        assert batch.progress.succeeded == rows
        with timed(took_ms["`batch.to_frame()`"]):
            assert len(batch.to_frame()) == rows
        with timed(took_ms["`studio.tasks_frame()`"]):
            assert len(studio.tasks_frame()) == rows
        with timed(took_ms["`studio.images_frame()`"]):
            assert len(studio.images_frame()) == rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    took_ms: dict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.runs):
        measure(arguments.rows, took_ms)
    print(f"| {arguments.rows:,} rows | median | slowest |")
    print("| --- | --- | --- |")
    for what, values in took_ms.items():
        print(
            f"| {what} | {statistics.median(values):,.0f} ms | {max(values):,.0f} ms |"
        )


if __name__ == "__main__":
    main()
