"""``Pictures``: files under names that are made from their bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nbgen.backend import Backend
from nbgen.errors import (
    ForeignPictures,
    InvalidRequest,
    PictureDamaged,
    UnknownImage,
)
from nbgen.schema import FaultyPicture, Outcome, TaskRecord, Verdict
from nbgen.testing import MemoryBackend
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    A_PICTURE,
    WAIT_S,
    asks,
    decide,
    local_only,
    made,
    png,
    says,
)

MakeOld = Callable[[Backend, str], None]
Change = Callable[[Backend, str], None]


@pytest.fixture
def damage(kind: str, tmp_path: Path) -> Callable[[Backend, str], None]:
    """Return a function that changes a byte in the file of a picture."""

    def change(backend: Backend, name: str) -> None:
        if kind == "memory":
            assert isinstance(backend, MemoryBackend)
            files = backend._pictures._files
            files[name] = b"!" + files[name][1:]
        else:
            path = tmp_path / "data" / "images" / name
            path.write_bytes(b"!" + path.read_bytes()[1:])

    return change


@pytest.fixture
def remove(kind: str, tmp_path: Path) -> Callable[[Backend, str], None]:
    """Return a function that removes the file of a picture."""

    def unlink(backend: Backend, name: str) -> None:
        if kind == "memory":
            assert isinstance(backend, MemoryBackend)
            del backend._pictures._files[name]
        else:
            (tmp_path / "data" / "images" / name).unlink()

    return unlink


def name_of(record: TaskRecord) -> str:
    assert record.result is not None
    return record.result.images[0].name


def test_a_picture_is_kept_under_a_name_of_its_bytes(backend: Backend) -> None:
    name = backend.keep_picture("image", png("red"))
    assert backend.keep_picture("mask", png("red")) == name
    assert backend.keep_picture("image", png("blue")) != name
    with Image.open(io.BytesIO(backend.read_picture(name))) as picture:
        assert picture.size == (16, 8)
        assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_a_kept_picture_is_kept_again_by_its_name(backend: Backend) -> None:
    name = backend.keep_picture("image", png())
    assert backend.keep_picture("image", name) == name
    assert backend.keep_picture("mask", f"/images/{name}") == name


@pytest.mark.parametrize("picture", [A_PICTURE, f"/images/{A_PICTURE}", "", "cat.png"])
@pytest.mark.parametrize("field", ["image", "mask"])
def test_no_picture_is_kept_that_is_not_here(
    backend: Backend, field: str, picture: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be"):
        backend.keep_picture(field, picture)


@pytest.mark.parametrize("name", [A_PICTURE, "", "../x", "x.png"])
def test_an_unknown_picture_has_neither_bytes_nor_a_file(
    backend: Backend, name: str
) -> None:
    with pytest.raises(UnknownImage):
        backend.read_picture(name)
    assert backend.picture_path(name) is None


def test_a_file_of_a_picture_holds_its_bytes(backend: Backend, kind: str) -> None:
    [record] = made(backend, "a")
    name = name_of(record)
    path = backend.picture_path(name)
    assert (path is None) == (kind == "memory")
    if path is not None:
        assert path.read_bytes() == backend.read_picture(name)


def test_a_result_names_its_pictures(backend: Backend) -> None:
    backend.submit(asks(num_images=2, width=64, height=72), task_id="a", priority=0)
    result = backend.ended("a").result(WAIT_S).result
    assert result is not None
    assert [image.seed for image in result.images] == [7, 8]
    for image in result.images:
        assert image.url == f"/images/{image.name}"
        with Image.open(io.BytesIO(backend.read_picture(image.name))) as picture:
            assert picture.size == (image.width, image.height) == (64, 72)


def test_the_pictures_before_a_failure_are_kept(make_backend: MakeBackend) -> None:
    steps: list[int] = []

    def fail_late(step: int) -> None:
        steps.append(step)
        if len(steps) > 4:
            raise RuntimeError("no")

    backend = make_backend(fail_late)
    [record] = made(backend, "a")
    assert backend.read_picture(name_of(record))
    backend.submit(asks(), task_id="b", priority=0)
    end = backend.ended("b").result(WAIT_S)
    assert (end.error, end.result) == ("RuntimeError: no", None)


def test_garbage_is_old_and_nothing_refers_to_it(
    backend: Backend, make_old: MakeOld
) -> None:
    colours = ("red", "green", "blue", "white", "black")
    started, url, told, lost, young = [
        backend.keep_picture("image", png(colour)) for colour in colours
    ]
    backend.submit(asks(image=started), task_id="a", priority=0)
    backend.ended("a").result(WAIT_S)
    [record] = backend.get_tasks(["a"])
    decide(backend, says("a", "ada", featured_image_url=f"/images/{url}"))
    metadata = {"one": [{"two": f"see /images/{told}"}]}
    backend.put_content("c", metadata, featured_image_url=None)
    for name in (started, url, told, lost, name_of(record)):
        make_old(backend, name)
    backend.keep_picture("image", young)
    assert backend.collect_garbage(dry_run=True) == [lost]
    assert backend.read_picture(lost)
    assert backend.collect_garbage(dry_run=False) == [lost]
    with pytest.raises(UnknownImage):
        backend.read_picture(lost)
    for name in (started, url, told, young, name_of(record)):
        assert backend.read_picture(name)
    assert backend.collect_garbage(dry_run=False) == []


def test_a_picture_that_is_kept_again_is_no_garbage(
    backend: Backend, make_old: MakeOld
) -> None:
    name = backend.keep_picture("image", png())
    make_old(backend, name)
    backend.keep_picture("image", name)
    assert backend.collect_garbage(dry_run=False) == []


@local_only
def test_garbage_of_unknown_owners_is_left(backend: Backend, make_old: MakeOld) -> None:
    name = backend.keep_picture("image", png())
    path = backend.picture_path(name)
    assert path is not None
    (path.parent / f"owner-{'0' * 32}").touch()
    make_old(backend, name)
    with pytest.raises(ForeignPictures):
        backend.collect_garbage(dry_run=True)
    assert path.exists()


def test_a_damaged_picture_is_not_read_or_kept_by_name(
    backend: Backend, damage: Change
) -> None:
    name = backend.keep_picture("image", png())
    assert backend.read_picture(name)
    damage(backend, name)
    with pytest.raises(PictureDamaged, match=r"same request and seed.*'nbgen check'"):
        backend.read_picture(name)
    with pytest.raises(PictureDamaged):
        backend.keep_picture("image", name)
    with pytest.raises(PictureDamaged):
        backend.submit(asks(image=name), task_id="a", priority=0)


@local_only
def test_a_damaged_picture_has_no_path_unless_nobody_looks(
    backend: Backend, damage: Change
) -> None:
    name = backend.keep_picture("image", png())
    assert backend.picture_path(name) is not None
    damage(backend, name)
    with pytest.raises(PictureDamaged):
        backend.picture_path(name)
    assert backend.picture_path(name, check=False) is not None


def test_the_same_picture_again_replaces_a_damaged_one(
    backend: Backend, damage: Change
) -> None:
    [record] = made(backend, "a")
    name, kept = name_of(record), backend.keep_picture("image", png())
    damage(backend, name)
    damage(backend, kept)
    assert backend.keep_picture("image", png()) == kept
    assert backend.read_picture(kept) == png()
    [again] = made(backend, "b")  # the same request and seed
    assert name_of(again) == name
    assert backend.read_picture(name)


def test_a_damaged_picture_is_not_approved(backend: Backend, damage: Change) -> None:
    [record] = made(backend, "a")
    name = name_of(record)
    decide(backend, says("a", "ada", Verdict.REJECTED))
    damage(backend, name)
    url = f"/images/{name}"
    for request in (
        says("a", "ada", expect_version=1),
        says("a", "ada", expect_version=1, image=name),
        says("a", "ada", expect_version=1, featured_image_url=url),
    ):
        with pytest.raises(PictureDamaged):
            decide(backend, request)
    assert len(backend.decisions("a")) == 1
    made(backend, "b")
    decide(backend, says("a", "ada", expect_version=1))


def test_the_first_sound_picture_is_approved(backend: Backend, damage: Change) -> None:
    backend.submit(asks(num_images=2), task_id="a", priority=0)
    result = backend.ended("a").result(WAIT_S).result
    assert result is not None
    first, second = result.images
    damage(backend, first.name)
    with pytest.raises(PictureDamaged):
        decide(backend, says("a", "ada", image=first.name))
    assert decide(backend, says("a", "ada")).featured_image_url == second.url


def test_a_repeated_approval_that_lost_its_picture_is_refused(
    backend: Backend, damage: Change
) -> None:
    [record] = made(backend, "a")
    approval = decide(backend, says("a", "ada"))
    damage(backend, name_of(record))
    assert decide(backend, says("a", "ada")) == approval  # nothing new is approved
    with pytest.raises(PictureDamaged):
        decide(backend, says("a", "bob"))


def test_a_check_finds_nothing_wrong(backend: Backend) -> None:
    made(backend, "a")
    report = backend.check_pictures()
    assert (report.is_sound, report.files) == (True, 1)
    assert (report.damaged, report.missing, report.faults) == ((), (), ())


def test_a_check_names_what_is_wrong_and_which_tasks_need_it(
    backend: Backend, damage: Change, remove: Change
) -> None:
    started, masked, told, url, spare = [
        backend.keep_picture("image", png(colour))
        for colour in ("red", "green", "blue", "white", "black")
    ]
    backend.submit(asks(image=started, mask=masked), task_id="a", priority=0)
    assert backend.ended("a").result(WAIT_S).outcome is Outcome.SUCCEEDED
    [sound] = backend.get_tasks(["a"])
    shared = name_of(made(backend, "b", "c")[0])
    elsewhere = f"https://x.org/images/{A_PICTURE}"
    backend.put_content("post", {"body": f"<img src='/images/{told}'> {elsewhere}"})
    decide(backend, says("b", "ada", featured_image_url=f"/images/{url}"))
    for name in (started, told, url):
        remove(backend, name)
    for name in (masked, shared, spare):
        damage(backend, name)
    report = backend.check_pictures(repair=False)
    assert not report.is_sound
    assert report.missing == faulty({started: "a", told: "post", url: "b"})
    assert report.damaged == faulty({masked: "a", shared: "bc", spare: ""})
    assert (report.set_aside, report.faults) == ((), ())
    assert backend.read_picture(name_of(sound))


def test_pictures_of_earlier_attempts_are_kept_and_checked(
    backend: Backend, damage: Change, make_old: MakeOld
) -> None:
    start = backend.keep_picture("image", png())
    backend.submit(asks(image=start), task_id="a", priority=0)
    backend.ended("a").result(WAIT_S)
    [record] = backend.get_tasks(["a"])
    backend.submit(asks("a dog"), task_id="a", priority=0, replace=True)
    backend.ended("a").result(WAIT_S)
    for name in (start, name_of(record)):
        make_old(backend, name)
    assert backend.collect_garbage(dry_run=False) == []
    for name in (start, name_of(record)):
        damage(backend, name)
    report = backend.check_pictures()
    assert report.damaged == faulty({start: "a", name_of(record): "a"})


def faulty(needed: dict[str, str]) -> tuple[FaultyPicture, ...]:
    """Return pictures with the ids of their tasks: of one letter each, or one id."""
    return tuple(
        FaultyPicture(name=name, task_ids=(ids,) if ids == "post" else tuple(ids))
        for name, ids in sorted(needed.items())
    )


def test_a_repair_takes_damaged_files_away(backend: Backend, damage: Change) -> None:
    [record] = made(backend, "a")
    name, spare = name_of(record), backend.keep_picture("image", png())
    damage(backend, name)
    damage(backend, spare)
    report = backend.check_pictures(repair=True)
    assert report.set_aside == faulty({name: "a", spare: ""})
    assert (report.damaged, report.missing) == ((), faulty({name: "a"}))
    assert backend.get_tasks(["a"]) == [record]
    with pytest.raises(UnknownImage):
        backend.read_picture(name)
    made(backend, "b")
    assert backend.read_picture(name)
    assert backend.check_pictures().is_sound


@local_only
def test_a_damaged_file_is_moved_beside_the_pictures(
    backend: Backend, damage: Change
) -> None:
    name = backend.keep_picture("image", png())
    path = backend.picture_path(name)
    assert path is not None
    damage(backend, name)
    damaged = path.read_bytes()
    assert backend.check_pictures(repair=True).is_sound
    assert (path.parent / "damaged" / name).read_bytes() == damaged
    assert not path.exists()
    assert backend.check_pictures().files == 0
