"""What the store can do: decisions a second, a page of many tasks, the memory it takes.

Run: ``.venv/bin/python benchmarks/store.py``. It writes a database of 100,000 tasks to
the temporary folder (``TMPDIR``), which takes a minute or two, and prints a table. Each
process of the decisions is a studio of its own, as a server and a notebook are. With
``--database postgresql+psycopg://…`` it measures an empty database of that server.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from nbgen.schema import (
    Decision,
    DecisionRequest,
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Outcome,
    Status,
    Verdict,
)
from nbgen.store import Store
from nbgen.store.tables import content, decisions, prompts, tasks
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

TASKS = 100_000
BATCH = 5_000
DECISIONS = 400
THREADS = 4
PAGES = 200
STEP_TIMES = msgspec.json.encode(
    {"base_model": [0.105] * 40, "refiner_model": [0.133] * 10}
).decode()
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WORDS = (
    "a lighthouse at dusk over a rough sea, oil on canvas, wide brush, warm light, ",
    "an old tram on a steep street in the rain, 35 mm photograph, shallow focus, ",
    "portrait of a botanist among ferns, soft window light, film grain, ",
    "isometric drawing of a small harbour town, clean lines, muted colours, ",
)


def fill(store: Store) -> None:
    """Add the tasks, each tenth of them decided; in batches, past the usual calls."""
    for first in range(1, TASKS + 1, BATCH):
        numbers = range(first, first + BATCH)
        with store._database.writing() as connection:
            connection.execute(tasks.insert(), [task_row(number) for number in numbers])
            connection.execute(
                prompts.insert(),
                [{"number": n, "folded": prompt(n).casefold()} for n in numbers],
            )
            connection.execute(
                decisions.insert(), [decision_row(n) for n in numbers if n % 10 == 0]
            )


def prompt(number: int) -> str:
    """Return the prompt of a task."""
    return f"{WORDS[number % len(WORDS)]}number {number}"


def task_row(number: int) -> dict[str, object]:
    """Return a task that has ended."""
    request = GenerationRequest(prompt=prompt(number), seed=number)
    name = f"{number:032x}.png"
    image = ImageRecord(
        name=name, url=f"/images/{name}", width=1024, height=1024, seed=number
    )
    result = GenerationResult(images=(image,), generation_time=6.8)
    created_at = START + dt.timedelta(seconds=number)
    succeeded = number % 20 != 0
    return {
        "number": number,
        "id": f"task-{number}",
        "owner": "0" * 32,
        "request": msgspec.json.encode(request).decode(),
        "seed": number,
        "status": Status.COMPLETED if succeeded else Status.FAILED,
        "outcome": Outcome.SUCCEEDED if succeeded else Outcome.FAILED,
        "created_at": created_at,
        "started_at": created_at,
        "ended_at": created_at,
        "current_step": 50,
        "stages": '{"load":0.1,"base_model":4.2,"refiner_model":1.3,"decode":0.5}',
        "step_times": STEP_TIMES,
        "made_with": '{"checkpoint":"sdxl","device":"cuda","torch":"2.13.0"}',
        "result": msgspec.json.encode(result).decode(),
    }


def decision_row(number: int) -> dict[str, object]:
    """Return the decision on a task."""
    return {
        "task_id": f"task-{number}",
        "version": 1,
        "verdict": "approved",
        "reviewer_id": "ada",
        "tags": "[]",
        "featured_image_url": f"/images/{number:032x}.png",
        "decided_at": START,
    }


def time_pages(studio: Studio) -> list[tuple[str, str]]:
    """Time pages of 100 tasks, as a server asks for them."""
    cursors: list[str | None] = [None]
    while len(cursors) < PAGES:
        cursors.append(studio.tasks(cursor=cursors[-1]).next_cursor)
    late = studio.tasks(limit=1, since=START + dt.timedelta(seconds=TASKS - 50))
    assert late
    asked: list[tuple[str, Callable[[int], object]]] = [
        ("the newest 100", lambda _n: studio.tasks()),
        ("any later page", lambda n: studio.tasks(cursor=cursors[n])),
        ("100 that failed", lambda _n: studio.tasks(status="failed")),
        (
            "100 whose prompt has a word of every fourth",
            lambda _n: studio.tasks(text="LIGHTHOUSE"),
        ),
        (
            "since a time that 50 are after",
            lambda _n: studio.tasks(since=START + dt.timedelta(seconds=TASKS - 50)),
        ),
        ("none with a text", lambda _n: studio.tasks(text="zeppelin")),
        (
            "completed, none with a text",
            lambda _n: studio.tasks(text="zeppelin", status="completed"),
        ),
    ]
    return [(f"page: {name}", timed(call)) for name, call in asked]


def timed(call: Callable[[int], object]) -> str:
    """Return the median and the longest time of some calls."""
    took_ms = []
    for number in range(PAGES // 4):
        began_s = time.perf_counter()
        call(number)
        took_ms.append(1_000 * (time.perf_counter() - began_s))
    took_ms.sort()
    return f"{statistics.median(took_ms):.1f} ms; slowest {took_ms[-1]:.1f} ms"


def decide(folder: str, database: str | None, process: int, count: int) -> None:
    """Decide on tasks of this process's own, from several threads, when told to."""
    with Studio(
        folder, engine=PatternEngine(), database=database, publishers=[]
    ) as studio:
        print("ready", flush=True)
        sys.stdin.readline()

        def work(thread: int) -> None:
            for number in range(thread, count, THREADS):
                studio.approve(f"content-{process}-{number}", reviewer_id="ada")

        threads = [threading.Thread(target=work, args=[n]) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("done", flush=True)


def time_decisions(folder: Path, database: str | None, processes: int) -> str:
    """Return decisions a second over so many processes of four threads each."""
    store = Store(folder, database)
    with store._database.writing() as connection:
        connection.execute(content.delete())
        connection.execute(decisions.delete())
        rows = [
            {
                "task_id": f"content-{process}-{number}",
                "metadata": '{"image_url":"https://example.org/a.png"}',
                "created_at": START,
                "updated_at": START,
            }
            for process in range(processes)
            for number in range(DECISIONS)
        ]
        connection.execute(content.insert(), rows)
    store.close()
    started = []
    for process in range(processes):
        command = command_of(f"--decide={process}", folder, database)
        started.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    for child in started:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    began_s = time.perf_counter()
    for child in started:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in started:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
    took_s = time.perf_counter() - began_s
    for child in started:
        child.communicate()
    return f"{processes * DECISIONS / took_s:,.0f} a second"


def time_bulk(studio: Studio) -> str:
    """Return decisions a second in one transaction."""
    asked = [
        DecisionRequest(
            task_id=f"content-0-{n}",
            verdict=Verdict.REJECTED,
            reviewer_id="bob",
            expect_version=1,
        )
        for n in range(DECISIONS)
    ]
    began_s = time.perf_counter()
    answers = studio.decide_many(asked)
    took_s = time.perf_counter() - began_s
    assert all(isinstance(answer, Decision) for answer in answers)
    return f"{DECISIONS / took_s:,.0f} a second"


def measure_memory(folder: str, database: str | None) -> None:
    """Print the memory before opening a studio, and after it and its first pages."""
    before_mb = memory_mb()
    with Studio(
        folder, engine=PatternEngine(), database=database, publishers=[]
    ) as studio:
        cursor = None
        for _ in range(PAGES):
            cursor = studio.tasks(cursor=cursor).next_cursor
        print(f"{memory_mb() - before_mb:.1f} MB on top of {before_mb:.0f} MB")


def memory_mb() -> float:
    """Return the memory in use now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def command_of(option: str, folder: Path, database: str | None) -> list[str]:
    """Return the command that runs a part of this in a process of its own."""
    command = [sys.executable, __file__, option, str(folder)]
    return command if database is None else [*command, "--database", database]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="the URL of an empty PostgreSQL database")
    parser.add_argument("--decide", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decide is not None:
        decide(arguments.folder, arguments.database, arguments.decide, DECISIONS)
        return
    if arguments.memory:
        measure_memory(arguments.folder, arguments.database)
        return
    with tempfile.TemporaryDirectory(prefix="nbgen-bench-") as name:
        folder, database = Path(name), arguments.database
        store = Store(folder, database)
        fill(store)
        store.close()
        with Studio(
            folder, engine=PatternEngine(), database=database, publishers=[]
        ) as studio:
            rows = time_pages(studio)
        command = command_of("--memory", folder, database)
        took = subprocess.run(command, check=True, capture_output=True, text=True)
        label = f"memory: opening it and reading {PAGES} pages"
        rows.append((label, took.stdout.strip()))
        for processes in (1, 2):
            label = f"decisions: {THREADS} threads in each of {processes} process(es)"
            rows.append((label, time_decisions(folder, database, processes)))
        with Studio(
            folder, engine=PatternEngine(), database=database, publishers=[]
        ) as studio:
            rows.append((f"decisions: {DECISIONS} in one bulk", time_bulk(studio)))
        size = folder / "nbgen.sqlite"
        if size.exists():
            rows.append(("file", f"{size.stat().st_size / 1e6:.0f} MB"))
    print("| what | figure |\n| --- | --- |")
    for label, figure in rows:
        print(f"| {label} | {figure} |")


if __name__ == "__main__":
    main()
