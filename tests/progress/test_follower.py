"""A follower tells each watcher every change, in order, none twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from nbgen.errors import DataFolderUnusable, StudioClosed
from nbgen.progress import ChangeFollower
from nbgen.schema import Change, ChangeKind, Changes, NewChange, Position
from nbgen.testing.memory_changes import MemoryChanges

Told = SimpleQueue[Changes]


class Feed(MemoryChanges):
    """A feed that fails when it is told to, and returns one change at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None

    def add(self, *ids: str) -> None:
        self.append([NewChange(ChangeKind.TASK, each, "pending") for each in ids])

    def read(self, since: Position) -> Changes:
        if self.failure is not None:
            raise self.failure
        news = super().read(since)
        if len(news.changes) < 2:
            return news
        place = Position(since.epoch, since.number + 1)
        return Changes(place, news.changes[:1])


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def follower(feed: Feed) -> Iterator[ChangeFollower]:
    follower = ChangeFollower(feed)
    yield follower
    follower.close()


def ids(told: Told, count: int) -> list[str]:
    """Return the ids of the next changes that were told."""
    seen: list[Change] = []
    while len(seen) < count:
        seen.extend(told.get(timeout=10).changes)
    return [change.id for change in seen]


def test_a_watcher_begins_at_the_present_and_sees_all_that_follows(
    feed: Feed, follower: ChangeFollower
) -> None:
    feed.add("before")
    told: Told = SimpleQueue()
    follower.watch(told.put)
    assert told.get(timeout=10) == Changes(feed.position()._replace(number=1))
    feed.add("a", "b")
    feed.add("c")
    assert ids(told, 3) == ["a", "b", "c"]


def test_a_watcher_may_begin_at_an_earlier_place(
    feed: Feed, follower: ChangeFollower
) -> None:
    beginning = feed.position()
    feed.add("a", "b", "c")
    early: Told = SimpleQueue()
    late: Told = SimpleQueue()
    follower.watch(early.put, beginning)
    follower.watch(late.put, beginning._replace(number=2))
    assert ids(early, 3) == ["a", "b", "c"]
    assert ids(late, 1) == ["c"]


def test_a_watcher_of_a_place_that_is_not_known_is_told_so(
    feed: Feed, follower: ChangeFollower
) -> None:
    feed.add("a")
    told: Told = SimpleQueue()
    follower.watch(told.put, Position("another", 7))
    assert told.get(timeout=10).position.number == 7
    assert told.get(timeout=10) == Changes(feed.position(), missed=True)
    feed.add("b")
    assert ids(told, 1) == ["b"]


def test_who_has_stopped_is_told_nothing(feed: Feed, follower: ChangeFollower) -> None:
    stopped: Told = SimpleQueue()
    told: Told = SimpleQueue()
    stop = follower.watch(stopped.put)
    stopped.get(timeout=10)
    stop()
    stop()
    follower.watch(told.put)
    feed.add("a")
    assert ids(told, 1) == ["a"]
    assert stopped.empty()


def test_a_watcher_may_stop_while_it_is_told(
    feed: Feed, follower: ChangeFollower
) -> None:
    told: Told = SimpleQueue()
    both: Told = SimpleQueue()

    def first(changes: Changes) -> None:
        told.put(changes)
        if changes.changes:
            stop()

    stop = follower.watch(first)
    follower.watch(both.put)
    feed.add("a", "b")
    assert ids(both, 2) == ["a", "b"]
    assert ids(told, 1) == ["a"]
    assert told.empty()


def test_a_callback_that_raises_is_told_the_rest(
    feed: Feed, follower: ChangeFollower, caplog: pytest.LogCaptureFixture
) -> None:
    told: Told = SimpleQueue()

    def callback(changes: Changes) -> None:
        told.put(changes)
        raise RuntimeError

    follower.watch(callback)
    feed.add("a", "b")
    assert ids(told, 2) == ["a", "b"]
    assert "A callback for changes raised." in caplog.text


def test_a_feed_that_cannot_be_read_is_said_to_be_and_read_on_later(
    feed: Feed, follower: ChangeFollower
) -> None:
    told: Told = SimpleQueue()
    follower.watch(told.put)
    told.get(timeout=10)
    feed.failure = DataFolderUnusable("The disk is gone.")
    feed.add("a")
    assert told.get(timeout=10).problem == "The disk is gone."
    late: Told = SimpleQueue()
    follower.watch(late.put)
    assert late.get(timeout=10).problem == "The disk is gone."
    feed.failure = None
    over = told.get(timeout=10)
    assert (over.problem, over.changes) == (None, ())
    assert ids(told, 1) == ["a"]
    assert late.get(timeout=10).problem is None
    feed.add("b")
    assert ids(late, 1) == ["b"]


def test_following_ends_when_the_feed_is_closed(
    feed: Feed, follower: ChangeFollower
) -> None:
    told: Told = SimpleQueue()
    follower.watch(told.put)
    told.get(timeout=10)
    [thread] = [t for t in threading.enumerate() if t.name == "nbgen-changes"]
    feed.failure = StudioClosed()
    feed.add("a")
    thread.join(10)
    assert not thread.is_alive()


def test_a_closed_follower_takes_no_watcher(follower: ChangeFollower) -> None:
    told: Told = SimpleQueue()
    follower.watch(told.put)
    told.get(timeout=10)
    follower.close()
    follower.close()
    with pytest.raises(StudioClosed):
        follower.watch(print)
    assert "nbgen-changes" not in {thread.name for thread in threading.enumerate()}


def test_a_callback_may_close_the_follower(follower: ChangeFollower) -> None:
    closed = threading.Event()

    def callback(_changes: Changes) -> None:
        follower.close()
        closed.set()

    follower.watch(callback)
    assert closed.wait(10)


def test_a_follower_that_nobody_used_closes(feed: Feed) -> None:
    ChangeFollower(feed).close()
