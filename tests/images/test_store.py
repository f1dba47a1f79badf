"""Pictures are saved whole, under names that say what is in them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from nbgen.errors import (
    DataFolderUnusable,
    ForeignPictures,
    InvalidRequest,
    PictureDamaged,
)
from nbgen.images import BucketImages, FolderImages, Images, open_images
from nbgen.images.checking import check_files
from nbgen.images.store import is_named_after
from nbgen.images.verified import Verified
from nbgen.store import garbage
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.parts import library

MINUTE = dt.timedelta(minutes=1)


def in_a_minute() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + MINUTE


def test_the_same_picture_is_one_file(tmp_path: Path) -> None:
    folder = FolderImages(tmp_path)
    red, again, blue = (folder.save(data, "png") for data in (b"red", b"red", b"blue"))
    assert red == again != blue
    path = folder.path(red)
    assert path is not None
    assert path.read_bytes() == b"red"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["", "..", "../secret.png", "x.png", "0" * 32 + ".png", "a\0.png"]
)
def test_a_name_that_is_none_of_ours_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").touch()
    (tmp_path / "x.png").touch()
    assert FolderImages(tmp_path).path(name) is None


@pytest.mark.skipif(os.name == "nt", reason="There it has no such permissions.")
def test_a_file_may_be_read_by_whom_the_user_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        name = FolderImages(tmp_path).save(b"red", "png")
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_made_is_said(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").touch()
    with pytest.raises(DataFolderUnusable, match=r"images.*Choose another with images"):
        make_studio()


def test_a_failed_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        FolderImages(tmp_path).save(b"red", "png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["folder", "memory"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    if request.param == "folder":
        return open_images(tmp_path / "pictures")
    return open_images(f"memory://{tmp_path.name}/pictures")


def test_pictures_are_the_same_wherever_they_are(images: Images) -> None:
    saved = images.save(b"red", "webp")
    assert images.save(b"red", "webp") == saved
    assert (images.read(saved), images.has(saved)) == (b"red", True)
    assert images.keep(saved)
    assert [file.name for file in images.files()] == [saved]
    for name in ("../x", "nope.png", "0" * 32 + ".png"):
        assert (images.read(name), images.has(name)) == (None, False)
        assert not images.keep(name)
    later = in_a_minute()
    assert not images.discard(saved, written_before=later - 2 * MINUTE)
    assert images.has(saved)
    assert images.discard(saved, written_before=later)
    assert not images.discard(saved, written_before=later)
    assert images.read(saved) is None
    assert list(images.files()) == []


def damage(images: Images, name: str) -> None:
    """Change the first byte of a picture, wherever it is."""
    if isinstance(images, FolderImages):
        path = images.folder / name
        path.write_bytes(b"!" + path.read_bytes()[1:])
        return
    assert isinstance(images, BucketImages)
    place = images._place(name)
    images._system.pipe_file(place, b"!" + images._system.cat_file(place)[1:])


def test_a_damaged_picture_is_told_from_a_sound_one(images: Images) -> None:
    name = images.save(b"red", "png")
    assert (images.has(name), images.read(name)) == (True, b"red")
    assert not images.is_damaged(name)
    damage(images, name)
    for use in (images.has, images.read, images.keep):
        with pytest.raises(PictureDamaged):
            use(name)
    assert images.is_damaged(name)
    assert not images.is_damaged("0" * 32 + ".png")


def test_only_a_damaged_picture_is_overwritten(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    name = images.save(b"red", "png")
    damage(images, name)
    assert images.save(b"red", "png") == name
    assert (images.read(name), images.has(name)) == (b"red", True)
    assert [entry.message for entry in caplog.records] == [
        f"The damaged file of the picture {name} is replaced."
    ]


def test_a_damaged_file_is_set_aside_and_a_sound_one_left(images: Images) -> None:
    name, sound = images.save(b"red", "png"), images.save(b"blue", "png")
    assert not images.set_aside(sound)
    assert not images.set_aside("0" * 32 + ".png")
    damage(images, name)
    assert images.set_aside(name)
    assert (images.has(name), images.read(sound)) == (False, b"blue")
    assert [file.name for file in images.files()] == [sound]
    images.save(b"red", "png")
    damage(images, name)
    assert images.set_aside(name)


def test_a_file_is_compared_once_unless_its_size_or_mtime_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = FolderImages(tmp_path)
    compared: list[str] = []

    def note(name: str, data: bytes) -> bool:
        compared.append(name)
        return is_named_after(name, data)

    monkeypatch.setattr("nbgen.images.verified.is_named_after", note)
    name = images.save(b"red", "png")
    for _ in range(3):
        assert images.has(name)
        images.read(name)
        images.keep(name)
        images.save(b"red", "png")
    assert compared == [name]
    damage(images, name)
    with pytest.raises(PictureDamaged):
        images.has(name)


def test_where_files_are_downloaded_each_is_downloaded_once_to_compare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    download = MemoryFileSystem.cat_file

    def note(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        downloads.append(path)
        return download(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", note)
    url = f"memory://{tmp_path.name}/pictures"
    images, another = open_images(url), open_images(url)
    name = images.save(b"red", "png")
    for _ in range(3):
        assert images.has(name)
        assert images.keep(name)
        images.save(b"red", "png")
    assert downloads == []
    for _ in range(3):
        assert another.has(name)
        assert another.keep(name)
    assert len(downloads) == 1
    age_all(images)
    assert images.keep(name)  # written again, with the bytes that are there
    assert len(downloads) == 2
    assert images.has(name)
    assert len(downloads) == 2
    damage(images, name)
    with pytest.raises(PictureDamaged):
        images.has(name)


@pytest.mark.parametrize("protocol", ["memory", "growing"])
def test_a_damaged_file_is_removed_first_only_where_files_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    fsspec.register_implementation("growing", Growing, clobber=True)
    removed: list[str] = []
    remove = MemoryFileSystem.rm_file

    def note(self: MemoryFileSystem, path: str) -> None:
        removed.append(path.rpartition("/")[2])
        remove(self, path)

    images = open_images(f"{protocol}://{tmp_path.name}/pictures")
    name = images.save(b"red", "png")
    damage(images, name)
    monkeypatch.setattr(MemoryFileSystem, "rm_file", note)
    images.save(b"red", "png")
    assert (name in removed) == (protocol == "growing")
    assert images.read(name) == b"red"


def test_a_file_of_the_same_size_and_mtime_is_not_compared_again(
    tmp_path: Path,
) -> None:
    """Reading each file whole at each use would cost too much; a check does."""
    images = FolderImages(tmp_path)
    name = images.save(b"red", "png")
    assert images.has(name)
    before = (tmp_path / name).stat()
    (tmp_path / name).write_bytes(b"bad")
    os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images.has(name)
    assert images.is_damaged(name)
    with pytest.raises(PictureDamaged):
        images.has(name)


def test_no_more_files_are_remembered_than_may_be() -> None:
    verified = Verified(most=2)
    for name in ("a", "b", "a", "c"):
        verified.remember(name, 1)
    assert [verified.knows(name, 1) for name in "abc"] == [True, False, True]
    assert not verified.knows("a", 2)


def test_what_was_saved_before_it_is_set_aside_stays(images: Images) -> None:
    name = images.save(b"red", "png")
    damage(images, name)
    assert images.is_damaged(name)
    images.save(b"red", "png")  # by another process
    assert not images.set_aside(name)
    assert images.read(name) == b"red"


def test_what_is_saved_while_it_is_downloaded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(f"memory://{tmp_path.name}/pictures")
    name = images.save(b"red", "png")
    damage(images, name)
    download = MemoryFileSystem.cat_file

    def save_meanwhile(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        data = download(self, path, **options)
        self.pipe_file(path, b"red")
        return data

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", save_meanwhile)
        assert not images.set_aside(name)
    assert images.read(name) == b"red"


def test_a_check_goes_on_where_a_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = FolderImages(tmp_path)
    bad, sound = images.save(b"red", "png"), images.save(b"blue", "png")
    read = FolderImages.read

    def fail(self: FolderImages, name: str) -> bytes | None:
        if name == bad:
            raise OSError(5, "Input/output error")
        return read(self, name)

    monkeypatch.setattr(FolderImages, "read", fail)
    report = check_files(images, {bad: ["a"], sound: ["b"]}, repair=True)
    assert report.faults == (
        f"The picture {bad} cannot be checked: Input/output error.",
    )
    assert (report.files, report.damaged, report.missing) == (2, (), ())
    assert not report.is_sound


def test_an_address_that_nobody_knows_is_said() -> None:
    with pytest.raises(InvalidRequest, match="images must be a folder, or a URL that"):
        open_images("nope://secret")


@pytest.mark.parametrize("protocol", ["file", "local"])
def test_a_file_url_is_a_folder(tmp_path: Path, protocol: str) -> None:
    images = open_images(f"{protocol}://{tmp_path}")
    assert images.path(images.save(b"red", "png")) is not None


class Growing(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Keeps files that are there, in part, from their first byte on, and listings."""

    protocol = "growing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    breaks = False
    listed: ClassVar[dict[str, Any]] = {}

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if self.breaks:
            super().pipe_file(path, value[:1], **options)
            raise OSError("the line is dead")
        super().pipe_file(path, value, **options)

    def info(self, path: str, **options: Any) -> Any:
        if path not in self.listed:
            self.listed[path] = super().info(path, **options)
        return self.listed[path]

    def invalidate_cache(self, path: str | None = None) -> None:  # noqa: ARG002
        self.listed.clear()


