"""The feed tells each follower every commit once, in one order, whoever commits."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import patch

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nbgen.progress import ChangeFollower
from nbgen.schema import Change, ChangeKind, Changes, NewChange, Position
from nbgen.store import Store
from nbgen.store.changes import append
from nbgen.store.database import Database
from tests import postgresql
from tests.store import feed_writer
from tests.store.feed_writer import BEGINS, HOLDS, OVER, Line, Plan, Said
from tests.store.test_tasks import add as submit
from tests.store.test_tasks import record

WAIT_S = 30.0
KEPT = 100
PRUNE_EVERY = 10
TRANSACTIONS = 160
MOST_ROWS = 5
JOINS_AT = 40
CUT_EVERY = 120

Event = tuple[int, Said | Changes]


class Process:
    """A process with two writers; what these say becomes events.

    Args:
        number: The number of its first writer.
        events: Where the events go.
    """

    def __init__(
        self, folder: Path, url: str | None, number: int, events: SimpleQueue[Event]
    ) -> None:
        self._first = number
        program = [sys.executable, feed_writer.__file__, str(folder), url or ""]
        self._process = subprocess.Popen(
            [*program, str(KEPT), str(PRUNE_EVERY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, args=(events,))
        self._reader.start()

    def give(self, writer: int, plan: Plan) -> None:
        assert self._process.stdin is not None
        line = msgspec.json.encode(Line(writer - self._first, plan))
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it; a held transaction goes on and is rolled back with the process."""
        self._process.kill()
        self._reader.join()
        with self._process:
            pass

    def _read(self, events: SimpleQueue[Event]) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            said = msgspec.json.decode(text, type=Said)
            events.put((self._first + said.thread, said))


