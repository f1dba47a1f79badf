"""Kills a process at work at random moments and counts what was lost.

Run: ``.venv/bin/python benchmarks/crash.py --kills 200``. Each process submits,
cancels, makes, saves, approves and undoes from two threads until it is killed with
SIGKILL; then a studio is opened on the same folder, and all that was acknowledged must
be there. A follower must be told every change that the tables know, once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.crashing import WRONG, Crashes


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        crashes = Crashes(Path(folder), arguments.seed)
        for _ in range(arguments.kills):
            crashes.kill_one()
        crashes.check_all()
    for name, count in sorted(crashes.counts.items()):
        mark = "  must be 0" if name in WRONG else ""
        print(f"{name:<45}{count:>8,}{mark}")
    reopened_ms = [took_s * 1000 for took_s in crashes.reopened_s]
    median, worst = statistics.median(reopened_ms), max(reopened_ms)
    print(
        f"{'ms to open the studio again, median and worst':<45}"
        f"{median:>8.0f}{worst:>8.0f}"
    )
    print(f"{'seconds in all':<45}{time.perf_counter() - started_s:>8.0f}")
    sys.exit(any(crashes.counts[name] for name in WRONG))


if __name__ == "__main__":
    main()