@pytest.fixture
def growing(tmp_path: Path) -> BucketImages:
    fsspec.register_implementation("growing", Growing, clobber=True)
    images = open_images(f"growing://{tmp_path.name}/pictures", "0" * 32)
    assert isinstance(images, BucketImages)
    return images


def test_where_files_grow_a_picture_is_whole_or_not_there(
    growing: BucketImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = growing.save(b"red", "png")
    monkeypatch.setattr(Growing, "breaks", True)
    with pytest.raises(OSError, match="the line is dead"):
        growing.save(b"blue", "png")
    assert [file.name for file in growing.files()] == [name]
    # A process that is killed removes nothing.
    monkeypatch.setattr(Growing, "rm_file", lambda *_: None)
    with pytest.raises(OSError, match="the line is dead"):
        growing.save(b"blue", "png")
    names = {file.name for file in growing.files()} - {name}
    assert [Path(left).suffix for left in names] == [".part"]
    monkeypatch.undo()
    assert growing.read(growing.save(b"blue", "png")) == b"blue"
    assert growing.owners() == {"0" * 32}


def test_where_no_file_is_moved_onto_another_the_same_bytes_do(
    growing: BucketImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_system: object, _old: str, new: str) -> None:
        MemoryFileSystem.pipe_file(growing._system, new, b"red")  # somebody was faster
        raise FileExistsError(new)

    monkeypatch.setattr(Growing, "mv", refuse)
    name = growing.save(b"red", "png")
    assert [file.name for file in growing.files()] == [name]


def test_what_others_do_meanwhile_is_seen(growing: BucketImages) -> None:
    name = growing.save(b"red", "png")
    assert growing.has(name)
    file = Growing.store.pop(growing._place(name))
    assert not growing.has(name)
    Growing.store[growing._place(name)] = file
    assert growing.has(name)


HOURS_S = 7_200


def age(folder: Path) -> None:
    """Make all files of a folder two hours old."""
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - HOURS_S,) * 2)


