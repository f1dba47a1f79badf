"""``Keeping``: tasks are deleted whole, and all that is kept is backed up."""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest

from nbgen.backend import Backend
from nbgen.errors import (
    BackupElsewhere,
    DataFolderUnusable,
    ForeignPictures,
    InvalidRequest,
    TaskNotEnded,
    TaskProtected,
    UnknownBatch,
    UnknownImage,
    UnknownTask,
)
from nbgen.review.publishers import Publication
from nbgen.schema import (
    Changes,
    GenerationProgress,
    OldTasks,
    Outcome,
    PublicationState,
    Status,
    TaskQuery,
    Verdict,
)
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    asks,
    decide,
    hold,
    local_only,
    made,
    png,
    says,
    submit,
)

MakeOld = Callable[[Backend, str], None]


class Publisher:
    """Publishes at once."""

    name = "site"

    def publish(self, _publication: Publication) -> str:
        return "https://site.example/1"


def is_known(backend: Backend, task_id: str) -> bool:
    return task_id in [record.id for record in backend.list_tasks(TaskQuery())]


def old(**fields: Any) -> OldTasks:
    return OldTasks(older_than=dt.timedelta(), **fields)


def test_a_deleted_task_is_gone_with_all_that_was_known_of_it(
    backend: Backend,
) -> None:
    made(backend, "a", "b")
    decide(backend, says("a", "ada", Verdict.REJECTED, feedback="Dull"))
    backend.put_content("a", {"title": "A"})
    backend.put_content("c", {"title": "C"})
    backend.delete(["a", "c", "a"])
    with pytest.raises(UnknownTask):
        backend.ended("a")
    with pytest.raises(UnknownTask):
        backend.get_progress("a")
    with pytest.raises(UnknownTask):
        backend.get_tasks(["a"])
    with pytest.raises(UnknownTask):
        backend.review("a")
    for task_id in ("a", "c"):
        with pytest.raises(UnknownTask):
            backend.get_content(task_id)
    assert backend.decisions(None) == []
    found = backend.list_tasks(TaskQuery(text="a cat"))
    assert [record.id for record in found] == ["b"]


def test_a_deleted_id_is_free_again(backend: Backend) -> None:
    made(backend, "a")
    decide(backend, says("a", "ada", Verdict.REJECTED, feedback="Dull"))
    backend.delete(["a"])
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("a", states.put)
    submit(backend, "a", prompt="a dog")
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert states.get(timeout=WAIT_S).status is Status.PENDING
    [record] = backend.get_tasks(["a"])
    assert (record.request.prompt, record.version) == ("a dog", 0)
    first = decide(backend, says("a", "bob"))
    assert first.version == 1


def test_all_tasks_are_deleted_or_none(backend: Backend) -> None:
    made(backend, "a")
    with pytest.raises(UnknownTask, match="'gone'"):
        backend.delete(["a", "gone"], force=True)
    assert is_known(backend, "a")
    backend.delete([])


def test_a_task_that_waits_or_runs_is_not_deleted(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "waits")
    for task_id in ("waits", "runs"):
        with pytest.raises(TaskNotEnded, match=f"'{task_id}'.*cancel it"):
            backend.delete([task_id], force=True)
    backend.cancel(["waits"])
    backend.delete(["waits"])
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    backend.delete(["runs"])
    assert backend.list_tasks(TaskQuery()) == []


def test_an_approved_task_is_deleted_only_by_force(backend: Backend) -> None:
    made(backend, "a")
    backend.put_content("c", {"image": "https://site.example/cat.png"})
    for task_id in ("a", "c"):
        decide(backend, says(task_id, "ada"))
        with pytest.raises(TaskProtected, match=r"approved by ada.*--force"):
            backend.delete([task_id])
        backend.delete([task_id], force=True)
    assert not is_known(backend, "a")


def test_half_of_a_quorum_protects_nothing(make_backend: MakeBackend) -> None:
    backend = make_backend(quorum="2")
    made(backend, "a", "b")
    for task_id, reviewer_id in (("a", "ada"), ("b", "ada"), ("b", "bob")):
        decide(backend, says(task_id, reviewer_id))
    with pytest.raises(TaskProtected):
        backend.delete(["a", "b"])
    backend.delete(["a"])


