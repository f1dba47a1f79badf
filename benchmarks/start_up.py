"""Measures what starting costs: ``import nbgen``, and the command ``nbgen tasks``.

Run: ``.venv/bin/python benchmarks/start_up.py``; with ``--against ../before/src`` the
same of another checkout's sources, in the same pairs. All kinds of process are started
in turn, so that whatever else the machine does meets them alike. The figures are CPU
seconds, user and system, of the whole process; the interval is a bootstrap of the
median.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nbgen import Studio
from nbgen.testing import PatternEngine

HERE = Path(__file__).resolve().parent.parent / "src"
TASKS = 100


def cpu_s(arguments: Sequence[str], sources: Path) -> float:
    """Return the CPU seconds of a Python process that uses these sources."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(sources)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by a bootstrap of 2,000 draws."""
    draw = random.Random(1)  # noqa: S311 - a statistic, not a secret
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(2_000)
    )
    return medians[50], medians[-51]


def show(what: str, values: Sequence[float], unit: str = "s") -> None:
    """Print a median with its interval."""
    factor = 1_000 if unit == "ms" else 1
    low, high = interval(values)
    print(
        f"{what:<46} {statistics.median(values) * factor:7.3f} {unit} "
        f"({low * factor:.3f} to {high * factor:.3f})"
    )


def main() -> None:
    """Print the figures, each as a median of pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--against", type=Path, help="the src folder to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Studio(folder, engine=PatternEngine()) as studio:
            requests = [f"a cat, number {number}" for number in range(TASKS)]
            last = [studio.generate(r, num_inference_steps=1) for r in requests][-1]
            last.result(60)
        kinds = {
            "bare": ["-c", "pass"],
            "import": ["-c", "import nbgen"],
            "tasks": ["-m", "nbgen", "tasks", "--data-dir", folder],
        }
        places = {"": HERE}
        if options.against is not None:
            places[" before"] = options.against.resolve()
        took: dict[str, list[float]] = {k + p: [] for p in places for k in kinds}
        for number in range(options.pairs + 1):
            for place, sources in places.items():
                for kind, arguments in kinds.items():
                    seconds = cpu_s(arguments, sources)
                    if number:  # the first compiles, and warms the file cache
                        took[kind + place].append(seconds)
    print(f"CPU, medians of {options.pairs}, 95 % intervals")
    for place in places:
        bare = took[f"bare{place}"]
        added = [i - b for i, b in zip(took[f"import{place}"], bare, strict=True)]
        show(f"bare Python{place}", bare, "ms")
        show(f"import nbgen adds{place}", added, "ms")
        show(f"nbgen tasks, {TASKS} tasks{place}", took[f"tasks{place}"])
    if options.against is not None:
        both = zip(took["tasks"], took["tasks before"], strict=True)
        show("nbgen tasks, ratio to before", [now / then for now, then in both], "")


if __name__ == "__main__":
    main()