def age_all(images: Images) -> None:
    """Make all files two hours old, wherever they are."""
    if isinstance(images, FolderImages):
        age(images.folder)
        return
    assert isinstance(images, BucketImages)
    for place in images._list():
        images._system.store[place].modified -= dt.timedelta(seconds=HOURS_S)


def test_only_what_nothing_refers_to_is_removed(
    make_studio: Callable[..., Studio], database: str | None, tmp_path: Path
) -> None:
    studio = make_studio(database=database)
    folder = tmp_path / "data" / "images"
    pixel = Image.new("RGB", (64, 64))
    made = studio.generate("a cat", task_id="a", image=pixel).result(30)
    kept = {made.images[0].name, studio.get_record("a").request.image}
    pictures = FolderImages(folder)
    url = f"/images/{pictures.save(b'decided', 'png')}"
    studio.approve("a", reviewer_id="ada", featured_image_url=url)
    inner = pictures.save(b"content", "jpeg")
    studio.put_content("post", {"body": f"<img src='https://x.org/images/{inner}'>"})
    kept |= {url.removeprefix("/images/"), inner}
    garbage = {pictures.save(b"garbage", "png"), "stale.part"}
    (folder / "stale.part").touch()
    (folder / "notes.txt").touch()
    age(folder)
    young = {pictures.save(b"young", "png"), "young.part"}
    (folder / "young.part").touch()
    assert set(studio.collect_garbage()) == garbage
    assert set(studio.collect_garbage(dry_run=False)) == garbage
    assert studio.collect_garbage() == []
    left = {path.name for path in folder.iterdir()}
    [mark] = folder.glob("owner-*")
    assert left == kept | young | {"notes.txt", mark.name}


