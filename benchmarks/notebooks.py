"""Runs the notebooks under nbval many times, also while other programs keep cores busy.

Run: ``.venv/bin/python benchmarks/notebooks.py --runs 20 --busy 2``. Each run is the
command that CI runs, with strict comparison. It prints a line for each run, the output
of those that fail, and "N of M green"; it exits with 1 unless all are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Cells run in their order, also where a plugin shuffles tests.
CHECK = (
    *(sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"),
    *("--nbval-cell-timeout=300", "-p", "no:randomly"),
)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep cores busy with other processes."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Run the notebooks and print how many runs are green."""
    parser = argparse.ArgumentParser(description="How often the notebooks pass.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--busy", type=int, default=0, help="cores to keep busy")
    parser.add_argument("notebooks", nargs="*", default=["notebooks"])
    options = parser.parse_args()
    green = 0
    with busy_cores(options.busy):
        for run in range(1, options.runs + 1):
            began_s = time.monotonic()
            done = subprocess.run(
                [*CHECK, *options.notebooks],
                cwd=ROOT,
                check=False,
                capture_output=True,
                text=True,
            )
            green += not done.returncode
            result = "red" if done.returncode else "green"
            print(f"run {run}: {result}, {time.monotonic() - began_s:.0f} s")
            if done.returncode:
                print(done.stdout, done.stderr, sep="\n")
    print(f"{green} of {options.runs} green, beside {options.busy} busy cores")
    sys.exit(green < options.runs)


if __name__ == "__main__":
    main()
