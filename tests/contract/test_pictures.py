"""``Pictures``: files under names that are made from their bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from nbgen.backend import Backend
from nbgen.errors import ForeignPictures, InvalidRequest, UnknownImage
from nbgen.schema import TaskRecord
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