@pytest.mark.parametrize("how", ["save", "keep"])
def test_what_is_wanted_again_is_young_again(images: Images, how: str) -> None:
    name = images.save(b"red", "png")
    age_all(images)
    [old] = images.files()
    if how == "save":
        images.save(b"red", "png")
    else:
        assert images.keep(name)
    [new] = images.files()
    assert (new.written_at - old.written_at).total_seconds() > HOURS_S - 1
    assert images.read(name) == b"red"


def test_what_another_user_wrote_is_kept_by_writing_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FolderImages(tmp_path)
    name = folder.save(b"red", "png")
    age(tmp_path)

    def refuse(_path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", refuse)
    assert folder.save(b"red", "png") == name
    [file] = folder.files()
    assert file.written_at > dt.datetime.now(dt.UTC) - MINUTE
    assert folder.read(name) == b"red"


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "pictures")
    return f"memory://{tmp_path.name}/pictures"


@pytest.fixture
def kept_at(
    place: str, make_studio: Callable[..., Studio]
) -> tuple[Studio, Images, str]:
    """Return a studio, its pictures, and the name of an old one nobody refers to."""
    studio = make_studio(images=place)
    name = studio.keep_picture("image", Image.new("RGB", (64, 64), "red"))
    age_all(library(studio).images)
    assert studio.collect_garbage() == [name]
    return studio, library(studio).images, name