def test_a_published_task_is_deleted_only_by_force(make_backend: MakeBackend) -> None:
    backend = make_backend(publishers=[Publisher()])
    made(backend, "a")
    decide(backend, says("a", "ada"))
    [published] = backend.publications("a", wait_s=WAIT_S)
    assert published.state is PublicationState.PUBLISHED
    backend.undo("a", reviewer_id="ada")
    with pytest.raises(TaskProtected, match=r"published by site.*--force"):
        backend.delete(["a"])
    assert backend.delete_old(old(), dry_run=False) == []
    backend.delete(["a"], force=True)
    assert backend.publications("a") == []


def test_what_becomes_of_a_deleted_task_says_nothing_of_another(
    make_backend: MakeBackend,
) -> None:
    """Another may be decided on before the publisher has returned."""
    decided = Event()

    class Slow(Publisher):
        def publish(self, publication: Publication) -> str:
            if publication.task_id == "a":
                backend.delete(["a"], force=True)
                decide(backend, says("b", "ada"))
                decided.set()
            return f"https://site.example/{publication.task_id}"

    backend = make_backend(publishers=[Slow()])
    made(backend, "a", "b")
    first = decide(backend, says("a", "ada"))
    assert decided.wait(WAIT_S)
    [of_b] = backend.publications("b", wait_s=WAIT_S)
    assert (of_b.url, of_b.attempts) == ("https://site.example/b", 1)
    assert of_b.decision > first.sequence


