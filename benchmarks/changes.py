"""What following changes costs, and how soon they arrive.

Run: ``.venv/bin/python benchmarks/changes.py``. With ``--postgresql`` it measures a
PostgreSQL of its own instead of SQLite; with ``--against ../before/src`` also what the
feed adds to a durable decision, in pairs with another checkout.

The time from a commit to the callback begins before the call that commits, so it holds
the commit itself; on Linux all processes read one monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nbgen.handles import Batch
from nbgen.local import opening
from nbgen.local.live_writer import LiveWriter
from nbgen.progress import ChangeFollower
from nbgen.schema import Changes, GenerationRequest
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

HERE = Path(__file__).resolve().parent.parent
COMMITS = 400
IDLE_S = 30.0
DECISIONS = 20
ROWS = 20_000
LOOKS = 200
STEPS = 100
STEP_S = 0.02

WRITER = """
import json, random, sys, time
from pathlib import Path
from nbgen.store import Store
folder, url, count = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
store = Store(folder, url)
draw = random.Random(1)
at = {}
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    time.sleep(draw.uniform(0.005, 0.06))
    begun = time.monotonic()
    store.decisions.put_content(f"c{number}", {"number": number}, None)
    at[f"c{number}"] = (begun, time.monotonic())
print(json.dumps(at), flush=True)
sys.stdin.readline()
store.close()
"""

FOLLOWER = """
import sys, time
from pathlib import Path
from nbgen.progress import ChangeFollower
from nbgen.store import Store
folder, url, idle_s = Path(sys.argv[1]), sys.argv[2] or None, float(sys.argv[3])
store = Store(folder, url)
follower = ChangeFollower(store.changes)
follower.watch(lambda changes: None)
time.sleep(1)
before = time.process_time()
time.sleep(idle_s)
print((time.process_time() - before) / idle_s, flush=True)
follower.close()
store.close()
"""

DECIDER = """
import sys, time
from pathlib import Path
from nbgen import Studio
folder = Path(sys.argv[1])
studio = Studio.open_library(folder, publishers=())
number = 0
print("ready", flush=True)
for line in sys.stdin:
    ids = [f"d{number + n}" for n in range(int(line))]
    number += len(ids)
    for task_id in ids:
        studio.put_content(task_id, {"image": "https://site.example/x.png"})
    begun = time.perf_counter()
    for task_id in ids:
        studio.approve(task_id, reviewer_id="ada")
    print(time.perf_counter() - begun, flush=True)
studio.close()
"""


def start(
    script: str,
    *arguments: object,
    sources: Path = HERE / "src",
    url: str | None = None,
) -> subprocess.Popen[str]:
    """Start a Python process on sources, with its input and output on pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(sources),
            **({"NBGEN_DATABASE": url} if url else {}),
        },
    )


def say(process: subprocess.Popen[str], line: str) -> str:
    """Send a line and return the answer."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return hear(process)


def hear(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by a bootstrap of 2,000 draws."""
    draw = random.Random(1)  # noqa: S311 - a statistic, not a secret
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(2_000)
    )
    return medians[50], medians[-51]


def show(what: str, answer: str) -> None:
    """Print one line of the table."""
    print(f"{what:<58} {answer}", flush=True)


def latency(folder: Path, url: str | None) -> None:
    """Show the time from a commit in one process to the callback in this one."""
    arrived: dict[str, float] = {}
    whole = threading.Event()

    def take_in(changes: Changes) -> None:
        now = time.monotonic()
        for change in changes.changes:
            arrived[change.id] = now
        if len(arrived) == COMMITS:
            whole.set()

    store = Store(folder, url)
    follower = ChangeFollower(store.changes)
    follower.watch(take_in)
    with start(WRITER, folder, url or "", COMMITS) as writer:
        hear(writer)
        at = json.loads(say(writer, "go"))
        assert whole.wait(10), "a change did not arrive"
        writer.communicate("\n")
    follower.close()
    store.close()
    for what, index in (("before", 0), ("after", 1)):
        took_ms = sorted(1_000 * (arrived[i] - times[index]) for i, times in at.items())
        p50, p99 = took_ms[COMMITS // 2], took_ms[COMMITS * 99 // 100]
        show(
            f"ms from {what} the commit to the callback elsewhere",
            f"p50 {p50:.1f}, p99 {p99:.1f}, slowest {took_ms[-1]:.1f}",
        )


def idle(folder: Path, url: str | None) -> None:
    """Show the processor time of a process that follows and hears nothing."""
    with start(FOLLOWER, folder, url or "", IDLE_S) as follower:
        share = float(hear(follower))
    show("idle following, share of a core", f"{100 * share:.3f} %")


def decisions(
    new_folder: Callable[[], tuple[Path, str | None]], before: Path, pairs: int
) -> None:
    """Show what the feed adds to a durable decision, against another checkout."""
    with ExitStack() as stack:
        processes = {}
        for name, sources in (("before", before), ("now", HERE / "src")):
            folder, url = new_folder()
            process = start(DECIDER, folder, sources=sources, url=url)
            processes[name] = stack.enter_context(process)
            hear(process)
        took: dict[str, list[float]] = {"before": [], "now": []}
        for number in range(pairs + 2):
            order = list(processes)[:: 1 if number % 2 else -1]
            for name in order:
                seconds = float(say(processes[name], str(DECISIONS)))
                if number >= 2:  # the first ones fill caches
                    took[name].append(seconds / DECISIONS)
        for process in processes.values():
            process.communicate()
    ratios = [now / was for now, was in zip(took["now"], took["before"], strict=True)]
    low, high = interval(ratios)
    was, now = (1_000 * statistics.median(took[name]) for name in ("before", "now"))
    show(
        "a durable decision, before and now",
        f"{was:.2f} ms, {now:.2f} ms; ratio of {pairs} pairs "
        f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})",
    )


