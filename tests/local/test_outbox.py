"""Approvals reach their publishers, whatever happens on the way."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.images import open_images
from nbgen.local.outbox import Outbox, Timing
from nbgen.review.publishers import FolderPublisher, Publication, Publisher
from nbgen.review.quorum import read_quorum
from nbgen.review.rules import rule
from nbgen.schema import (
    DecisionRequest,
    Outcome,
    Proposal,
    PublicationRecord,
    PublicationState,
    Verdict,
)
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from nbgen.threads import start_thread
from tests.parts import library
from tests.store.test_tasks import add, end_all, record

MakeStudio = Callable[..., Studio]
HOUR = dt.timedelta(hours=1)


class Recorder:
    """A publisher that fails as often as it is told to, then publishes."""

    def __init__(self, name: str = "recorder", failures: int = 0) -> None:
        self.name = name
        self.failures = failures
        self.seen: SimpleQueue[Publication] = SimpleQueue()

    def publish(self, publication: Publication) -> str | None:
        if self.failures:
            self.failures -= 1
            raise PublishFailed("The service is down.")
        self.seen.put(publication)
        return f"https://x.org/{publication.task_id}"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


def states(studio: Studio, task_id: str = "a") -> list[tuple[str, int, str | None]]:
    return [
        (record.state.value, record.attempts, record.url)
        for record in studio.publications(task_id, wait_s=30)
    ]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_an_approval_is_published(
    make_studio: MakeStudio, database: str | None, tmp_path: Path
) -> None:
    folder, other = FolderPublisher(tmp_path / "out"), Recorder()
    studio = make_studio(database=database, publishers=[folder, other])
    studio.generate("a cat", task_id="a", output_format="webp").result(30)
    studio.approve("a", reviewer_id="ada", feedback="Fine")
    picture = tmp_path / "out" / "a.webp"
    assert states(studio) == [
        ("published", 1, picture.as_uri()),
        ("published", 1, "https://x.org/a"),
    ]
    description = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (description["image"], description["feedback"]) == ("a.webp", "Fine")
    studio.approve("a", reviewer_id="bob")
    assert len(studio.publications("a")) == 2
    assert other.seen.qsize() == 1


def test_a_rejection_is_not_published(make_studio: MakeStudio) -> None:
    studio = make_studio(publishers=[Recorder()])
    studio.generate("a cat", task_id="a").result(30)
    studio.reject("a", reviewer_id="ada")
    assert studio.publications("a") == []


def test_a_quorum_is_published_once_it_is_met(make_studio: MakeStudio) -> None:
    studio = make_studio(publishers=[Recorder()], quorum="2")
    studio.generate("a cat", task_id="a").result(30)
    studio.approve("a", reviewer_id="ada")
    assert studio.publications("a") == []
    studio.approve("a", reviewer_id="bob")
    assert states(studio) == [("published", 1, "https://x.org/a")]


def test_a_failure_is_seen_and_undoes_nothing(make_studio: MakeStudio) -> None:
    studio = make_studio(publishers=[Recorder(failures=1)])
    studio.generate("a cat", task_id="a").result(30)
    decision = studio.approve("a", reviewer_id="ada")
    assert states(studio) == [("pending", 1, None)]
    [failed] = studio.publications("a")
    assert failed.error == "The service is down."
    assert failed.next_at > decision.decided_at
    assert studio.get_record("a").decision == decision
    studio.undo("a", reviewer_id="ada")
    assert states(studio) == [("cancelled", 1, None)]


def test_an_approval_that_counts_again_is_published_once(
    make_studio: MakeStudio, database: str | None
) -> None:
    """What is out stays out; what was cancelled goes on."""
    out, down = Recorder("out"), Recorder("down", failures=1)
    studio = make_studio(database=database, publishers=[out, down])
    studio.generate("a cat", task_id="a").result(30)
    approval = studio.approve("a", reviewer_id="ada")
    assert [state for state, *_ in states(studio)] == ["published", "pending"]
    studio.reject("a", reviewer_id="bob", expect_version=1)
    assert [state for state, *_ in states(studio)] == ["published", "cancelled"]
    undone = studio.undo("a", reviewer_id="bob")
    assert (
        studio.decided(undone).message == "Undone by bob. It is approved by ada again."
    )
    assert studio.get_record("a").decision == approval
    assert [state for state, *_ in states(studio)] == ["published", "published"]
    assert (out.seen.qsize(), down.seen.qsize()) == (1, 1)
    assert down.seen.get().reviewer_id == "ada"


def decidable_store(folder: Path, database: str | None) -> Store:
    """Return a store with a task that can be approved."""
    studio_store = Store(folder, database)
    add(studio_store, record())
    end_all(studio_store, Outcome.SUCCEEDED)
    studio_store.decisions.put_content("a", {"image_url": "https://x.org/a.png"}, None)
    return studio_store


def approved(
    folder: Path,
    publishers: Sequence[Publisher],
    timing: Timing | None = None,
    *,
    most_waiters: int = 2,
) -> tuple[Store, Outbox]:
    """Return a store with an approval of task "a", and the outbox that publishes it."""
    opened = Store(folder)
    opened.decisions.put_content("a", {}, None)
    approve = partial(
        rule,
        request=DecisionRequest(
            task_id="a", verdict=Verdict.APPROVED, reviewer_id="ada"
        ),
        quorum=read_quorum("any"),
        picture=None,
        now=dt.datetime.now(dt.UTC),
    )
    names = [publisher.name for publisher in publishers]
    [_] = opened.decisions.decide([Proposal("a", approve)], names)
    images = open_images(folder / "images")
    return opened, Outbox(
        opened, images, publishers, timing=timing, most_waiters=most_waiters
    )


def test_it_is_tried_again_after_a_restart(
    make_studio: MakeStudio, database: str | None
) -> None:
    """Also if the process died while it published."""
    first = make_studio(database=database, publishers=[Recorder(failures=1)])
    first.generate("a cat", task_id="a").result(30)
    first.approve("a", reviewer_id="ada")
    assert states(first) == [("pending", 1, None)]
    store = library(first).store
    later = Clock()
    later.now += HOUR
    died = store.publications.take_publication(
        ["recorder"], now=later.now, until=later.now + HOUR
    )
    assert died is not None
    assert (
        store.publications.take_publication(
            ["recorder"], now=later.now, until=later.now
        )
        is None
    )
    later.now += 2 * HOUR
    again = Recorder()
    runner = Outbox(store, library(first).images, [again], later)
    published = again.seen.get(timeout=30)
    runner.close()
    [ended] = store.publications.list_publications("a")
    assert (published.task_id, published.seed) == ("a", first.get_record("a").seed)
    assert (ended.state, ended.attempts) == (PublicationState.PUBLISHED, 3)


def test_only_what_one_can_publish_is_taken(make_studio: MakeStudio) -> None:
    studio = make_studio(publishers=[Recorder("first")])
    studio.generate("a cat", task_id="a").result(30)
    studio.approve("a", reviewer_id="ada")
    assert states(studio) == [("published", 1, "https://x.org/a")]
    later = dt.datetime.now(dt.UTC) + HOUR
    assert (
        library(studio).store.publications.take_publication(
            ["other"], now=later, until=later
        )
        is None
    )


def test_pictures_that_are_elsewhere_are_brought(make_studio: MakeStudio) -> None:
    class Reader(Recorder):
        def publish(self, publication: Publication) -> str | None:
            assert publication.image is not None
            self.data = publication.image.read_bytes()
            return super().publish(publication)

    reader = Reader()
    studio = make_studio(images="memory://brought", publishers=[reader])
    result = studio.generate("a cat", task_id="a").result(30)
    studio.approve("a", reviewer_id="ada")
    assert states(studio) == [("published", 1, "https://x.org/a")]
    assert reader.data == studio.read_image(result.images[0].name)


def test_content_is_published_too(make_studio: MakeStudio) -> None:
    recorder = Recorder()
    studio = make_studio(publishers=[recorder])
    studio.put_content("post", {})
    studio.approve("post", reviewer_id="ada")
    publication = recorder.seen.get(timeout=30)
    assert (publication.request, publication.image) == (None, None)
    assert publication.featured_image_url is None


def test_each_publisher_has_a_thread_while_the_studio_is_open(
    make_studio: MakeStudio,
) -> None:
    make_studio(publishers=[]).close()
    make_studio()
    assert not any(name.startswith("nbgen-publisher") for name in threads())
    studio = make_studio(publishers=[Recorder("x"), Recorder("y")])
    assert {"nbgen-publisher-x", "nbgen-publisher-y"} <= threads()
    studio.close()
    assert not any(name.startswith("nbgen-publisher") for name in threads())


class Wrong(Recorder):
    """A publisher that does what none should."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__("wrong")
        self._act: Callable[[], Any] | None = act

    def publish(self, publication: Publication) -> str | None:
        act, self._act = self._act, None
        if act is None:
            return super().publish(publication)
        wrong: str | None = act()
        return wrong


