"""Approvals reach their publishers, whatever happens on the way."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.decision import PublicationState
from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.publish import FolderPublisher, Publication
from nbgen.review.publishing import PublicationRunner
from nbgen.schema import Outcome
from nbgen.store import Store, open_images
from nbgen.studio import Studio
from tests.store.test_tasks import NOW, record

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
    assert studio.describe(undone) == "Undone by bob. It is approved by ada again."
    assert studio.get_record("a").decision == approval
    assert [state for state, *_ in states(studio)] == ["published", "published"]
    assert (out.seen.qsize(), down.seen.qsize()) == (1, 1)
    assert down.seen.get().reviewer_id == "ada"


def approved_store(folder: Path, database: str | None) -> Store:
    """Return a store with an approved task, as a process that died left it."""
    studio_store = Store(folder, database)
    studio_store.add_tasks([record()])
    studio_store.end_task("a", Outcome.SUCCEEDED, ended_at=NOW, current_step=1)
    studio_store.put_content("a", {"image_url": "https://x.org/a.png"}, None)
    return studio_store


def test_it_is_tried_again_after_a_restart(
    make_studio: MakeStudio, database: str | None
) -> None:
    """Also if the process died while it published."""
    first = make_studio(database=database, publishers=[Recorder(failures=1)])
    first.generate("a cat", task_id="a").result(30)
    first.approve("a", reviewer_id="ada")
    assert states(first) == [("pending", 1, None)]
    store = first._store
    later = Clock()
    later.now += HOUR
    died = store.take_publication(["recorder"], now=later.now, until=later.now + HOUR)
    assert died is not None
    assert store.take_publication(["recorder"], now=later.now, until=later.now) is None
    later.now += 2 * HOUR
    again = Recorder()
    runner = PublicationRunner(store, first._images, [again], later)
    published = again.seen.get(timeout=30)
    runner.close()
    [ended] = store.list_publications("a")
    assert (published.task_id, published.seed) == ("a", first.get_record("a").seed)
    assert (ended.state, ended.attempts) == (PublicationState.PUBLISHED, 3)


def test_only_what_one_can_publish_is_taken(make_studio: MakeStudio) -> None:
    studio = make_studio(publishers=[Recorder("first")])
    studio.generate("a cat", task_id="a").result(30)
    studio.approve("a", reviewer_id="ada")
    assert states(studio) == [("published", 1, "https://x.org/a")]
    later = dt.datetime.now(dt.UTC) + HOUR
    assert studio._store.take_publication(["other"], now=later, until=later) is None


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


def test_there_is_a_thread_only_with_publishers(make_studio: MakeStudio) -> None:
    make_studio(publishers=[]).close()
    make_studio()
    assert "nbgen-publisher" not in threads()
    studio = make_studio(publishers=[Recorder()])
    assert "nbgen-publisher" in threads()
    studio.close()
    assert "nbgen-publisher" not in threads()


def test_names_are_given_once(tmp_path: Path, make_studio: MakeStudio) -> None:
    two = [FolderPublisher(tmp_path / name) for name in ("x", "y")]
    with pytest.raises(InvalidRequest, match="give them with name="):
        make_studio(publishers=two)
    named = [FolderPublisher(tmp_path / name, name=name) for name in ("x", "y")]
    make_studio(publishers=named)


def test_a_database_that_fails_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = approved_store(tmp_path, None)
    asked = threading.Event()

    def fail(*_args: Any, **_options: Any) -> None:
        asked.set()
        raise OSError("gone")

    with monkeypatch.context() as patch, caplog.at_level("CRITICAL", "nbgen"):
        patch.setattr(store, "take_publication", fail)
        recorder = Recorder()
        images = open_images(tmp_path / "images")
        runner = PublicationRunner(store, images, [recorder])
        assert asked.wait(30)
    runner.wake()
    runner.close()
    store.close()


APPROVE_FOR_EVER = """
import itertools, sys
from nbgen.review.publish import FolderPublisher
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

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
    decided = [decision.task_id for decision in store.list_decisions(None)]
    assert set(acknowledged) <= set(decided)
    assert len(decided) == len(set(decided))
    later = Clock()
    later.now += HOUR  # past what the dead process had taken
    out = FolderPublisher(tmp_path / "out")
    runner = PublicationRunner(store, open_images(tmp_path / "images"), [out], later)
    for task_id in decided:
        [publication] = runner.wait_tried(task_id, 30)
        assert publication.state is PublicationState.PUBLISHED
        assert (tmp_path / "out" / f"{task_id}.json").is_file()
    runner.close()
    store.close()
