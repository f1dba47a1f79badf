"""Lets several processes work on one queue, and stops, freezes and kills them.

Each process submits, cancels, reorders, retries, pauses and resumes at random, and runs
tasks when it has the turn. It writes a line for what it has acknowledged. Now and then
one of them gets SIGTERM, SIGKILL, or SIGSTOP and SIGCONT; with PostgreSQL, the
connections of all are dropped too. In the end a studio runs what is left, and the
change feed must tell of each task a life that can be.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from nbgen.errors import NbgenError
from nbgen.schema import AttemptOutcome, ChangeKind, Changes, Position, Status
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.lives import ENDS, is_possible

_STEP_S = 0.005
_MOST_STEPS = 12
_WAIT_S = 60.0
_QUEUE_LIMIT = 60
WRONG = (
    "tasks missing",
    "tasks stuck",
    "impossible lives",
    "wrong attempts",
    "ends without a picture",
    "processes that failed",
    "SIGTERM not obeyed",
)
"""The counts that must be 0."""


def _tell(**what: object) -> None:
    # One write, shorter than a pipe takes whole, so that lines of threads do not mix.
    os.write(1, f"{json.dumps(what)}\n".encode())


class _SlowEngine(PatternEngine):
    def __init__(self) -> None:
        super().__init__(lambda _step: time.sleep(_STEP_S))


def work(folder: Path, run: str) -> None:
    """Do something with the queue, again and again, until told to stop."""
    draw = random.Random(run)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_args: stopping.set())
    known: list[str] = []
    with Studio(
        folder,
        engine=_SlowEngine(),
        take_over=True,
        release_after=draw.choice([0.05, 900.0]),
        queue_limit=_QUEUE_LIMIT,
    ) as studio:
        _tell(ready=run)
        number = 0
        while not stopping.wait(draw.uniform(0, 0.02)):
            number += 1
            # What cannot be done now, or while the database is away, is not promised.
            with suppress(NbgenError):
                _do_something(studio, draw, known, f"{run}-{number}")


def _do_something(
    studio: Studio, draw: random.Random, known: list[str], new_id: str
) -> None:
    chosen = draw.choice(known) if known else new_id
    what = draw.random()
    if what < 0.5 or not known:
        steps = draw.randint(1, _MOST_STEPS)
        known.append(new_id)
        studio.generate("a", task_id=new_id, num_inference_steps=steps)
        _tell(did="submit", id=new_id)
    elif what < 0.65:
        studio.cancel(chosen)
        _tell(did="cancel", id=chosen)
    elif what < 0.75:
        studio.prioritise(chosen, draw.randint(-3, 3))
        _tell(did="prioritise", id=chosen)
    elif what < 0.85:
        studio.retry(chosen)
        _tell(did="retry", id=chosen)
    elif what < 0.88:
        studio.pause()
        _tell(did="pause")
    else:
        studio.resume()
        _tell(did="resume")


class _Process:
    """A process at work, and what it has acknowledged."""

    def __init__(self, folder: Path, run: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", str(folder.resolve()), run],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_ready(self) -> None:
        assert self._ready.wait(_WAIT_S), "A process does not open its studio."

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status; -9 if it had to be killed."""
        self.process.send_signal(number)
        try:
            self.process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        with self.process:
            return self.process.returncode

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "ready" in said:
                self._ready.set()
            else:
                self.lines.append(said)