class _Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: _raise(SystemExit("leave")), "SystemExit: leave"),
        (lambda: _raise(asyncio.CancelledError()), "CancelledError"),
        (lambda: _raise(_Speechless()), "_Speechless"),
        (lambda: _raise(PublishFailed("\ud800\0" + 3_000 * "x")), "?xx"),
        (lambda: Path("a.png"), "the URL of a publisher must be a text"),
        (lambda: "https://x.org/\0", "without the character NUL"),
    ],
    ids=["exits", "is cancelled", "says nothing", "says too much", "path", "NUL"],
)
def test_a_publisher_that_goes_wrong_is_seen_and_harms_no_other(
    make_studio: MakeStudio,
    database: str | None,
    act: Callable[[], Any],
    said: str,
) -> None:
    other = Recorder("other")
    studio = make_studio(database=database, publishers=[Wrong(act), other])
    studio.put_content("a", {})
    studio.approve("a", reviewer_id="ada")
    failed, published = studio.publications("a", wait_s=30)
    assert (failed.state.value, failed.attempts) == ("pending", 1)
    assert said in (failed.error or "")
    assert len(failed.error or "") <= 2_000
    assert published.state.value == "published"
    # It goes on with the next.
    studio.put_content("b", {})
    studio.approve("b", reviewer_id="ada")
    assert [state for state, *_ in states(studio, "b")] == ["published", "published"]


