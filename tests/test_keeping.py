"""Backups: made while studios work, and restored into a folder of their own."""

from __future__ import annotations

import datetime as dt
import os
import re
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import IO, Any

import pytest
import sqlalchemy as sa
from PIL import Image

from nbgen.errors import (
    BackupElsewhere,
    DataFolderUnusable,
    InvalidRequest,
)
from nbgen.images import FolderImages
from nbgen.keeping import restore
from nbgen.schema import Changes, Position
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests import postgresql
from tests.parts import until

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


def test_tasks_that_waited_and_ran_are_offered(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    with opened(tmp_path / "data", gate) as studio:
        studio.generate("a cat", task_id="runs", num_inference_steps=3)
        gate.wait_reached()
        studio.generate("a dog", task_id="waits", num_inference_steps=3)
        # Its owner lives, and has nothing to do with the copy.
        studio.backup(tmp_path / "backup.zip")
        restore(tmp_path / "backup.zip", tmp_path / "new")
        with opened(tmp_path / "new") as again:
            until(again, lambda: again.offered() == ["runs", "waits"])
            again.run_offered()
            for task_id in ("runs", "waits"):
                assert again.task(task_id).result(WAIT_S).images
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
    mark, database, picture = names
    assert re.fullmatch("images/owner-[0-9a-f]{32}", mark)
    assert (database, picture[:7], picture[-4:]) == ("nbgen.sqlite", "images/", ".png")
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


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_kept(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FolderImages.read
    with opened(tmp_path / "data") as studio:
        [bad] = studio.task("a").result(0).images
        studio.generate("a dog", task_id="b", num_inference_steps=1).result(20)

        def fail(self: FolderImages, name: str) -> bytes | None:
            if name == bad.name:
                raise PermissionError(13, "Permission denied")
            return read(self, name)

        monkeypatch.setattr(FolderImages, "read", fail)
        assert studio.backup(kept, force=True) == (2, 1, (bad.name,))


def test_each_picture_is_read_once(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens: Counter[str] = Counter()
    really_open = Path.open

    def note(self: Path, *args: Any, **options: Any) -> Any:
        opens[self.name] += 1
        return really_open(self, *args, **options)

    with Studio.open_library(tmp_path / "data") as studio:
        [image] = studio.task("a").result(0).images
        monkeypatch.setattr(Path, "open", note)
        studio.backup(kept, force=True)
    assert opens[image.name] == 1


@pytest.mark.parametrize(
    "place",
    [
        "nbgen.sqlite",
        "nbgen.sqlite-wal",
        "nbgen.sqlite-shm",
        "images/backup.zip",
        "images/new/backup.zip",
        "images",
        "images/../nbgen.sqlite",
        ".",
        "",
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_a_backup_takes_the_place_of_nothing_that_it_keeps(
    kept: Path, tmp_path: Path, place: str, *, force: bool
) -> None:
    del kept
    folder = tmp_path / "data"
    with opened(folder) as studio:
        assert (folder / "nbgen.sqlite-wal").exists()
        # Not the marks of processes, which come and go.
        before = {
            path
            for path in folder.rglob("*")
            if not {"followers", "owners"} & set(path.parts)
        }
        with pytest.raises(InvalidRequest, match="path must be a file"):
            studio.backup(folder / place if place else "", force=force)
        studio.put_content("c", {})
        assert set(folder.rglob("*")) >= before
    with opened(folder) as again:
        assert again.get_content("c").task_id == "c"
        assert again.task("a").pictures[0].read()


def test_a_backup_follows_no_link_to_the_database(kept: Path, tmp_path: Path) -> None:
    kept.unlink()
    kept.symlink_to(tmp_path / "data" / "nbgen.sqlite")
    with (
        opened(tmp_path / "data") as studio,
        pytest.raises(InvalidRequest, match="neither the database"),
    ):
        studio.backup(kept, force=True)
    kept.unlink()
    kept.hardlink_to(tmp_path / "data" / "nbgen.sqlite")
    with (
        opened(tmp_path / "data") as studio,
        pytest.raises(InvalidRequest, match="neither the database"),
    ):
        studio.backup(kept, force=True)


def test_a_backup_replaces_no_file_that_appears_meanwhile(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.unlink()
    add = zipfile.ZipFile.writestr

    def appear(self: zipfile.ZipFile, *args: Any, **options: Any) -> None:
        kept.write_text("precious")
        add(self, *args, **options)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", appear)
    with (
        opened(tmp_path / "data") as studio,
        pytest.raises(InvalidRequest, match="a file that does not exist yet"),
    ):
        studio.backup(kept)
    assert kept.read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup.zip", "data"]


def scribble(file: Path) -> None:
    """Write over all pages but the first."""
    with file.open("r+b") as database:
        database.seek(4_096)
        database.write(b"\xff" * (file.stat().st_size - 4_096))


def break_a_row(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE tasks SET request = '{'")
        connection.commit()


@pytest.mark.parametrize("damage", [scribble, break_a_row])
def test_a_damaged_database_is_not_backed_up(
    kept: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    before = kept.read_bytes()
    with Studio.open_library(tmp_path / "data") as studio:
        damage(tmp_path / "data" / "nbgen.sqlite")
        with pytest.raises(
            DataFolderUnusable,
            match=r"The database .*ed.*nbgen restore FILE.*pictures.*safe.*\.recover",
        ):
            studio.backup(kept, force=True)
    assert kept.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup.zip", "data"]


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (sqlite3.SQLITE_IOERR_READ, DataFolderUnusable, "Check its disk"),
        (sqlite3.SQLITE_CORRUPT, DataFolderUnusable, "is damaged. Close all of nbgen"),
        (sqlite3.SQLITE_FULL, InvalidRequest, "path must be a file that can be"),
        (sqlite3.SQLITE_IOERR_WRITE, InvalidRequest, "path must be a file that can be"),
    ],
)
def test_a_failure_of_the_database_is_not_blamed_on_the_file(
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
    told: str,
) -> None:
    def fail(*_: object) -> None:
        failure = sqlite3.OperationalError("disk I/O error")
        failure.sqlite_errorcode = code
        raise failure

    monkeypatch.setattr("nbgen.store.backup._copy", fail)
    with (
        Studio.open_library(tmp_path / "data") as studio,
        pytest.raises(error, match=told) as caught,
    ):
        studio.backup(kept, force=True)
    assert ".part" not in str(caught.value)


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
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidRequest, match=r"path must be a backup that exists .*'gone\.zip'\.$"
    ):
        restore("gone.zip", tmp_path / "new")
    with pytest.raises(InvalidRequest, match="path must be a backup that can be read"):
        restore(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def pack_again(backup: Path) -> None:
    """Pack a backup as other programs do: the folder too, and the mark last."""
    with zipfile.ZipFile(backup) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(backup, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("images")
        for name in sorted(files, key=lambda name: "owner-" in name):
            archive.writestr(name, files[name])


def test_a_backup_that_another_program_packed_again_is_restored(
    kept: Path, tmp_path: Path
) -> None:
    pack_again(kept)
    restore(kept, tmp_path / "new")
    with opened(tmp_path / "new") as studio:
        assert studio.task("a").pictures[0].read()


def test_a_backup_with_a_password_is_refused(kept: Path, tmp_path: Path) -> None:
    data = bytearray(kept.read_bytes())
    for entry in re.finditer(rb"PK\x01\x02", bytes(data)):
        data[entry.start() + 8] |= 1  # what says so in the list of files
    kept.write_bytes(data)
    with pytest.raises(InvalidRequest, match="a backup without a password"):
        restore(kept, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backup_that_this_python_cannot_unpack_is_refused(
    kept: Path, tmp_path: Path
) -> None:
    data = bytearray(kept.read_bytes())
    for entry in re.finditer(rb"PK\x01\x02", bytes(data)):
        data[entry.start() + 10] = 9  # how the file is packed
    for entry in re.finditer(rb"PK\x03\x04", bytes(data)):
        data[entry.start() + 8] = 9
    kept.write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"whole backup.*not supported"):
        restore(kept, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_names_no_file_that_is_gone_by_then(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x.part"))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InvalidRequest) as caught:
        restore(kept, tmp_path / "new")
    assert str(caught.value) == (
        "folder must be a folder that can be written (No space left on device); "
        f"got {str(tmp_path / 'new')!r}."
    )
    assert not (tmp_path / "new").exists()


def before_unpacking(
    monkeypatch: pytest.MonkeyPatch, part: str, do: Callable[[], None]
) -> None:
    """Have something done just before a file of a backup is unpacked."""
    unpack = zipfile.ZipFile.open

    def note(self: zipfile.ZipFile, name: str, *args: Any, **options: Any) -> IO[bytes]:
        if part in name:
            do()
        return unpack(self, name, *args, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", note)


@pytest.mark.parametrize("part", [".png", "nbgen.sqlite"])
def test_a_studio_that_is_opened_meanwhile_begins_nothing(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    pack_again(kept)
    refused: list[str] = []

    def open_one() -> None:
        with pytest.raises(DataFolderUnusable, match="database is not there") as error:
            opened(tmp_path / "new")
        refused.append(str(error.value))

    before_unpacking(monkeypatch, part, open_one)
    restore(kept, tmp_path / "new")
    assert len(refused) == 1
    with opened(tmp_path / "new") as studio:
        assert studio.task("a").pictures[0].read()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_studio_that_was_opened_before_the_mark_keeps_what_it_made(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    folder = tmp_path / "new"
    if is_there:
        folder.mkdir()

    def make_one() -> None:
        with opened(folder) as studio:
            studio.generate("a dog", task_id="b", num_inference_steps=1).result(20)

    begun: list[str] = []
    before_unpacking(monkeypatch, "owner-", make_one)
    before_unpacking(monkeypatch, ".png", lambda: begun.append("a picture"))
    with pytest.raises(InvalidRequest, match="nobody else uses"):
        restore(kept, folder)
    assert begun == []
    with opened(folder) as studio:
        assert [task.id for task in studio.tasks()] == ["b"]
        assert studio.task("b").pictures[0].read()
        owned = sorted(path.name for path in (folder / "images").iterdir())
        assert len(owned) == 2
        assert owned[0] == studio.task("b").pictures[0].name


def test_a_database_that_was_made_meanwhile_is_not_replaced(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "new" / "nbgen.sqlite"
    before_unpacking(monkeypatch, "nbgen.sqlite", lambda: void(mine.write_text("mine")))
    with pytest.raises(InvalidRequest, match="nobody else uses"):
        restore(kept, mine.parent)
    assert mine.read_text() == "mine"
    assert [path for path in mine.parent.rglob("*") if path.is_file()] == [mine]


def void(_: object) -> None:
    """Leave out what a call returns."""


def test_pictures_are_on_the_disk_before_the_database_is_there(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    synced: set[int] = set()
    really_sync = os.fsync

    def note(handle: int) -> None:
        if not (folder / "nbgen.sqlite").exists():
            synced.add(os.fstat(handle).st_ino)
        really_sync(handle)

    monkeypatch.setattr("os.fsync", note)
    restore(kept, folder)
    pictures = folder / "images"
    wanted = [*pictures.iterdir(), folder / "nbgen.sqlite"]
    if os.name != "nt":
        wanted.append(pictures)
    assert len(wanted) >= 3
    assert {path.stat().st_ino for path in wanted} <= synced


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_the_statements_on_the_page_make_a_database_of_its_own(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    feeds, identities = (
        re.findall(rf"UPDATE {table} .*;", QUEUE_PAGE.read_text())
        for table in ("feed", "identity")
    )
    kinds = ["postgresql", "sqlite"]
    found = dict(zip(kinds, zip(feeds, identities, strict=True), strict=True))
    server: postgresql.Server | None = None
    url = f"sqlite:///{tmp_path / 'nbgen.sqlite'}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        url = server.new_database()
    try:
        with Studio(tmp_path, "tiny", engine=PatternEngine(), database=url) as studio:
            place = begins(studio).position
            name = studio.keep_picture("image", Image.new("RGB", (64, 64)))
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                for statement in found[kind]:
                    connection.execute(sa.text(statement))
                identity = connection.scalar(sa.text("SELECT id FROM identity"))
            engine.dispose()
            news = begins(studio, since=place)
        assert news.missed
        assert re.fullmatch(r"[0-9a-f]{32}", news.position.epoch)
        assert news.position.epoch != place.epoch
        picture = tmp_path / "images" / name
        os.utime(picture, (0, 0))
        [mark] = picture.parent.glob("owner-*")
        with pytest.raises(DataFolderUnusable, match="Put the same database back"):
            Studio(tmp_path, engine=PatternEngine(), database=url)
        mark.rename(mark.with_name(f"owner-{identity}"))
        with Studio(tmp_path, engine=PatternEngine(), database=url) as copy:
            assert copy.collect_garbage() == [name]
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
