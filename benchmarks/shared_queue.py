"""How fast several processes work on one queue: starts, cancels, take-overs, batches.

Run: ``.venv/bin/python benchmarks/shared_queue.py``; ``--only starts`` measures one
part. With ``--database postgresql+psycopg://…`` it measures an empty database of that
server. The pictures are patterns, so what is measured is the queue.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from nbgen.errors import TaskCancelled
from nbgen.schema import GenerationProgress, GenerationRequest
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

COMMITS = 1_000
STARTS = 200
CANCELS = 200
TAKE_OVERS = 20
FREEZES = 3
BATCH = 20_000
POSTS = 1_000
CONNECTIONS = 4
SHORT_TASKS = 2_000
STEP_S = 0.02
WAIT_S = 60.0


def main() -> None:
    """Measure all parts, or the one that is asked for."""
    parts: dict[str, Callable[[Path], None]] = {
        "starts": measure_starts,
        "cancels": measure_cancels,
        "take_overs": measure_take_overs,
        "freezes": measure_freezes,
        "batch": measure_batch,
        "posts": measure_posts,
        "short_tasks": measure_short_tasks,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--database")
    parser.add_argument("--runs", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.database:
        os.environ["NBGEN_DATABASE"] = arguments.database
    if arguments.runs:
        run(Path(arguments.runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure_commits(Path(folder))
    for name, measure in parts.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder))


def report(what: str, *numbers: float, unit: str) -> None:
    """Print a line of the table."""
    print(f"{what:<62}{''.join(f'{n:>10,.1f}' for n in numbers)} {unit}", flush=True)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median, the 95th percentile and the worst."""
    ordered = sorted(values)
    return (
        statistics.median(ordered),
        ordered[int(len(ordered) * 0.95)],
        ordered[-1],
    )


# The process that runs the tasks.


def run(folder: Path) -> None:
    """Run tasks until the input ends; say when the first step of each begins."""

    def before_step(step: int) -> None:
        if step == 1:
            # The system's clock, which all processes share.
            os.write(1, f"{time.monotonic()}\n".encode())
        time.sleep(STEP_S)

    with (
        Studio(folder, engine=PatternEngine(before_step), take_over=True) as studio,
        Server(studio) as server,
    ):
        os.write(1, f"{server.url}\n".encode())
        sys.stdin.read()