def test_a_publisher_that_hangs_holds_up_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    publishers = [Wrong(partial(gate, 1)), other := Recorder("other")]
    opened, outbox = approved(tmp_path, publishers, Timing(close_s=0.1))
    gate.wait_reached()
    assert other.seen.get(timeout=30).task_id == "a"
    [hanging] = [t for t in threading.enumerate() if t.name == "nbgen-publisher-wrong"]
    outbox.close()  # does not wait for it either
    opened.close()
    gate.open()
    hanging.join(30)
    # Its end cannot be stored any more; the next process publishes again.
    assert not hanging.is_alive()
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_a_studio_closes_while_a_publisher_hangs(tmp_path: Path) -> None:
    gate = Gate(timeout_s=60)
    publishers = [Wrong(partial(gate, 1))]
    studio = Studio(tmp_path, engine=PatternEngine(), publishers=publishers)
    studio.put_content("a", {})
    studio.approve("a", reviewer_id="ada")
    gate.wait_reached()
    closing = threading.Thread(target=studio.close)
    closing.start()
    closing.join(50)
    assert not closing.is_alive()
    gate.open()


def test_an_outbox_that_cannot_start_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[threading.Thread] = []

    def start_one(name: str, target: Callable[[], None]) -> threading.Thread:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start_thread(name, target))
        return started[0]

    monkeypatch.setattr("nbgen.local.outbox.start_thread", start_one)
    with pytest.raises(RuntimeError, match="new thread"):
        approved(tmp_path, [Recorder("one"), Recorder("two")])
    started[0].join(30)
    assert not started[0].is_alive()


