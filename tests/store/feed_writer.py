"""A process of two threads that append to the feed as the lines on its input say.

Each line is a transaction, or, while a thread holds one, lets it go on. The threads say
when a transaction begins, when it is held, and when it is over.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import patch

import msgspec

from nbgen.schema import ChangeKind, NewChange, utc_now
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.tables import content

BEGINS = "begins"
HOLDS = "holds"
OVER = "over"


class Plan(msgspec.Struct, frozen=True):
    """A transaction.

    Attributes:
        ids: What it makes, an entry of the feed for each; none lets a held one go on.
        commits: Whether it is committed; otherwise it is rolled back.
        holds: Where it waits for the next line: before or after the appending.
    """

    ids: tuple[str, ...] = ()
    commits: bool = True
    holds: str | None = None


class Line(msgspec.Struct, frozen=True):
    """What one thread is told to do."""

    thread: int
    plan: Plan


class Said(msgspec.Struct, frozen=True):
    """What one thread says."""

    thread: int
    what: str


class _RolledBack(Exception):
    pass


class Writer(threading.Thread):
    """Runs the transactions that it is given, one after the other."""

    def __init__(self, database: Database, thread: int) -> None:
        super().__init__()
        self.plans: SimpleQueue[Plan | None] = SimpleQueue()
        self._database = database
        self._thread = thread

    def run(self) -> None:
        while (plan := self.plans.get()) is not None:
            self._say(BEGINS)
            with suppress(_RolledBack):
                self._write(plan)
            self._say(OVER)

    def _write(self, plan: Plan) -> None:
        now = utc_now()
        rows = [
            {"task_id": each, "metadata": "{}", "created_at": now, "updated_at": now}
            for each in plan.ids
        ]
        entries = [NewChange(ChangeKind.CONTENT, each, "known") for each in plan.ids]
        with self._database.writing() as connection:
            connection.execute(content.insert(), rows)
            self._hold(plan, "before")
            append(connection, entries)
            self._hold(plan, "after")
            if not plan.commits:
                raise _RolledBack

    def _hold(self, plan: Plan, place: str) -> None:
        if plan.holds == place:
            self._say(HOLDS)
            self.plans.get()

    def _say(self, what: str) -> None:
        # One write, so that the lines of the threads do not mix.
        os.write(1, msgspec.json.encode(Said(self._thread, what)) + b"\n")


def main(folder: str, url: str, kept: int, prune_every: int) -> None:
    """Append until the input ends."""
    with patch.multiple(
        "nbgen.store.changes", KEPT_COUNT=kept, _PRUNE_EVERY=prune_every
    ):
        database = Database(Path(folder), url or None)
        writers = [Writer(database, thread) for thread in range(2)]
        for writer in writers:
            writer.start()
        for text in sys.stdin.buffer:
            line = msgspec.json.decode(text, type=Line)
            writers[line.thread].plans.put(line.plan)
        for writer in writers:
            writer.plans.put(None)
            writer.join()
        database.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
