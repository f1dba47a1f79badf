"""Backups: made while studios work, and restored into a folder of their own."""

from __future__ import annotations

import datetime as dt
import os
import re
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import pytest
import sqlalchemy as sa

from nbgen.errors import BackupElsewhere, InvalidRequest
from nbgen.keeping import restore
from nbgen.schema import Changes, Position
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests import postgresql

QUEUE_PAGE = Path(__file__).parent.parent / "docs" / "queue.md"
WAIT_S = 30.0


def opened(folder: Path, gate: Gate | None = None) -> Studio:
    return Studio(folder, "tiny", engine=PatternEngine(gate), publishers=())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a backup of one task, which was approved, and its picture."""
    with opened(tmp_path / "data") as studio:
        studio.generate("a cat", task_id="a", seed=1, num_inference_steps=2).result(20)
        studio.approve("a", reviewer_id="ada")
        assert studio.backup(tmp_path / "backup.zip") == (1, 1, ())
    return tmp_path / "backup.zip"


def begins(studio: Studio, since: Position | None = None) -> Changes:
    told: SimpleQueue[Changes] = SimpleQueue()
    stop = studio.watch_changes(told.put, since=since)
    first = told.get(timeout=WAIT_S)
    news = first if since is None else told.get(timeout=WAIT_S)
    stop()
    return news


def test_what_was_acknowledged_before_a_backup_is_in_it(tmp_path: Path) -> None:
    """Another thread submits and decides all the while."""
    acknowledged: list[str] = []
    enough, stop = Event(), Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            task_id = f"t{number}"
            task = studio.generate(
                "a cat", task_id=task_id, seed=number, num_inference_steps=1
            )
            task.result(WAIT_S)
            studio.approve(task_id, reviewer_id="ada")
            acknowledged.append(task_id)
            number += 1
            if number == 10:
                enough.set()

    with opened(tmp_path / "data") as studio:
        worker = Thread(target=work)
        worker.start()
        assert enough.wait(WAIT_S)
        before = list(acknowledged)
        done = studio.backup(tmp_path / "backup.zip")
        stop.set()
        worker.join(WAIT_S)
    assert done.missing == ()
    restore(tmp_path / "backup.zip", tmp_path / "new")
    with opened(tmp_path / "new") as again:
        records = again.get_records(before)
        assert {record.approval_status.value for record in records} == {"approved"}
        found = again.tasks(limit=1_000)
        assert len(found) == done.tasks
        for record in found:
            for image in record.result.images if record.result else ():
                assert again.read_image(image.name)


def test_tasks_that_waited_and_ran_are_taken_over(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    with opened(tmp_path / "data", gate) as studio:
        studio.generate("a cat", task_id="runs", num_inference_steps=3)
        gate.wait_reached()
        studio.generate("a dog", task_id="waits", num_inference_steps=3)
        # Its owner lives, and has nothing to do with the copy.
        studio.backup(tmp_path / "backup.zip")
        restore(tmp_path / "backup.zip", tmp_path / "new")
        with opened(tmp_path / "new") as again:
            assert again.task("waits").result(WAIT_S).images
            assert again.get_record("runs").outcome == "lost"
        gate.open()
        assert studio.task("runs").result(WAIT_S).images


def test_a_restored_folder_can_be_cleared_up(kept: Path, tmp_path: Path) -> None:
    restore(kept, tmp_path / "new")
    with opened(tmp_path / "new") as studio:
        names = [image.name for image in studio.task("a").result(0).images]
        orphan = studio.keep_picture("image", studio.read_image(names[0]) + b"\0")
        for name in (*names, orphan):
            os.utime(tmp_path / "new" / "images" / name, (0, 0))
        assert studio.collect_garbage(dry_run=False) == [orphan]
        assert studio.read_image(names[0])


def test_a_copy_is_cleared_up_before_it_has_made_a_picture(
    kept: Path, tmp_path: Path
) -> None:
    restore(kept, tmp_path / "new")
    pictures = tmp_path / "new" / "images"
    orphan = pictures / f"{'0' * 32}.png"
    orphan.touch()
    os.utime(orphan, (0, 0))
    with Studio.open_library(tmp_path / "new") as studio:
        assert studio.collect_garbage(dry_run=False) == [orphan.name]
    [mark] = pictures.glob("owner-*")
    [original] = (tmp_path / "data" / "images").glob("owner-*")
    assert mark.name != original.name


def test_who_followed_the_original_reads_a_copy_anew(
    kept: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "data") as studio:
        place = begins(studio).position
    restore(kept, tmp_path / "new")
    with opened(tmp_path / "new") as studio:
        news = begins(studio, since=place)
    assert news.missed
    assert news.position.epoch != place.epoch


def test_a_backup_is_one_file_that_any_program_unpacks(
    kept: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(kept) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert names[0] == "nbgen.sqlite"
    assert {name.partition("/")[0] for name in names[1:]} == {"images"}
    with sqlite3.connect(tmp_path / "unpacked" / "nbgen.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_picture_that_is_gone_is_named(kept: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "data") as studio:
        [image] = studio.task("a").result(0).images
        (tmp_path / "data" / "images" / image.name).unlink()
        done = studio.backup(kept, force=True)
    assert done == (1, 0, (image.name,))


def test_a_damaged_picture_is_named_and_left_out(kept: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "data") as studio:
        [image] = studio.task("a").result(0).images
        (tmp_path / "data" / "images" / image.name).write_bytes(b"scratched")
        done = studio.backup(kept, force=True)
    assert done == (1, 0, (image.name,))
    with zipfile.ZipFile(kept) as archive:
        assert f"images/{image.name}" not in archive.namelist()


def test_a_picture_of_another_host_is_not_missing(tmp_path: Path) -> None:
    elsewhere = f"https://site.example/images/{'0' * 32}.png"
    with opened(tmp_path / "data") as studio:
        studio.put_content("c", {"image": elsewhere})
        assert studio.backup(tmp_path / "backup.zip") == (0, 0, ())


def test_a_backup_that_fails_leaves_what_was_there(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with (
        opened(tmp_path / "data") as studio,
        pytest.raises(InvalidRequest, match="No space left"),
    ):
        studio.backup(kept, force=True)
    assert kept.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup.zip", "data"]


def test_pictures_at_a_url_are_not_backed_up(tmp_path: Path) -> None:
    with (
        Studio(
            tmp_path / "data",
            "tiny",
            engine=PatternEngine(),
            images="memory://backup-of-a-bucket",
        ) as studio,
        pytest.raises(BackupElsewhere, match="at a URL"),
    ):
        studio.backup(tmp_path / "backup.zip")


def test_a_backup_is_restored_into_an_empty_folder(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    assert restore(kept, folder) == folder
    with pytest.raises(InvalidRequest, match="new or empty"):
        restore(kept, folder)
    with pytest.raises(InvalidRequest, match="new or empty"):
        Studio.restore(kept, tmp_path / "data")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidRequest, match="folder"):
        restore(kept, file)


def cut(data: bytes) -> bytes:
    return data[:-100]


def scratch(data: bytes) -> bytes:
    """Change a byte of the picture, which is not packed."""
    place = data.index(b"\x89PNG") + 200
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [cut, scratch])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_damaged_backup_is_not_restored(
    kept: Path, tmp_path: Path, damage: Callable[[bytes], bytes], *, is_there: bool
) -> None:
    kept.write_bytes(damage(kept.read_bytes()))
    folder = tmp_path / "new"
    if is_there:
        folder.mkdir()
    with pytest.raises(InvalidRequest, match="whole backup"):
        restore(kept, folder)
    assert folder.exists() == is_there
    assert not is_there or list(folder.iterdir()) == []


def test_another_zip_is_no_backup(kept: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(kept, "a") as archive:
        archive.writestr("../evil", b"")
    with pytest.raises(InvalidRequest, match="something else"):
        restore(kept, tmp_path / "new")
    with pytest.raises(InvalidRequest, match="No such file"):
        restore(tmp_path / "gone.zip", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_the_statements_on_the_page_begin_another_feed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    statements = re.findall(r"UPDATE feed .*;", QUEUE_PAGE.read_text())
    statement = dict(zip(["postgresql", "sqlite"], statements, strict=True))[kind]
    server: postgresql.Server | None = None
    url = f"sqlite:///{tmp_path / 'nbgen.sqlite'}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        url = server.new_database()
    try:
        with Studio(tmp_path, "tiny", engine=PatternEngine(), database=url) as studio:
            place = begins(studio).position
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.execute(sa.text(statement))
            engine.dispose()
            news = begins(studio, since=place)
        assert news.missed
        assert re.fullmatch(r"[0-9a-f]{32}", news.position.epoch)
        assert news.position.epoch != place.epoch
    finally:
        if server is not None:
            server.drop_database(url)


def test_one_task_or_several_are_deleted(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as studio:
        for task_id in ("one", "two", "three"):
            task = studio.generate("a cat", task_id=task_id, num_inference_steps=1)
            task.result(20)
        studio.delete("one")
        studio.delete(task_id for task_id in ("two",))
        assert [record.id for record in studio.tasks()] == ["three"]
        age = dt.timedelta()
        assert studio.delete_old(older_than=age) == ("three",)
        assert studio.delete_old(older_than=age, dry_run=False) == ("three",)
        assert studio.tasks() == []


def test_a_batch_goes_on_without_its_deleted_rows(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as studio:
        task = studio.generate("a cat", num_inference_steps=1)
        task.result(20)
        request = studio.get_record(task.id).request
        batch = studio.submit_batch({"x": request, "y": request}, batch_id="b")
        batch.result(20)
        studio.delete("b:x")
        assert batch.task_ids == ["b:y"]
        assert batch.progress.total == 1
def test_a_clearing_up_deletes_old_tasks_and_their_pictures(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as studio:
        [image] = studio.generate("a cat", task_id="a").result(20).images
        os.utime(tmp_path / "data" / "images" / image.name, (0, 0))
        assert studio.clear_up() == ((), ())
        age = dt.timedelta()
        assert studio.clear_up(older_than=age).tasks == ("a",)
        assert studio.clear_up(older_than=age, failed=True, dry_run=False) == ((), ())
        with pytest.raises(InvalidRequest, match="older_than must be an age"):
            studio.clear_up(rejected=True, dry_run=False)
        done = studio.clear_up(older_than=age, dry_run=False)
        assert (done.tasks, done.files) == (("a",), (image.name,))
        assert studio.tasks() == []