class Traffic:
    """Four writers whose transactions overlap, and two followers, one of them late.

    No writer is so far ahead that a change is pruned before it was told.

    Attributes:
        told: What each follower was told.
        problems: How often a follower was told that the feed cannot be read.
        committed: The ids of each committed transaction.
        overlaps: How many transactions were held while another was under way.
        cuts: How many connections of followers were cut.
    """

    def __init__(
        self,
        folder: Path,
        url: str | None,
        server: postgresql.Server | None,
        closing: ExitStack,
    ) -> None:
        self.told: tuple[list[Change], list[Change]] = ([], [])
        self.problems = 0
        self.committed: list[tuple[str, ...]] = []
        self.rolled_back: list[str] = []
        self.overlaps = 0
        self.cuts = 0
        self._url = url
        self._server = server
        self._draw = random.Random(2026)
        self._left = TRANSACTIONS
        self._next_cut = CUT_EVERY
        self._plans: list[Plan | None] = [None] * 4
        self._under_way = [False] * 4
        self._held_since: dict[int, int] = {}  # how much was committed then
        self._events: SimpleQueue[Event] = SimpleQueue()
        stores = [Store(folder, url) for _ in range(2)]
        self._beginning = stores[0].changes.position()
        self._followers = [ChangeFollower(store.changes) for store in stores]
        for store in stores:
            closing.callback(store.close)
        for follower in self._followers:
            closing.callback(follower.close)
        self._processes = [
            Process(folder, url, first, self._events) for first in (0, 2)
        ]
        for process in self._processes:
            closing.callback(process.close)

    def run(self) -> None:
        """Go on until all is committed and told."""
        self._follow(0)
        self._give()
        while self._left or any(self._plans) or self._told_upto() < self._count():
            number, event = self._events.get(timeout=WAIT_S)
            if isinstance(event, Said):
                self._note(number, event.what)
            else:
                self._note_told(number, event)
            self._give()
            self._let_go()

    def _follow(self, follower: int) -> None:
        def callback(changes: Changes) -> None:
            self._events.put((follower, changes))

        self._followers[follower].watch(callback, self._beginning)

    def _note(self, writer: int, what: str) -> None:
        plan = self._plans[writer]
        assert plan is not None
        if what == HOLDS:
            self._held_since[writer] = len(self.committed)
            return
        self._under_way[writer] = what == BEGINS
        if what == OVER:
            self._plans[writer] = None
            if plan.commits:
                self.committed.append(plan.ids)
            else:
                self.rolled_back += plan.ids

    def _note_told(self, follower: int, changes: Changes) -> None:
        assert not changes.missed
        self.problems += changes.problem is not None
        before = len(self.told[0])
        self.told[follower].extend(changes.changes)
        seen = len(self.told[0])
        if before < JOINS_AT <= seen:
            self._follow(1)
        if self._server and self._url and seen >= self._next_cut:
            cut = self._server.drop_listeners(self._url)
            self.cuts += cut
            if cut:
                self._next_cut += CUT_EVERY

    def _give(self) -> None:
        """Give a transaction to each writer that has none, while there is room."""
        for writer, plan in enumerate(self._plans):
            coming = sum(len(each.ids) for each in self._plans if each)
            ahead = self._count() + coming - self._told_upto()
            if plan is None and self._left and ahead + MOST_ROWS <= KEPT:
                self._left -= 1
                new = self._plan()
                self._plans[writer] = new
                self._processes[writer // 2].give(writer, new)

    def _plan(self) -> Plan:
        number = TRANSACTIONS - self._left
        rows = self._draw.randint(1, MOST_ROWS)
        return Plan(
            tuple(f"{number}-{row}" for row in range(rows)),
            commits=self._draw.random() < 0.75,
            holds=self._draw.choice([None, None, "before", "after"]),
        )

    def _let_go(self) -> None:
        """Let those go on that have been overtaken, or cannot be."""
        for writer, since in list(self._held_since.items()):
            others = [
                other
                for other, plan in enumerate(self._plans)
                if plan is not None and other not in self._held_since
            ]
            plan = self._plans[writer]
            assert plan is not None
            if self._server and plan.holds == "before":
                # The others append meanwhile: their numbers are smaller.
                is_overtaken = len(self.committed) > since
            else:
                # The others wait for it.
                is_overtaken = any(self._under_way[other] for other in others)
            if is_overtaken or not others:
                self.overlaps += is_overtaken
                del self._held_since[writer]
                self._processes[writer // 2].give(writer, Plan())

    def _count(self) -> int:
        return sum(map(len, self.committed))

    def _told_upto(self) -> int:
        return min(map(len, self.told))


@pytest.fixture
def server(
    request: pytest.FixtureRequest, database: str | None
) -> postgresql.Server | None:
    if database is None:
        return None
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server


@pytest.fixture
def store(tmp_path: Path, database: str | None) -> Iterator[Store]:
    store = Store(tmp_path, database)
    yield store
    store.close()


def test_two_followers_see_what_four_writers_commit(
    tmp_path: Path, database: str | None, server: postgresql.Server | None
) -> None:
    with ExitStack() as closing:
        traffic = Traffic(tmp_path, database, server, closing)
        traffic.run()
    by_ids = {ids[0]: ids for ids in traffic.committed}
    for told in traffic.told:
        assert [change.number for change in told] == list(range(1, len(told) + 1))
        ids = [change.id for change in told]
        assert sorted(ids) == sorted(sum(traffic.committed, ()))
        assert not set(ids) & set(traffic.rolled_back)
        # Each transaction is told in one piece.
        place = 0
        while place < len(ids):
            whole = by_ids[ids[place]]
            assert tuple(ids[place : place + len(whole)]) == whole
            place += len(whole)
    assert traffic.told[0] == traffic.told[1]
    # That there was something to get wrong.
    assert traffic.rolled_back
    assert traffic.overlaps > 30
    assert len(traffic.told[0]) > 2 * KEPT
    if server is not None:
        assert traffic.cuts >= 3
        assert traffic.problems == 0  # it only listened anew
    store = Store(tmp_path, database)
    newest = store.changes.position()
    assert newest.number == len(traffic.told[0])
    assert store.changes.read(newest._replace(number=0)).missed
    store.close()


@pytest.fixture
def writer(tmp_path: Path, database: str | None) -> Iterator[Database]:
    writer = Database(tmp_path, database)
    yield writer
    writer.close()


class RolledBack(Exception):
    """What rolls a transaction back."""


def add(writer: Database, *ids: str, commits: bool = True) -> None:
    with suppress(RolledBack), writer.writing() as connection:
        append(connection, [NewChange(ChangeKind.CONTENT, i, "known") for i in ids])
        if not commits:
            raise RolledBack


class Told:
    """What a follower is told, one change after the other."""

    def __init__(self, store: Store, since: Position | None = None) -> None:
        self.told: SimpleQueue[Changes] = SimpleQueue()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.missed: list[Position] = []
        self._left: list[Change] = []
        self._follower = ChangeFollower(store.changes)
        self._follower.watch(self._take, since)
        self.begins = self.told.get(timeout=WAIT_S).position

    def _take(self, changes: Changes) -> None:
        self.told.put(changes)
        self.may_go_on.wait(WAIT_S)

    def next(self) -> Change:
        while not self._left:
            changes = self.told.get(timeout=WAIT_S)
            if changes.missed:
                self.missed.append(changes.position)
            self._left.extend(changes.changes)
        return self._left.pop(0)

    def until(self, last: str) -> list[Change]:
        """Return the changes up to the one of that id."""
        seen = [self.next()]
        while seen[-1].id != last:
            seen.append(self.next())
        return seen

    def close(self) -> None:
        self.may_go_on.set()
        self._follower.close()


@pytest.fixture
def keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ten changes, and look for older ones at each."""
    monkeypatch.setattr("nbgen.store.changes.KEPT_COUNT", 10)
    monkeypatch.setattr("nbgen.store.changes._PRUNE_EVERY", 1)


@pytest.mark.usefixtures("keep_few")
def test_a_follower_that_is_overtaken_is_told_once_and_goes_on(
    store: Store, writer: Database
) -> None:
    follower = Told(store)
    try:
        follower.may_go_on.clear()
        add(writer, "first")
        [first] = follower.told.get(timeout=WAIT_S).changes
        for number in range(30):
            add(writer, f"lost-{number}")
        newest = store.changes.position()
        follower.may_go_on.set()
        assert follower.told.get(timeout=WAIT_S) == Changes(newest, missed=True)
        for number in range(9):
            add(writer, f"new-{number}")
        seen = follower.until("new-8")
    finally:
        follower.close()
    assert (first.id, first.number) == ("first", follower.begins.number + 1)
    assert [change.id for change in seen] == [f"new-{number}" for number in range(9)]
    numbers = [change.number for change in seen]
    assert numbers == list(range(newest.number + 1, newest.number + 10))
    assert not follower.missed


def test_a_feed_that_was_pruned_empty_goes_on_with_its_numbers(
    store: Store, writer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.changes.position()
    with monkeypatch.context() as patched:
        patched.setattr("nbgen.store.changes.KEPT_COUNT", 0)
        patched.setattr("nbgen.store.changes._PRUNE_EVERY", 1)
        add(writer, "a", "b", "c")
    newest = store.changes.position()
    assert newest == before._replace(number=before.number + 3)
    assert store.changes.read(before) == Changes(newest, missed=True)
    assert store.changes.read(newest) == Changes(newest)
    follower = Told(store, newest)
    add(writer, "d")
    change = follower.next()
    follower.close()
    assert (change.number, change.id) == (newest.number + 1, "d")
    assert not follower.missed


def test_a_follower_is_woken_by_a_commit_of_another_process(
    store: Store, tmp_path: Path, database: str | None
) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    process = Process(tmp_path, database, 0, events)
    follower = Told(store)
    try:
        process.give(0, Plan(("at once",)))
        follower.until("at once")
        took_s = []
        for number in range(9):
            started_s = time.monotonic()
            process.give(0, Plan((f"{number}",)))
            follower.until(f"{number}")
            took_s.append(time.monotonic() - started_s)
    finally:
        follower.close()
        process.close()
    # Unwoken, it would look a second after its last look.
    assert statistics.median(took_s) < 0.5


OPERATIONS = st.lists(
    st.tuples(st.just("commit"), st.integers(1, 4))
    | st.tuples(st.just("rollback"), st.integers(1, 4))
    | st.tuples(st.just("read"), st.integers(0, 2)),
    max_size=40,
)


@pytest.mark.usefixtures("keep_few")
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=OPERATIONS)
def test_pages_hold_what_was_committed_and_is_kept(
    store: Store, writer: Database, operations: list[tuple[str, int]]
) -> None:
    """Whatever is committed, rolled back, forgotten and read in between."""
    place = store.changes.position()
    begins = place.number
    committed: list[str] = []
    readers = [place] * 3
    with patch("nbgen.store.changes.MOST_AT_ONCE", 3):
        for number, (what, argument) in enumerate(operations):
            ids = [f"{begins}-{number}-{row}" for row in range(argument)]
            if what == "commit":
                add(writer, *ids)
                committed += ids
            elif what == "rollback":
                add(writer, *ids, commits=False)
            else:
                before = readers[argument]
                news = store.changes.read(before)
                readers[argument] = news.position
                first = before.number - begins
                forgotten = max(0, len(committed) - 10)
                if first < forgotten:
                    assert news == Changes(store.changes.position(), missed=True)
                    continue
                expected = committed[first : first + 3]
                assert not news.missed
                assert [change.id for change in news.changes] == expected
                numbers = [change.number for change in news.changes]
                after = before.number + 1
                assert numbers == list(range(after, after + len(expected)))


def test_a_watching_may_be_ended_after_the_store_was_closed(
    tmp_path: Path, database: str | None
) -> None:
    store = Store(tmp_path, database)
    follower = ChangeFollower(store.changes)
    stop = follower.watch(lambda _: None)
    follower.close()
    store.close()
    stop()
    follower.close()


class HastyEvent(threading.Event):
    """An event that is set just after a wait for it has timed out."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        is_set = super().wait(timeout)
        if self.waits == 2:
            self.set()
        return is_set


def test_a_wake_just_after_a_look_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wait looks for the first time; the third is woken as it looks."""
    monkeypatch.delattr(os, "mkfifo")  # or the look would be a rare one
    woken = HastyEvent()
    monkeypatch.setattr("nbgen.store.signal.Event", lambda: woken)
    database = Database(tmp_path)
    database.wait_for_changes()
    database.wait_for_changes()
    database.wait_for_changes()
    database.close()
    assert woken.waits == 3


def test_rows_that_are_forgotten_while_they_are_read_are_not_left_out(
    store: Store, writer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(record(), batch_id="pets", batch_row="cat")
    place = store.changes.position()
    submit(store, task)
    monkeypatch.setattr("nbgen.store.changes.KEPT_COUNT", 1)
    monkeypatch.setattr("nbgen.store.changes._PRUNE_EVERY", 1)
    forgotten: list[str] = []

    def forget(*_about: object) -> None:
        if not forgotten:
            forgotten.append("all before")
            add(writer, *forgotten)

    sa.event.listen(sa.Engine, "after_cursor_execute", forget)
    try:
        found = store.tasks.changed_rows("pets", place)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", forget)
    assert forgotten
    assert [row.name for row in found.rows] == ["cat"]
