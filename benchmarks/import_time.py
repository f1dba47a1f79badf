"""Measures what ``import nbgen`` adds to the start of Python.

Run: ``.venv/bin/python benchmarks/import_time.py``. Bare and importing interpreters
are started in turn, so that whatever else the machine does meets both alike; the
median of the paired differences is the figure.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PAIRS = 40


def start_python(program: str) -> float:
    """Return the milliseconds that an interpreter takes to run a program."""
    started_at_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return (time.perf_counter() - started_at_s) * 1_000


def main() -> None:
    """Print the paired medians."""
    for program in ("pass", "import nbgen"):
        start_python(program)  # compiles and warms the file cache
    bare, added = [], []
    for _ in range(PAIRS):
        bare.append(start_python("pass"))
        added.append(start_python("import nbgen") - bare[-1])
    low, *_, high = statistics.quantiles(added, n=10)
    print(f"bare Python        {statistics.median(bare):6.1f} ms")
    print(f"import nbgen adds  {statistics.median(added):6.1f} ms (median of {PAIRS})")
    print(f"                   {low:6.1f} to {high:.1f} ms (10th to 90th percentile)")


if __name__ == "__main__":
    main()