@pytest.mark.parametrize("how", ["again", "by name", "mentioned", "removed"])
def test_what_is_wanted_while_garbage_is_collected_stays(
    kept_at: tuple[Studio, Images, str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    studio, images, name = kept_at
    read_all = garbage._mentioned
    meanwhile = [True]

    def mentioned(*args: Any, **since: Any) -> set[str]:
        found = read_all(*args, **since)
        if not meanwhile:
            return found
        meanwhile.pop()
        if how == "again":
            studio.keep_picture("image", Image.new("RGB", (64, 64), "red"))
        elif how == "by name":
            studio.keep_picture("image", name)
        elif how == "mentioned":
            studio.put_content("post", {"body": f"see /images/{name}"})
        else:
            assert images.discard(name, written_before=in_a_minute())
        return found

    monkeypatch.setattr(garbage, "_mentioned", mentioned)
    assert studio.collect_garbage(dry_run=False) == []
    assert images.has(name) is (how != "removed")


def test_what_goes_while_files_are_listed_is_passed_over(
    images: Images,
) -> None:
    names = {images.save(data, "png") for data in (b"red", b"blue", b"green")}
    rest = images.files()
    first = next(rest).name
    second = min(names - {first})
    assert images.discard(second, written_before=in_a_minute())
    assert [file.name for file in rest] == list(names - {first, second})


def test_a_name_that_is_part_of_an_address_is_a_mention(
    kept_at: tuple[Studio, Images, str],
) -> None:
    studio, _images, name = kept_at
    address = f"https://x.org/_next/image?url=%2fimages%2f{name}&w=640"
    studio.put_content("post", {"image_url": address})
    assert studio.collect_garbage() == []


def make_old(studio: Studio, prompt: str = "a cat") -> str:
    """Make a task with a picture that is two hours old by now; return its name."""
    name = studio.generate(prompt, seed=7).result(30).images[0].name
    age_all(library(studio).images)
    return name


def test_the_pictures_of_another_database_are_not_garbage(
    place: str, make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    """Such as that of a schedule in which NBGEN_DATABASE is not set."""
    right = make_studio(images=place)
    name = make_old(right)
    with Studio(tmp_path / "wrong", engine=PatternEngine(), images=place) as wrong:
        for dry_run in (True, False):
            with pytest.raises(ForeignPictures, match="Open it with --data-dir"):
                wrong.collect_garbage(dry_run=dry_run)
    assert right.collect_garbage(dry_run=False) == []
    assert right.read_image(name)


def test_what_several_databases_keep_in_one_place_is_not_garbage(
    place: str, make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    first = make_studio(images=place)
    shared = make_old(first)
    with Studio(tmp_path / "other", engine=PatternEngine(), images=place) as second:
        second.generate("a cat", image=shared).result(30)
        make_old(first, "a dog")
        other = library(second).store.identity
        for studio in (first, second):
            with pytest.raises(ForeignPictures, match="Give each its own place"):
                studio.collect_garbage(dry_run=False)
        with pytest.raises(ForeignPictures, match=f"pictures: owner-{other}"):
            first.collect_garbage()
        assert second.read_image(shared)


def test_to_name_a_picture_leaves_the_mark_of_a_database(place: str) -> None:
    saving, naming = open_images(place, "1" * 32), open_images(place, "2" * 32)
    assert saving.owners() == set()
    name = saving.save(b"red", "png")
    assert not naming.keep("0" * 32 + ".png")
    assert saving.owners() == {"1" * 32}
    assert naming.keep(name)
    assert saving.owners() == {"1" * 32, "2" * 32}


def test_pictures_from_before_there_were_marks_are_garbage_once_one_is_saved(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    studio = make_studio()
    assert studio.collect_garbage() == []
    old = FolderImages(tmp_path / "data" / "images").save(b"old", "png")
    age_all(library(studio).images)
    with pytest.raises(ForeignPictures, match=r"no owner mark.* Make a picture"):
        studio.collect_garbage(dry_run=False)
    make_old(studio)
    assert studio.collect_garbage(dry_run=False) == [old]


def test_where_there_is_no_garbage_it_does_not_matter_whose_pictures_they_are(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    studio = make_studio()
    studio.generate("a cat").result(30)
    folder = tmp_path / "data" / "images"
    with Studio(tmp_path / "b", engine=PatternEngine(), images=folder) as other:
        assert other.collect_garbage(dry_run=False) == []


def test_a_studio_may_keep_its_pictures_elsewhere(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    studio = make_studio(images=f"memory://{tmp_path.name}")
    first = studio.generate("a cat", task_id="a").result(30).images[0].name
    assert studio.image_path(first) is None
    assert studio.read_image(first).startswith(b"\x89PNG")
    studio.generate("a cat", image=first).result(30)
    target = asyncio.run(studio.generate_image("a cat", tmp_path / "cat.png"))
    assert target.read_bytes().startswith(b"\x89PNG")
    assert studio.approve("a", reviewer_id="ada").featured_image_url
    assert not (tmp_path / "data" / "images").exists()