def test_a_decision_does_not_wait_for_a_read_of_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``wake`` follows every decision, and needs what the waiting holds."""
    recorder = Recorder()
    opened, outbox = approved(tmp_path, [recorder])
    recorder.seen.get(timeout=30)
    gate = Gate()
    list_publications = opened.publications.list_publications

    def read(task_id: str) -> list[PublicationRecord]:
        gate(1)
        return list_publications(task_id)

    monkeypatch.setattr(opened.publications, "list_publications", read)
    waiting = threading.Thread(target=outbox.wait_tried, args=("a", 30))
    waiting.start()
    gate.wait_reached()
    waking = threading.Thread(target=outbox.wake)
    waking.start()
    waking.join(10)
    woke_while_it_read = not waking.is_alive()
    gate.open()
    for thread in (waking, waiting):
        thread.join(30)
    outbox.close()
    opened.close()
    assert woke_while_it_read


def test_a_wait_ends_with_what_changed_while_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake between the look and the wait is not missed."""
    gate = Gate()
    opened, outbox = approved(tmp_path, [Wrong(partial(gate, 1))])
    gate.wait_reached()
    list_publications = opened.publications.list_publications
    published: list[PublicationRecord] = []

    def read(task_id: str) -> list[PublicationRecord]:
        found = list_publications(task_id)
        if not published:
            published.extend(found)
            # Another process had it too, and was faster.
            opened.publications.end_publication(found[0].number, None)
            outbox.wake()
        return found

    monkeypatch.setattr(opened.publications, "list_publications", read)
    waiting = threading.Thread(target=outbox.wait_tried, args=("a", 60))
    waiting.start()
    waiting.join(10)
    missed = waiting.is_alive()
    gate.open()
    waiting.join(60)
    outbox.close()
    opened.close()
    assert not missed


def test_no_more_wait_than_may(tmp_path: Path) -> None:
    gate = Gate()
    opened, outbox = approved(tmp_path, [Wrong(partial(gate, 1))], most_waiters=0)
    gate.wait_reached()
    [publication] = outbox.wait_tried("a", 600)  # more than a test may take
    assert (publication.state, publication.error) == (PublicationState.PENDING, None)
    gate.open()
    outbox.close()
    opened.close()


def test_closing_ends_a_wait(tmp_path: Path) -> None:
    gate = Gate()
    opened, outbox = approved(tmp_path, [Wrong(partial(gate, 1))], Timing(close_s=0))
    gate.wait_reached()
    waiting = threading.Thread(target=outbox.wait_tried, args=("a", 60))
    waiting.start()
    outbox.close()
    waiting.join(30)
    assert not waiting.is_alive()
    gate.open()
    opened.close()


def test_a_picture_that_is_gone_is_not_published(make_studio: MakeStudio) -> None:
    recorder = Recorder()
    studio = make_studio(publishers=[recorder])
    studio.put_content("a", {"image_url": f"/images/{'0' * 32}.png"})
    studio.approve("a", reviewer_id="ada")
    [record] = studio.publications("a", wait_s=30)
    assert record.state is PublicationState.PENDING
    assert "is gone" in (record.error or "")
    assert recorder.seen.empty()


def test_a_picture_that_is_damaged_since_its_approval_is_not_published(
    make_studio: MakeStudio,
) -> None:
    studio = make_studio(publishers=[])
    parts, recorder = library(studio), Recorder()
    name = parts.images.save(b"good", "png")
    studio.put_content("a", {})
    approve = partial(
        rule,
        request=DecisionRequest(
            task_id="a", verdict=Verdict.APPROVED, reviewer_id="ada"
        ),
        quorum=read_quorum("any"),
        picture=f"/images/{name}",
        now=dt.datetime.now(dt.UTC),
    )
    [_] = parts.store.decisions.decide([Proposal("a", approve)], ["recorder"])
    path = studio.image_path(name)
    assert path is not None
    path.write_bytes(b"damaged")
    runner = Outbox(parts.store, parts.images, [recorder])
    [record] = runner.wait_tried("a", 30)
    runner.close()
    assert record.state is PublicationState.PENDING
    assert "is damaged" in (record.error or "")
    assert recorder.seen.empty()
    parts.images.save(b"good", "png")
    later = Clock()
    later.now += HOUR
    runner = Outbox(parts.store, parts.images, [recorder], later)
    assert recorder.seen.get(timeout=30).task_id == "a"
    runner.close()


