"""Kills a process at work again and again, and checks what it had promised.

The process writes a line when it begins something and, once that has returned, another:
what it has acknowledged. After each SIGKILL a studio is opened on the same folder, and
all that was acknowledged must be there. In one of five the pictures are made by a
process of its own, which must not outlive it. A follower of the change feed, which is
there at every other kill, must be told every change that the tables know, once.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from PIL import Image

from nbgen.errors import TaskCancelled, TaskError
from nbgen.generation.engine import Engine
from nbgen.generation.process import ProcessEngine
from nbgen.handles.task import Task
from nbgen.schema import (
    CANCELLING,
    AttemptOutcome,
    Change,
    ChangeKind,
    Changes,
    GenerationRequest,
    Position,
    Status,
    TaskRecord,
)
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.lives import is_possible

_BACKLOG = 12
_STEP_S = 0.002
_OLD_S = 7_200
_WRONG_CHANGES = "changes missing, twice or out of order"


def _tell(**what: object) -> None:
    # One write, shorter than a pipe takes whole, so that lines of threads do not mix.
    os.write(1, f"{json.dumps(what)}\n".encode())


class _TellingEngine(PatternEngine):
    """Says when it samples and when it has left the rest to be saved."""

    def __init__(self) -> None:
        super().__init__(self._work)

    def _work(self, _step: int) -> None:
        _tell(begins="running")
        time.sleep(_STEP_S)  # what a step takes, with which it is as likely hit

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        yield from super().generate(*args, **kwargs)
        _tell(begins="saving")


class _TellingProcess(ProcessEngine):
    """Says the same, of a process of its own, and which that is."""

    def __init__(self) -> None:
        super().__init__(PatternEngine)
        self.start()
        assert self.process_id is not None
        _tell(process=self.process_id)

    def run(self, *args: Any, **kwargs: Any) -> None:
        _tell(begins="running")
        super().run(*args, **kwargs)
        _tell(begins="saving")


def work(folder: Path, run: str, engine: Engine | ProcessEngine) -> None:
    """Submit, cancel, wait and decide until killed."""
    draw = random.Random(run)
    studio = Studio(folder, engine=engine)
    submitted: SimpleQueue[Task] = SimpleQueue()
    room = threading.Semaphore(_BACKLOG)
    threading.Thread(target=_decide_all, args=(studio, submitted, room, run)).start()
    _tell(began=run)
    for number in itertools.count():
        # Few enough that a picture one was killed at is soon made again by another.
        request = GenerationRequest(
            prompt=draw.choice("abc"),
            num_inference_steps=draw.randint(1, 8),
            num_images=draw.randint(1, 3),
            seed=draw.randint(0, 400),
        )
        _tell(begins="queueing")
        if draw.random() < 0.2:
            rows = {f"{number}-{row}": request for row in range(3)}
            batch = studio.submit_batch(rows, batch_id=run)
            tasks = [studio.task(task_id) for task_id in batch.task_ids]
        else:
            tasks = [studio.submit(request, task_id=f"{run}-{number}")]
        _tell(did="queueing", ids=[task.id for task in tasks])
        if draw.random() < 0.15:
            tasks[0].cancel()
        for task in tasks:
            room.acquire()
            submitted.put(task)


def _decide_all(
    studio: Studio, submitted: SimpleQueue[Task], room: threading.Semaphore, run: str
) -> None:
    draw = random.Random(f"{run} decides")
    while True:
        task = submitted.get()
        try:
            result = task.result()
        except TaskError:
            _tell(did="ending", id=task.id, outcome=task.record.outcome)
            continue
        finally:
            room.release()
        _tell(did="saving", id=task.id, names=[image.name for image in result.images])
        _tell(begins="deciding")
        decide = studio.approve if draw.random() < 0.5 else studio.reject
        decisions = [decide(task.id, reviewer_id="ada")]
        _tell(did="deciding", id=task.id, sequence=decisions[0].sequence)
        if draw.random() < 0.3:
            _tell(begins="deciding")
            undone = studio.undo(task.id, reviewer_id="ada")
            _tell(did="deciding", id=task.id, sequence=undone.sequence)


class _Feed:
    """Follows the change feed, now and then, and holds it against the tables.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self.changes: list[Change] = []
        self._folder = folder
        self._studio: Studio | None = None
        self._told: SimpleQueue[Changes] = SimpleQueue()
        self._position: Position | None = None

    def open(self) -> None:
        """Go on from where it was left; from the beginning, the first time."""
        if self._studio is None:
            self._studio = Studio.open_library(self._folder)
            if self._position is None:
                self._position = _position(self._studio)._replace(number=0)
            self._told = SimpleQueue()
            self._studio.watch_changes(self._told.put, since=self._position)

    def close(self) -> None:
        """Follow no longer."""
        if self._studio is not None:
            self._studio.close()
            self._studio = None

    def count_wrong(self, looking: Studio) -> int:
        """Take all changes there are, and return how many are not as they must be.

        Args:
            looking: A studio of the same folder, in which nothing changes.
        """
        self.open()
        newest = _position(looking)
        wrong = 0
        while self._position != newest:
            told = self._told.get(timeout=60)
            self._position = told.position
            self.changes += told.changes
            wrong += told.missed or told.problem is not None
        numbers = [change.number for change in self.changes]
        wrong += sum(number != place for place, number in enumerate(numbers, 1))
        records = list(_records(looking))
        logs: dict[str, list[str]] = {}
        for decision in looking.decisions():
            logs.setdefault(decision.task_id, []).append(decision.verdict.value)
        said = self._said(ChangeKind.DECISION)
        wrong += sum(said.get(i) != logs.get(i) for i in said.keys() | logs.keys())
        lives = self._said(ChangeKind.TASK)
        wrong += len(lives.keys() ^ {record.id for record in records})
        for record in records:
            life = lives.get(record.id, [])
            wrong += not is_possible(life)
            wrong += life.count(Status.GENERATING) != record.attempt
            wrong += life[-1:] != [record.outcome or record.status]
        return wrong

    def _said(self, kind: ChangeKind) -> dict[str, list[str]]:
        """Return the states that the feed tells of each task."""
        said: dict[str, list[str]] = {}
        for change in self.changes:
            if change.kind is kind and change.state != CANCELLING:
                said.setdefault(change.id, []).append(change.state)
        return said