def test_a_task_may_be_deleted_while_it_is_published(
    make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    deleted = Event()

    class Deleter(Publisher):
        def publish(self, publication: Publication) -> str:
            if publication.task_id == "a":
                backend.delete(["a"], force=True)
                deleted.set()
            return super().publish(publication)

    backend = make_backend(publishers=[Deleter()])
    made(backend, "a", "b")
    decide(backend, says("a", "ada"))
    assert deleted.wait(WAIT_S)
    decide(backend, says("b", "ada"))
    [published] = backend.publications("b", wait_s=WAIT_S)
    assert published.state is PublicationState.PUBLISHED
    assert not is_known(backend, "a")
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_a_deleted_child_is_none_to_the_decision_that_asked_for_it(
    backend: Backend,
) -> None:
    made(backend, "a")
    asked = says("a", "ada", Verdict.CHANGES_REQUESTED, feedback="bluer")
    child = backend.request_changes(asked, prompt="a blue cat")
    assert child is not None
    backend.ended(child.id).result(WAIT_S)
    backend.delete([child.id])
    assert backend.decisions("a")[0].child_id is None
    assert backend.request_changes(asked, prompt="a blue cat") is None


def test_children_of_a_deleted_task_stay(backend: Backend) -> None:
    made(backend, "a")
    child = changed(backend, "a")
    grandchild = changed(backend, child)
    backend.delete(["a"])
    assert backend.get_tasks([child])[0].parent_id is None
    assert backend.get_tasks([grandchild])[0].parent_id == child
    backend.delete([child, grandchild])
    assert backend.list_tasks(TaskQuery()) == []


def changed(backend: Backend, task_id: str) -> str:
    """Have a task changed, and return the id of the one that was made of it."""
    asked = says(task_id, "ada", Verdict.CHANGES_REQUESTED, feedback="bluer")
    child = backend.request_changes(asked, prompt=None)
    assert child is not None
    assert backend.ended(child.id).result(WAIT_S).outcome is Outcome.SUCCEEDED
    return child.id


def test_a_row_whose_first_task_was_deleted_is_left_alone(backend: Backend) -> None:
    rows = {"cat": asks("a cat")}
    backend.submit_batch("pets", rows, priority=0)
    backend.ended("pets:cat").result(WAIT_S)
    child = changed(backend, "pets:cat")
    backend.delete(["pets:cat"])
    backend.submit_batch("pets", rows, priority=0)
    assert [row.task_id for row in backend.batch_rows("pets")] == [child]
    assert len(backend.list_tasks(TaskQuery())) == 1


def test_deletions_are_told_in_the_feed(backend: Backend) -> None:
    made(backend, "a")
    backend.put_content("a", {})
    told: SimpleQueue[Changes] = SimpleQueue()
    backend.watch_changes(told.put)
    told.get(timeout=WAIT_S)
    backend.delete(["a"])
    backend.put_content("end", {})
    seen: list[tuple[str, str, str]] = []
    while ("content", "end", "known") not in seen:
        news = told.get(timeout=WAIT_S).changes
        seen += [(change.kind.value, change.id, change.state) for change in news]
    assert seen[:-1] == [("task", "a", "deleted"), ("content", "a", "deleted")]


def test_rows_of_a_batch_go_with_their_tasks(backend: Backend) -> None:
    rows = {"cat": asks("a cat"), "dog": asks("a dog")}
    backend.submit_batch("pets", rows, priority=0)
    for name in rows:
        backend.ended(f"pets:{name}").result(WAIT_S)
    child = changed(backend, "pets:cat")
    assert [row.task_id for row in backend.batch_rows("pets")] == [child, "pets:dog"]
    place = backend.changed_rows("pets", None).position
    backend.delete([child])
    rest = backend.changed_rows("pets", place)
    assert rest.is_whole
    assert [row.task_id for row in rest.rows] == ["pets:cat", "pets:dog"]
    backend.delete(["pets:cat", "pets:dog"])
    with pytest.raises(UnknownBatch):
        backend.batch_rows("pets")


def test_pages_go_on_after_a_deletion(backend: Backend) -> None:
    made(backend, *"abcde")
    page = backend.list_tasks(TaskQuery(limit=2))
    assert [record.id for record in page] == ["e", "d"]
    backend.delete(["a", "d"])
    rest = backend.list_tasks(TaskQuery(limit=2, cursor=page.next_cursor))
    assert [record.id for record in rest] == ["c", "b"]
    assert rest.next_cursor is None


def test_a_picture_goes_once_nothing_refers_to_it(
    backend: Backend, make_old: MakeOld
) -> None:
    own, shared = (backend.keep_picture("image", png(c)) for c in ("red", "blue"))
    backend.submit(asks(image=own, mask=shared), task_id="a", priority=0)
    backend.submit(asks(image=shared), task_id="b", priority=0)
    results = [backend.ended(task_id).result(WAIT_S).result for task_id in "ab"]
    assert None not in results
    for name in (own, shared):
        make_old(backend, name)
    assert backend.collect_garbage(dry_run=False) == []
    backend.delete(["a"])
    assert own in backend.collect_garbage(dry_run=False)
    with pytest.raises(UnknownImage):
        backend.read_picture(own)
    assert backend.read_picture(shared)


@local_only
def test_other_processes_forget_a_deleted_task(make_backend: MakeBackend) -> None:
    backend = make_backend()
    other = make_backend()
    made(backend, "a")
    other.delete(["a"])
    with pytest.raises(UnknownTask):
        backend.get_progress("a")
    with pytest.raises(UnknownTask):
        backend.ended("a")


@local_only
def test_a_deleted_id_may_be_used_again_elsewhere(make_backend: MakeBackend) -> None:
    backend = make_backend()
    made(backend, "a")
    other = make_backend()
    other.delete(["a"])
    submit(other, "a", prompt="a dog")
    end = other.ended("a").result(WAIT_S)
    assert end.outcome is Outcome.SUCCEEDED
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("a", states.put)
    assert states.get(timeout=WAIT_S).result == end.result
    assert backend.get_progress("a").result == end.result


def test_old_tasks_are_found_before_they_are_deleted(backend: Backend) -> None:
    made(backend, "a", "b")
    assert backend.delete_old(old()) == ["a", "b"]
    assert is_known(backend, "a")
    young = OldTasks(older_than=dt.timedelta(hours=1))
    assert backend.delete_old(young, dry_run=False) == []
    long = OldTasks(older_than=dt.timedelta.max)
    assert backend.delete_old(long, dry_run=False) == []
    assert backend.delete_old(old(), dry_run=False) == ["a", "b"]
    with pytest.raises(UnknownTask):
        backend.get_progress("a")
    assert backend.delete_old(old(), dry_run=False) == []


def test_old_tasks_are_chosen_by_what_became_of_them(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "cancelled")
    submit(backend, "waits")
    backend.cancel(["cancelled"])
    backend.pause()
    gate.open()
    assert backend.ended("runs").result(WAIT_S).outcome is Outcome.SUCCEEDED
    backend.put_content("elsewhere", {})
    assert backend.delete_old(old()) == ["runs", "cancelled"]
    assert backend.delete_old(old(failed=True)) == ["cancelled"]
    assert backend.delete_old(old(rejected=True)) == []
    decide(backend, says("runs", "ada", Verdict.REJECTED, feedback="Dull"))
    assert backend.delete_old(old(rejected=True)) == ["runs"]
    assert backend.delete_old(old(rejected=True, failed=True)) == [
        "runs",
        "cancelled",
    ]
    backend.undo("runs", reviewer_id="ada")
    decide(backend, says("runs", "ada"))
    assert backend.delete_old(old()) == ["cancelled"]


def test_old_tasks_are_cleared_up_with_their_pictures(
    backend: Backend, make_old: MakeOld
) -> None:
    own, spare = (backend.keep_picture("image", png(c)) for c in ("red", "blue"))
    backend.submit(asks(image=own), task_id="a", priority=0)
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    for name in (own, spare):
        make_old(backend, name)
    found = backend.clear_up(old())
    assert (found.tasks, set(found.files)) == (("a",), {spare})
    assert is_known(backend, "a")
    assert backend.clear_up(None, dry_run=False) == ((), (spare,))
    assert is_known(backend, "a")
    done = backend.clear_up(old(), dry_run=False)
    assert done.tasks == ("a",)
    assert own in done.files
    assert not is_known(backend, "a")
    assert backend.clear_up(old(), dry_run=False) == ((), ())


@local_only
def test_no_task_is_deleted_where_its_pictures_may_be_anothers(
    backend: Backend,
) -> None:
    [record] = made(backend, "a")
    assert record.result is not None
    path = backend.picture_path(record.result.images[0].name)
    assert path is not None
    (path.parent / f"owner-{'0' * 32}").touch()
    for dry_run in (True, False):
        with pytest.raises(ForeignPictures):
            backend.clear_up(old(), dry_run=dry_run)
    assert is_known(backend, "a")
    assert backend.clear_up(None, dry_run=False) == ((), ())  # nothing is garbage


@pytest.mark.parametrize(
    "fields",
    [{"older_than": dt.timedelta(-1)}, {"older_than": 90}, {"rejected": "yes"}],
    ids=str,
)
def test_what_is_old_is_checked(fields: Any) -> None:
    with pytest.raises(InvalidRequest):
        OldTasks(**{"older_than": dt.timedelta(), **fields})


@pytest.mark.parametrize("kind", ["memory", "postgresql"], indirect=True)
def test_a_backup_is_not_of_what_is_elsewhere(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BackupElsewhere):
        backend.backup(tmp_path / "backup.zip")
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_backup_replaces_a_file_only_by_force(
    backend: Backend, tmp_path: Path
) -> None:
    made(backend, "a")
    path = tmp_path / "backup.zip"
    path.write_text("precious")
    with pytest.raises(InvalidRequest, match="--force"):
        backend.backup(path)
    with pytest.raises(InvalidRequest, match="can be written"):
        backend.backup(tmp_path / "no folder" / "backup.zip")
    assert path.read_text() == "precious"
    assert backend.backup(path, force=True) == (1, 1, ())
    assert path.read_bytes().startswith(b"PK")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup.zip", "data"]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_no_backup_is_made_of_a_damaged_database(
    backend: Backend, tmp_path: Path
) -> None:
    made(backend, "a")
    with closing(sqlite3.connect(tmp_path / "data" / "nbgen.sqlite")) as connection:
        connection.execute("UPDATE tasks SET request = '{'")
        connection.commit()
    with pytest.raises(DataFolderUnusable, match="nbgen restore FILE"):
        backend.backup(tmp_path / "backup.zip")
    assert not (tmp_path / "backup.zip").exists()
