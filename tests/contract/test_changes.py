"""``watch_changes``: every change is told once, in the order of the commits."""

from __future__ import annotations

from queue import SimpleQueue

import pytest

from nbgen.backend import Backend
from nbgen.errors import InvalidRequest, NbgenError, StudioClosed, UnknownBatch
from nbgen.review.publishers import Publication
from nbgen.schema import (
    BatchRow,
    ChangeKind,
    Changes,
    Outcome,
    Position,
    Status,
    Verdict,
)
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    Follower,
    asks,
    decide,
    hold,
    made,
    says,
    submit,
    told,
)

Told = SimpleQueue[Changes]


class Publisher:
    """Publishes at an address, or fails once."""

    name = "site"

    def __init__(self, *, fails_first: bool) -> None:
        self._fails = fails_first

    def publish(self, _publication: Publication) -> str:
        if self._fails:
            self._fails = False
            raise OSError("The site is down.")
        return "https://site.example/1"


def test_the_life_of_a_task_and_the_decisions_on_it_are_told(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(publishers=[Publisher(fails_first=False)])
    follower = Follower(backend)
    made(backend, "a")
    decide(backend, says("a", "ada"))
    seen = follower.until("publication", "a", "published")
    backend.undo("a", reviewer_id="ada")
    backend.put_content("b", {"title": "B"})
    seen += follower.until("content", "b", "known")
    first = follower.begins.number + 1
    assert [change.number for change in seen] == list(range(first, first + len(seen)))
    assert list(dict.fromkeys(map(told, seen))) == [
        ("task", "a", "pending"),
        ("task", "a", "generating"),
        ("task", "a", "succeeded"),
        ("decision", "a", "approved"),
        ("publication", "a", "pending"),
        ("publication", "a", "published"),
        ("decision", "a", "undone"),
        ("content", "b", "known"),
    ]


def test_an_undo_withdraws_what_is_not_published(make_backend: MakeBackend) -> None:
    backend = make_backend(publishers=[Publisher(fails_first=True)])
    made(backend, "a")
    decide(backend, says("a", "ada"))
    [tried] = backend.publications("a", wait_s=WAIT_S)
    assert tried.error is not None
    follower = Follower(backend)
    backend.undo("a", reviewer_id="ada")
    assert list(map(told, follower.until("publication", "a", "cancelled"))) == [
        ("decision", "a", "undone"),
        ("publication", "a", "cancelled"),
    ]


def test_changes_that_are_asked_for_tell_of_the_child_too(backend: Backend) -> None:
    made(backend, "a")
    follower = Follower(backend)
    asked = says("a", "ada", Verdict.CHANGES_REQUESTED, feedback="bluer")
    child = backend.request_changes(asked, prompt="a blue cat")
    assert child is not None
    assert list(map(told, follower.until("task", child.id, "pending"))) == [
        ("decision", "a", "changes_requested"),
        ("task", child.id, "pending"),
    ]


def test_what_is_refused_or_repeated_is_no_change(backend: Backend) -> None:
    made(backend, "a")
    decide(backend, says("a", "ada"))
    follower = Follower(backend)
    decide(backend, says("a", "ada"))
    assert isinstance(backend.decide([says("gone", "ada")])[0], NbgenError)
    submit(backend, "a")
    backend.put_content("end", {})
    assert told(follower.next()) == ("content", "end", "known")


def test_a_batch_is_told_of_with_its_rows(backend: Backend) -> None:
    follower = Follower(backend)
    rows = {"cat": asks("a cat"), "dog": asks("a dog")}
    backend.submit_batch("pets", rows, priority=0)
    seen = follower.until("task", "pets:dog", "succeeded")
    assert list(map(told, seen))[:3] == [
        ("batch", "pets", "queued"),
        ("task", "pets:cat", "pending"),
        ("task", "pets:dog", "pending"),
    ]
    assert {change.batch_id for change in seen[1:]} == {"pets"}


def test_cancels_priorities_and_the_pause_of_the_queue_are_told(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "waits")
    follower = Follower(backend)
    backend.pause()
    backend.prioritise("waits", 5)
    backend.cancel(["waits"])
    backend.resume()
    seen = follower.until("queue", "default", "resumed")
    gate.open()
    assert list(map(told, seen)) == [
        ("queue", "default", "paused"),
        ("task", "waits", "pending"),
        ("task", "waits", "cancelled"),
        ("queue", "default", "resumed"),
    ]


def test_a_pause_is_told_once(backend: Backend) -> None:
    follower = Follower(backend)
    for pause in (backend.pause, backend.pause, backend.resume, backend.resume):
        pause()
    backend.put_content("end", {})
    assert [told(c) for c in follower.until("content", "end", "known")[:-1]] == [
        ("queue", "default", "paused"),
        ("queue", "default", "resumed"),
    ]


def test_a_cancel_of_a_task_that_runs_is_told_before_its_end(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    follower = Follower(backend)
    backend.cancel(["runs"])
    assert told(follower.next()) == ("task", "runs", "cancelling")
    gate.open()
    assert told(follower.next()) == ("task", "runs", "cancelled")


def test_a_retry_is_told_with_its_batch(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    backend.submit_batch("pets", {"cat": asks("a cat")}, priority=0)
    backend.cancel(["pets:cat"])
    follower = Follower(backend)
    backend.retry(["pets:cat"])
    first, second = follower.next(), follower.next()
    assert [told(first), told(second)] == [
        ("batch", "pets", "queued"),
        ("task", "pets:cat", "pending"),
    ]
    assert second.batch_id == "pets"


def test_following_goes_on_from_where_it_was_left(backend: Backend) -> None:
    place = Follower(backend).begins
    made(backend, "a", "b")
    last = ("task", "b", "succeeded")
    whole = Follower(backend, since=place).until(*last)
    first = place.number + 1
    assert [change.number for change in whole] == list(range(first, first + len(whole)))
    middle = Position(place.epoch, whole[3].number)
    follower = Follower(backend, since=middle)
    assert follower.begins == middle
    assert follower.until(*last) == whole[4:]


@pytest.mark.parametrize(
    "since", [Position("another", 1), Position("", 10**12)], ids=["epoch", "ahead"]
)
def test_a_follower_of_a_place_that_is_not_known_is_told_so(
    backend: Backend, since: Position
) -> None:
    made(backend, "a")
    present = Follower(backend).begins
    place = since._replace(epoch=since.epoch or present.epoch)
    follower = Follower(backend, since=place)
    assert follower.told.get(timeout=WAIT_S) == Changes(present, missed=True)
    made(backend, "b")
    assert follower.next().number == present.number + 1


def test_nothing_is_told_once_the_watching_has_ended(backend: Backend) -> None:
    stopped: Told = SimpleQueue()
    stop = backend.watch_changes(stopped.put)
    stopped.get(timeout=WAIT_S)
    stop()
    follower = Follower(backend)
    made(backend, "a")
    follower.until("task", "a", "succeeded")
    assert stopped.empty()


def test_a_closed_backend_is_not_followed(make_backend: MakeBackend) -> None:
    backend = make_backend()
    Follower(backend)
    backend.close(finish=False)
    with pytest.raises(StudioClosed):
        backend.watch_changes(print)


def test_only_the_rows_that_changed_are_read_again(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    rows = {"cat": asks("a cat"), "dog": asks("a dog")}
    backend.submit_batch("pets", rows, priority=0)
    whole = backend.changed_rows("pets", None)
    assert whole.is_whole
    assert whole.rows == backend.batch_rows("pets")
    assert backend.changed_rows("pets", whole.position) == ([], whole.position, False)
    backend.cancel(["pets:cat"])
    changed = backend.changed_rows("pets", whole.position)
    [cat] = changed.rows
    assert (cat.name, cat.outcome, changed.is_whole) == (
        "cat",
        Outcome.CANCELLED,
        False,
    )
    backend.retry_rows("pets", ["cat"])
    again: BatchRow = backend.changed_rows("pets", changed.position).rows[-1]
    assert (again.name, again.status) == ("cat", Status.PENDING)
    assert (again.task_id, again.number) == (cat.task_id, cat.number)
    gate.open()


def test_a_place_that_is_not_known_reads_all_rows(backend: Backend) -> None:
    backend.submit_batch("pets", {"cat": asks("a cat")}, priority=0)
    found = backend.changed_rows("pets", Position("another", 1))
    assert found.is_whole
    assert [row.name for row in found.rows] == ["cat"]
    place = backend.changed_rows("pets", None).position
    assert place.epoch != "another"
    assert backend.changed_rows("pets", place._replace(number=10**12)).is_whole


def test_rows_of_no_batch_are_refused(backend: Backend) -> None:
    with pytest.raises(UnknownBatch):
        backend.changed_rows("gone", None)
    with pytest.raises(InvalidRequest):
        backend.changed_rows("no batch/", None)


def test_the_kinds_of_changes_are_a_closed_set() -> None:
    """Clients switch on them."""
    assert [kind.value for kind in ChangeKind] == [
        "task",
        "batch",
        "decision",
        "content",
        "publication",
        "queue",
    ]