def _position(studio: Studio) -> Position:
    told: SimpleQueue[Changes] = SimpleQueue()
    stop = studio.watch_changes(told.put)
    position = told.get(timeout=60).position
    stop()
    return position


class Crashes:
    """Kills, checks and counts.

    Args:
        folder: The data folder, which all the processes share.
        seed: Determines when each is killed, as far as that can be.

    Attributes:
        counts: What was found, by name.
        reopened_s: Seconds until each studio was open again.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.reopened_s: list[float] = []
        self._folder = folder
        self._seed = seed
        self._draw = random.Random(seed)
        self._promised: list[dict[str, Any]] = []
        self._feed = _Feed(folder)

    def kill_one(self) -> None:
        """Have a process work, kill it, and check what it leaves."""
        run = f"r{self._seed}-{self.counts['kills']}"
        of_its_own = self.counts["kills"] % 5 == 4
        if self.counts["kills"] % 2:
            # Not always: who opens the folder alone has what was written to recover.
            self._feed.open()
        lines = self._run_and_kill(run, "process" if of_its_own else "thread")
        for line in lines:
            if "process" in line:
                self.counts["processes"] += 1
                self.counts["processes that live on"] += not _is_gone(line["process"])
        self.counts["kills"] += 1
        last = {}
        for line in lines:
            if "begins" in line:
                kind = line["begins"]
                last["engine" if kind in ("running", "saving") else kind] = kind
            elif line.get("did") in last:
                del last[line["did"]]
        self.counts.update(f"killed while {kind}" for kind in last.values())
        promised = [line for line in lines if "did" in line]
        self._promised += promised
        with Studio.open_library(self._folder) as looking:
            self._check(looking, promised)
            self._check_changes(looking)
            left = [
                record.id
                for status in ("pending", "generating")
                for record in looking.tasks(status=status, limit=1_000)
            ]
        self._feed.close()
        self._reopen(left)

    def check_all(self) -> None:
        """Check all promises of all processes once more, and the files."""
        with Studio.open_library(self._folder) as studio:
            before = dict(self.counts)
            self._check(studio, self._promised)
            for name in ("tasks acknowledged", "decisions acknowledged"):
                self.counts[name] = before.get(name, 0)
            self._check_changes(studio)
            self._feed.close()
            self._check_files(studio)

    def _run_and_kill(self, run: str, engine: str) -> list[dict[str, Any]]:
        program = [sys.executable, "-m", "tests.crashing"]
        program += [str(self._folder.resolve()), run, engine]
        after_lines = self._draw.randint(1, 150)
        # The very moment is what is tried: between two lines, too.
        delay_s = self._draw.uniform(0, 0.02)
        lines = []
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(json.loads(line))
                if len(lines) == after_lines:
                    time.sleep(delay_s)
                    process.kill()
        assert process.returncode == -9, "it ended by itself"
        return lines

    def _reopen(self, left: list[str]) -> None:
        started_s = time.perf_counter()
        with Studio(self._folder, engine=PatternEngine(), take_over=True) as studio:
            self.reopened_s.append(time.perf_counter() - started_s)
            for task_id in left:
                with suppress(TaskCancelled):  # it was asked to end before
                    studio.task(task_id).result(30)
                    self._check_pictures(studio, studio.get_record(task_id))
                attempts = studio.attempts(task_id)
                has_lost = any(a.outcome is AttemptOutcome.LOST for a in attempts)
                self.counts["attempts lost"] += has_lost
                self.counts["tasks that waited"] += not has_lost

    def _check(self, studio: Studio, promised: list[dict[str, Any]]) -> None:
        ids = [task_id for line in promised for task_id in line.get("ids", ())]
        found = {record.id: record for record in _records(studio, set(ids))}
        self.counts["tasks acknowledged"] += len(ids)
        self.counts["tasks missing"] += len(set(ids) - set(found))
        for record in found.values():
            if record.status is Status.COMPLETED:
                self._check_pictures(studio, record)
        for line in promised:
            known = found.get(line.get("id", ""))
            if line["did"] == "saving":
                result = known and known.result
                names = [image.name for image in result.images] if result else []
                self.counts["results missing"] += names != line["names"]
            elif line["did"] == "ending":
                outcome = known and known.outcome
                self.counts["ends missing"] += outcome != line["outcome"]
            elif line["did"] == "deciding":
                log = known.decisions if known else ()
                kept = line["sequence"] in [entry.sequence for entry in log]
                self.counts["decisions acknowledged"] += 1
                self.counts["decisions missing"] += not kept

    def _check_pictures(self, studio: Studio, record: TaskRecord) -> None:
        assert record.result is not None
        self.counts["finished tasks checked"] += 1
        for image in record.result.images:
            try:
                with Image.open(io.BytesIO(studio.read_image(image.name))) as picture:
                    picture.load()
            except Exception:  # noqa: BLE001 - whatever is wrong with it is wrong
                self.counts["pictures missing or broken"] += 1

    def _check_changes(self, studio: Studio) -> None:
        self.counts[_WRONG_CHANGES] += self._feed.count_wrong(studio)
        self.counts["changes"] = len(self._feed.changes)

    def _check_files(self, studio: Studio) -> None:
        files = [
            path
            for path in (self._folder / "images").rglob("*.*")
            if path.is_file()  # a mark of the database has no suffix
        ]
        for path in files:
            os.utime(path, (time.time() - _OLD_S,) * 2)
        garbage = set(studio.collect_garbage(dry_run=False))
        self.counts["files"] = len(files)
        self.counts["files that gc removed"] = len(garbage)
        wanted = {
            image.name
            for record in _records(studio)
            for image in (record.result.images if record.result else ())
        }
        left = {path.name for path in files if path.exists()}
        self.counts["files that gc left and nobody wants"] = len(left - wanted)
        self.counts["files that gc removed and somebody wants"] = len(wanted - left)


def _is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            return bool(select.select([handle], [], [], 10)[0])
        finally:
            os.close(handle)
    return True


def _records(studio: Studio, ids: set[str] | None = None) -> Iterator[TaskRecord]:
    cursor = None
    while True:
        page = studio.tasks(limit=1_000, cursor=cursor)
        yield from (record for record in page if ids is None or record.id in ids)
        cursor = page.next_cursor
        if cursor is None:
            return


WRONG = (
    "tasks missing",
    "results missing",
    "ends missing",
    "decisions missing",
    "pictures missing or broken",
    _WRONG_CHANGES,
    "files that gc left and nobody wants",
    "files that gc removed and somebody wants",
    "processes that live on",
)
"""The counts that must be 0."""


def _end(failure: threading.ExceptHookArgs) -> None:
    # Whichever thread fails: nothing more would be written, and nobody would kill it.
    threading.__excepthook__(failure)
    os._exit(1)


if __name__ == "__main__":
    threading.excepthook = _end
    made_by = _TellingProcess() if sys.argv[3] == "process" else _TellingEngine()
    worker = threading.Thread(
        target=work, args=(Path(sys.argv[1]), sys.argv[2], made_by)
    )
    worker.start()
    worker.join()