class _Quiet(LiveWriter):
    """Writes nothing while it is told not to."""

    is_on = True

    def follow(self, task_id: str) -> None:
        """Follow the task only while this is on."""
        if _Quiet.is_on:
            super().follow(task_id)


def live(folder: Path, url: str | None, pairs: int) -> None:
    """Show the processor time that live states add to a run, as a share of it."""
    opening.__dict__["LiveWriter"] = _Quiet
    engine = PatternEngine(lambda _step: time.sleep(STEP_S))
    shares = []
    with Studio(folder, engine=engine, database=url) as studio:

        def run(*, is_on: bool) -> tuple[float, float]:
            _Quiet.is_on = is_on
            wall, cpu = time.perf_counter(), time.process_time()
            studio.generate("a cat", num_inference_steps=STEPS).result(60)
            return time.perf_counter() - wall, time.process_time() - cpu

        run(is_on=True)
        for number in range(pairs):
            order = (True, False) if number % 2 else (False, True)
            found = {is_on: run(is_on=is_on) for is_on in order}
            shares.append((found[True][1] - found[False][1]) / found[True][0])
    low, high = interval(shares)
    show(
        f"live states: processor time added to a run, {pairs} pairs",
        f"{100 * statistics.median(shares):.2f} % of a core "
        f"({100 * low:.2f} to {100 * high:.2f})",
    )


def looks(folder: Path, url: str | None) -> None:
    """Show how long a look at the progress of a large batch takes."""
    with Studio(
        folder, engine=PatternEngine(), queue_limit=ROWS, database=url
    ) as studio:
        studio.pause()
        rows = {f"r{n}": GenerationRequest(prompt=f"a cat, {n}") for n in range(ROWS)}
        batch = studio.submit_batch(rows, batch_id="many")

        def look(batch: Batch) -> float:
            begun = time.perf_counter()
            assert batch.progress.total == ROWS
            return 1_000 * (time.perf_counter() - begun)

        first = look(batch)
        nothing = sorted(look(batch) for _ in range(LOOKS))
        changed = []
        for task_id in batch.task_ids[:LOOKS]:
            studio.cancel(task_id)
            changed.append(look(batch))
        changed.sort()
    for what, took in (("nothing changed", nothing), ("a row changed", changed)):
        show(
            f"ms a look at {ROWS:,} rows, {what}",
            f"median {statistics.median(took):.2f}, "
            f"95 % {took[LOOKS * 95 // 100]:.2f}, slowest {took[-1]:.2f}",
        )
    show(f"ms the first look at {ROWS:,} rows", f"{first:.0f}")


@contextmanager
def databases(options: argparse.Namespace) -> Iterator[Callable[[], str | None]]:
    """Yield a function that returns the URL of an empty database; None for SQLite."""
    if not options.postgresql:
        yield lambda: None
        return
    sys.path.insert(0, str(HERE))
    from tests import postgresql

    with postgresql.running_server(fsync=True) as server:
        yield server.new_database


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--against", type=Path, help="the src folder to compare with")
    parser.add_argument("--only", help="latency, idle, decisions, live or looks")
    options = parser.parse_args()
    with (
        databases(options) as new_database,
        tempfile.TemporaryDirectory() as folder,
    ):
        numbers = iter(range(1_000))

        def new_folder() -> tuple[Path, str | None]:
            return Path(folder) / str(next(numbers)), new_database()

        parts: dict[str, Callable[[], Any]] = {
            "latency": lambda: latency(*new_folder()),
            "idle": lambda: idle(*new_folder()),
            "live": lambda: live(*new_folder(), options.pairs),
            "looks": lambda: looks(*new_folder()),
        }
        if options.against is not None:
            parts["decisions"] = lambda: decisions(
                new_folder, options.against, options.pairs
            )
        for name, measure in parts.items():
            if options.only in (None, name):
                measure()


if __name__ == "__main__":
    main()