class Chaos:
    """Starts the processes, disturbs them, checks and counts.

    Args:
        folder: The data folder that all share. Its database is ``NBGEN_DATABASE``, if
            that is set.
        seed: Determines what happens, as far as that can be.
        drop_connections: Drops all connections to the database; None where there are
            none.

    Attributes:
        counts: What was found, by name.
    """

    def __init__(
        self, folder: Path, seed: int, *, drop_connections: Any = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._draw = random.Random(seed)
        self._seed = seed
        self._drop_connections = drop_connections
        self._started = 0
        self._processes: list[_Process] = []
        self._promised: list[dict[str, Any]] = []

    def run(self, *, disturbances: int, processes: int = 3) -> None:
        """Disturb the processes so many times, then check what they leave."""
        for _ in range(processes):
            self._start()
        for _ in range(disturbances):
            self._disturb()
        for each in list(self._processes):
            self._end(each, signal.SIGTERM)
        self._check()

    def _start(self) -> None:
        run = f"s{self._seed}-{self._started}"
        self._started += 1
        process = _Process(self._folder, run)
        process.wait_ready()
        self._processes.append(process)

    def _end(self, process: _Process, number: signal.Signals) -> None:
        status = process.end(number)
        self._processes.remove(process)
        self._promised += process.lines
        if number == signal.SIGTERM and status != 0:
            self.counts["SIGTERM not obeyed"] += 1
        elif number == signal.SIGKILL and status != -signal.SIGKILL:
            self.counts["processes that failed"] += 1

    def _disturb(self) -> None:
        time.sleep(self._draw.uniform(0, 0.4))  # the moment is what is tried
        victim = self._draw.choice(self._processes)
        what = self._draw.random()
        if what < 0.5:
            self.counts["kills"] += 1
            self._end(victim, signal.SIGKILL)
            self._start()
        elif what < 0.7:
            self.counts["stops"] += 1
            self._end(victim, signal.SIGTERM)
            self._start()
        else:
            self.counts["freezes"] += 1
            victim.process.send_signal(signal.SIGSTOP)
            if self._drop_connections is not None and self._draw.random() < 0.7:
                self.counts["dropped connections"] += 1
                self._drop_connections()
            time.sleep(self._draw.uniform(0.1, 1.0))  # others may take over meanwhile
            victim.process.send_signal(signal.SIGCONT)

    def _check(self) -> None:
        with Studio(
            self._folder,
            engine=PatternEngine(),
            take_over=True,
            queue_limit=_QUEUE_LIMIT,
        ) as studio:
            studio.resume()
            ids = {line["id"] for line in self._promised if line["did"] == "submit"}
            self.counts["tasks acknowledged"] = len(ids)
            for line in self._promised:
                self.counts[f"{line['did']} acknowledged"] += 1
            lives = self._lives(studio)
            for task_id in lives:
                with suppress(NbgenError):
                    studio.task(task_id).result(_WAIT_S)
            lives = self._lives(studio)
            self.counts["tasks missing"] += len(ids - lives.keys())
            for task_id, life in lives.items():
                self._check_life(studio, task_id, life)

    def _check_life(self, studio: Studio, task_id: str, life: list[str]) -> None:
        self.counts["impossible lives"] += not is_possible(life)
        self.counts["tasks stuck"] += life[-1] not in ENDS
        record = studio.get_record(task_id)
        attempts = studio.attempts(task_id)
        self.counts["wrong attempts"] += (
            [attempt.number for attempt in attempts]
            != list(range(1, len(attempts) + 1))
            or life.count("generating") != len(attempts)
            or record.attempt != len(attempts)
        )
        for attempt in attempts:
            outcome = attempt.outcome or AttemptOutcome.LOST
            self.counts[f"attempts {outcome.value}"] += 1
        if record.status is Status.COMPLETED:
            result = record.result
            self.counts["ends without a picture"] += not (result and result.images)
            self.counts["tasks completed"] += 1

    def _lives(self, studio: Studio) -> dict[str, list[str]]:
        """Return the states that the change feed tells of each task."""
        told: SimpleQueue[Changes] = SimpleQueue()
        stop = studio.watch_changes(told.put)
        newest = told.get(timeout=_WAIT_S).position
        stop()
        stop = studio.watch_changes(told.put, since=Position(newest.epoch, 0))
        lives: dict[str, list[str]] = {}
        number = 0
        while number < newest.number:
            changes = told.get(timeout=_WAIT_S)
            number = max(number, changes.position.number)
            for change in changes.changes:
                if change.kind is ChangeKind.TASK:
                    lives.setdefault(change.id, []).append(change.state)
        stop()
        return lives


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