def test_an_attempt_that_ends_late_takes_nothing_back(
    tmp_path: Path, database: str | None
) -> None:
    """Another process took over meanwhile, and published."""
    store = Store(tmp_path, database)
    store.decisions.put_content("a", {}, None)
    with Studio(
        tmp_path, engine=PatternEngine(), database=database, publishers=[Recorder()]
    ) as studio:
        studio.approve("a", reviewer_id="ada")
        assert states(studio) == [("published", 1, "https://x.org/a")]
    [record] = store.publications.list_publications("a")
    late = msgspec.structs.replace(record, state=PublicationState.PENDING)
    store.publications.postpone_publication(late, "timed out", record.next_at)
    assert store.publications.list_publications("a") == [record]
    store.close()


@pytest.mark.parametrize("name", ["", " ", "x" * 201, None])
def test_a_publisher_has_a_name_that_can_be_kept(
    make_studio: MakeStudio, name: Any
) -> None:
    with pytest.raises(InvalidRequest, match="name of a publisher"):
        make_studio(publishers=[Recorder(name)])


def test_names_are_given_once(tmp_path: Path, make_studio: MakeStudio) -> None:
    two = [FolderPublisher(tmp_path / name) for name in ("x", "y")]
    with pytest.raises(InvalidRequest, match="give them with name="):
        make_studio(publishers=two)
    named = [FolderPublisher(tmp_path / name, name=name) for name in ("x", "y")]
    make_studio(publishers=named)


def test_a_database_that_fails_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = decidable_store(tmp_path, None)
    asked = threading.Event()

    def fail(*_args: Any, **_options: Any) -> None:
        asked.set()
        raise OSError("gone")

    recorder, images = Recorder(), open_images(tmp_path / "images")
    failing = [Recorder(failures=1)]
    with Studio(tmp_path, engine=PatternEngine(), publishers=failing) as studio:
        studio.approve("a", reviewer_id="ada")
        assert states(studio) == [("pending", 1, None)]
    later = Clock()
    later.now += HOUR
    with monkeypatch.context() as patch, caplog.at_level("CRITICAL", "nbgen"):
        patch.setattr(store.publications, "take_publication", fail)
        runner = Outbox(store, images, [recorder], later)
        assert asked.wait(30)
    runner.wake()
    assert recorder.seen.get(timeout=30).task_id == "a"
    runner.close()
    store.close()


APPROVE_FOR_EVER = """
import itertools, sys
from nbgen.review.publishers import FolderPublisher
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

folder, database = sys.argv[1:]
publisher = FolderPublisher(folder + "/out")
studio = Studio(
    folder, engine=PatternEngine(), database=database or None, publishers=[publisher]
)
for number in itertools.count():
    studio.put_content(f"t{number}", {"image_url": "https://x.org/a.png"})
    studio.approve(f"t{number}", reviewer_id="ada")
    print(f"t{number}", flush=True)
"""


def test_a_kill_loses_no_decision_and_no_publication(
    tmp_path: Path, database: str | None
) -> None:
    """What was acknowledged is there, and published by whoever comes next."""
    with subprocess.Popen(
        [sys.executable, "-c", APPROVE_FOR_EVER, str(tmp_path), database or ""],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(10)]
        process.kill()
        acknowledged += process.stdout.read().split()
    store = Store(tmp_path, database)
    decided = [decision.task_id for decision in store.decisions.list_decisions(None)]
    assert set(acknowledged) <= set(decided)
    assert len(decided) == len(set(decided))
    later = Clock()
    later.now += HOUR  # past what the dead process had taken
    out = FolderPublisher(tmp_path / "out")
    runner = Outbox(store, open_images(tmp_path / "images"), [out], later)
    for task_id in decided:
        [publication] = runner.wait_tried(task_id, 30)
        assert publication.state is PublicationState.PUBLISHED
        assert (tmp_path / "out" / f"{task_id}.json").is_file()
    runner.close()
    store.close()
