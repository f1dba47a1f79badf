"""Pictures are saved whole, under names that say what is in them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nbgen.errors import InvalidRequest
from nbgen.store import ImageFolder, Images, open_images
from nbgen.store.images import RemoteImages
from nbgen.studio import Studio


def test_the_same_picture_is_one_file(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path)
    red, again, blue = (folder.save(data, "png") for data in (b"red", b"red", b"blue"))
    assert (red.is_new, again.is_new, blue.is_new) == (True, False, True)
    assert red.name == again.name != blue.name
    path = folder.path(red.name)
    assert path is not None
    assert path.read_bytes() == b"red"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["", "..", "../secret.png", "x.png", "0" * 32 + ".png", "a\0.png"]
)
def test_a_name_that_is_none_of_ours_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").touch()
    (tmp_path / "x.png").touch()
    assert ImageFolder(tmp_path).path(name) is None


def test_a_failed_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        ImageFolder(tmp_path).save(b"red", "png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["folder", "memory"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    if request.param == "folder":
        return open_images(tmp_path / "pictures")
    return open_images(f"memory://{tmp_path.name}/pictures")


def test_pictures_are_the_same_wherever_they_are(images: Images) -> None:
    saved = images.save(b"red", "webp")
    assert images.save(b"red", "webp") == (saved.name, False)
    assert (images.read(saved.name), images.has(saved.name)) == (b"red", True)
    assert [file.name for file in images.files()] == [saved.name]
    for name in ("../x", "nope.png", "0" * 32 + ".png"):
        assert (images.read(name), images.has(name)) == (None, False)
    images.discard(saved.name)
    images.discard(saved.name)
    assert images.read(saved.name) is None
    assert list(images.files()) == []


def test_a_picture_is_never_overwritten(tmp_path: Path) -> None:
    images = open_images(f"memory://{tmp_path.name}")
    assert isinstance(images, RemoteImages)
    name = images.save(b"red", "png").name
    images._system.pipe_file(images._place(name), b"not red")
    assert images.save(b"red", "png") == (name, False)
    assert images.read(name) == b"not red"


def test_an_address_that_nobody_knows_is_said() -> None:
    with pytest.raises(InvalidRequest, match="images must be a folder, or a URL that"):
        open_images("nope://secret")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    images = open_images(f"file://{tmp_path}")
    assert images.path(images.save(b"red", "png").name) is not None


HOURS_S = 7_200


def age(folder: Path) -> None:
    """Make all files of a folder two hours old."""
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - HOURS_S,) * 2)


def test_only_what_nothing_refers_to_is_removed(
    make_studio: Callable[..., Studio], database: str | None, tmp_path: Path
) -> None:
    studio = make_studio(database=database)
    folder = tmp_path / "data" / "images"
    pixel = Image.new("RGB", (64, 64))
    made = studio.generate("a cat", task_id="a", image=pixel).result(30)
    kept = {made.images[0].name, studio.get_record("a").request.image}
    pictures = ImageFolder(folder)
    url = f"/images/{pictures.save(b'decided', 'png').name}"
    studio.approve("a", reviewer_id="ada", featured_image_url=url)
    inner = pictures.save(b"content", "jpeg").name
    studio.put_content("post", {"body": f"<img src='https://x.org/images/{inner}'>"})
    kept |= {url.removeprefix("/images/"), inner}
    garbage = {pictures.save(b"garbage", "png").name, "stale.part"}
    (folder / "stale.part").touch()
    (folder / "notes.txt").touch()
    age(folder)
    young = {pictures.save(b"young", "png").name, "young.part"}
    (folder / "young.part").touch()
    assert set(studio.collect_garbage()) == garbage
    assert set(studio.collect_garbage(dry_run=False)) == garbage
    assert studio.collect_garbage() == []
    left = {path.name for path in folder.iterdir()}
    assert left == kept | young | {"notes.txt"}


def test_what_is_wanted_again_is_young_again(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path)
    folder.save(b"red", "png")
    age(tmp_path)
    [old] = folder.files()
    folder.save(b"red", "png")
    [new] = folder.files()
    assert (new.written_at - old.written_at).total_seconds() > HOURS_S - 1


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