class Running:
    """The process, as whoever measures sees it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--runs", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.url = self.line()

    def line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self) -> None:
        """Have it end in whatever state it is."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        with self.process:
            self.process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Have a process run the tasks of a folder."""
    process = Running(folder)
    try:
        yield process
    finally:
        process.end()


# What is measured.


def measure_commits(folder: Path) -> None:
    """Commit a row of a kilobyte to a bare SQLite file: what the disk gives."""
    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (text TEXT)")
    asked_s = time.monotonic()
    for _ in range(COMMITS):
        connection.execute("INSERT INTO rows VALUES (?)", ("x" * 1_000,))
    rate = COMMITS / (time.monotonic() - asked_s)
    connection.close()
    report("bare commits of SQLite, for comparison", rate, unit="a second")


def measure_starts(folder: Path) -> None:
    """Submit in this process, and start in the other."""
    took_ms = []
    with running(folder) as runs, Studio.open_library(folder) as studio:
        for number in range(STARTS):
            asked_s = time.monotonic()
            task = studio.generate("a", seed=number, num_inference_steps=1)
            took_ms.append((float(runs.line()) - asked_s) * 1000)
            task.result(WAIT_S)
    report(
        "submit here -> first step there: p50, p95, worst", *spread(took_ms), unit="ms"
    )


def measure_cancels(folder: Path) -> None:
    """Cancel what runs in the other process, and see it ended here."""
    took_ms = []
    allowed_ms = 2 * STEP_S * 1000 + 300
    with running(folder) as runs, Studio.open_library(folder) as studio:
        for number in range(CANCELS):
            task = studio.generate("a", seed=number, num_inference_steps=150)
            runs.line()
            asked_s = time.monotonic()
            task.cancel()
            with suppress(TaskCancelled):
                task.result(WAIT_S)
            took_ms.append((time.monotonic() - asked_s) * 1000)
    report(
        "cancel here -> ended there, seen here: p50, p95, worst",
        *spread(took_ms),
        unit="ms",
    )
    kept = sum(each <= allowed_ms for each in took_ms)
    report(f"  of {CANCELS} within two steps and 300 ms", kept, unit="")


def measure_take_overs(folder: Path) -> None:
    """Kill the process that runs the tasks; this one goes on."""
    took_ms = []
    for number in range(TAKE_OVERS):
        started: SimpleQueue[float] = SimpleQueue()
        engine = PatternEngine(partial(_say_time, started))
        with running(folder) as runs, Studio(folder, engine=engine) as studio:
            studio.generate("a", task_id=f"a{number}", num_inference_steps=150)
            runs.line()
            runs.process.kill()
            killed_s = time.monotonic()
            took_ms.append((started.get(timeout=WAIT_S) - killed_s) * 1000)
            studio.cancel(f"a{number}")
    report(
        "kill -9 of the runner -> first step here: p50, p95, worst",
        *spread(took_ms),
        unit="ms",
    )


def _say_time(started: SimpleQueue[float], _step: int) -> None:
    started.put(time.monotonic())


def measure_freezes(folder: Path) -> None:
    """Freeze the process that runs the tasks, until this one is told."""
    took_s = []
    with running(folder) as runs, Studio.open_library(folder) as studio:
        for number in range(FREEZES):
            task = studio.generate("a", seed=number, num_inference_steps=150)
            runs.line()
            states: SimpleQueue[GenerationProgress] = SimpleQueue()
            stop = task.watch(states.put)
            runs.process.send_signal(signal.SIGSTOP)
            frozen_s = time.monotonic()
            while "no sign of life" not in states.get(timeout=WAIT_S).message:
                pass
            took_s.append(time.monotonic() - frozen_s)
            runs.process.send_signal(signal.SIGCONT)
            while "no sign of life" in states.get(timeout=WAIT_S).message:
                pass
            stop()
            task.cancel()
            with suppress(TaskCancelled):
                task.result(WAIT_S)
    report(
        "SIGSTOP of the runner -> told here: median, worst",
        statistics.median(took_s),
        max(took_s),
        unit="s",
    )


def measure_batch(folder: Path) -> None:
    """Queue and cancel a batch, of which nothing runs meanwhile."""
    rows = {
        f"r{number}": GenerationRequest(prompt=f"a {number}", seed=number)
        for number in range(BATCH)
    }
    with Studio(folder, engine=PatternEngine(), queue_limit=BATCH) as studio:
        studio.pause()
        asked_s = time.monotonic()
        batch = studio.submit_batch(rows, batch_id="b")
        queued_s = time.monotonic() - asked_s
        asked_s = time.monotonic()
        batch.cancel()
        cancelled_s = time.monotonic() - asked_s
        assert batch.progress.cancelled == BATCH
    report(
        f"{BATCH:,} tasks as a batch: queued, cancelled",
        queued_s,
        cancelled_s,
        unit="s",
    )


def measure_posts(folder: Path) -> None:
    """Post to a server from several connections that are kept open."""
    with running(folder) as runs:
        with Studio.open_library(folder) as studio:
            studio.pause()
        host = runs.url.removeprefix("http://")
        threads = [
            threading.Thread(target=post, args=(host, number))
            for number in range(CONNECTIONS)
        ]
        asked_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - asked_s
        with Studio.open_library(folder) as studio:
            assert len(studio.waiting()) == CONNECTIONS * POSTS
    report(
        f"submits from {CONNECTIONS} HTTP connections",
        CONNECTIONS * POSTS / took_s,
        unit="a second",
    )


def post(host: str, connection_number: int) -> None:
    """Post requests over one connection."""
    connection = http.client.HTTPConnection(host, timeout=WAIT_S)
    for number in range(POSTS):
        task_id = f"c{connection_number}-{number}"
        body: dict[str, Any] = {"prompt": "a", "task_id": task_id, "wait": False}
        connection.request("POST", "/api/media/generate", json.dumps(body))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202, answer.status
    connection.close()


def measure_short_tasks(folder: Path) -> None:
    """Run many tasks that take no time, and look what they leave open."""
    request = GenerationRequest(
        prompt="a", seed=1, width=64, height=64, num_inference_steps=1
    )
    rates, left = [], []
    with Studio(folder, engine=PatternEngine(), queue_limit=SHORT_TASKS) as studio:
        for number in range(5):
            rows = {f"r{row}": request for row in range(SHORT_TASKS)}
            asked_s = time.monotonic()
            batch = studio.submit_batch(rows, batch_id=f"b{number}")
            last = f"b{number}:r{SHORT_TASKS - 1}"
            studio.task(last).result(WAIT_S)
            rates.append(SHORT_TASKS / (time.monotonic() - asked_s))
            assert batch.progress.ended
            left.append((descriptors(), memory_mb(), threading.active_count()))
    report(
        "short tasks: median, worst of 5 times 2,000",
        statistics.median(rates),
        min(rates),
        unit="a second",
    )
    for place, name in enumerate(("descriptors", "MB in memory", "threads")):
        values = [float(each[place]) for each in left]
        report(
            f"  {name} after 2,000, after 10,000 tasks", values[0], values[-1], unit=""
        )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report("  most memory", peak_mb, unit="MB")


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def memory_mb() -> float:
    """Return how much memory this process takes, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
