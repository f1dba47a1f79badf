"""Pictures that people bring along are kept as upright RGB, or refused by name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from nbgen.errors import InvalidRequest
from nbgen.images import (
    FolderImages,
    Images,
    PictureSource,
    keep_picture,
    read_source,
)


def keep(images: Images, field: str, source: PictureSource) -> str:
    return keep_picture(images, field, read_source(field, source))


@pytest.fixture
def images(tmp_path: Path) -> FolderImages:
    return FolderImages(tmp_path / "images")


def two_colours() -> Image.Image:
    """Return a picture that is red on the left and blue on the right."""
    picture = Image.new("RGB", (16, 8), "red")
    picture.paste("blue", (8, 0, 16, 8))
    return picture


def kept(images: FolderImages, name: str | None) -> Image.Image:
    assert name is not None
    path = images.path(name)
    assert path is not None
    with Image.open(path) as picture:
        picture.load()
        return picture


def test_a_picture_is_kept_from_wherever_it_comes(
    images: FolderImages, tmp_path: Path
) -> None:
    picture, path = two_colours(), tmp_path / "two.png"
    picture.save(path)
    first = keep(images, "image", picture)
    assert kept(images, first).tobytes() == picture.tobytes()
    for source in (path, str(path), path.read_bytes(), first, f"/images/{first}"):
        assert keep(images, "image", source) == first
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_a_photo_is_turned_upright(images: FolderImages) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was held upright
    buffer = BytesIO()
    two_colours().save(buffer, "PNG", exif=exif)
    upright = kept(images, keep(images, "image", buffer.getvalue()))
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 0)) == (255, 0, 0)
    assert upright.getpixel((4, 15)) == (0, 0, 255)
    assert not upright.getexif()


def test_the_picture_that_was_given_stays_as_it_was(images: FolderImages) -> None:
    picture = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    keep(images, "image", picture)
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGBA", (1, 2, 3, 4))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16"])
def test_a_picture_of_any_mode_is_kept_in_rgb(images: FolderImages, mode: str) -> None:
    picture = kept(images, keep(images, "mask", Image.new(mode, (8, 8))))
    assert (picture.mode, picture.size) == ("RGB", (8, 8))


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_a_palette_with_a_transparent_colour_is_kept(
    images: FolderImages, transparency: int | bytes
) -> None:
    picture = Image.new("P", (16, 8), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (8, 0, 16, 8))
    buffer = BytesIO()
    picture.save(buffer, "PNG", transparency=transparency)
    shown = kept(images, keep(images, "image", buffer.getvalue()))
    assert (shown.mode, shown.getpixel((0, 0))) == ("RGB", (255, 0, 0))


def closed_picture(tmp_path: Path) -> Image.Image:
    two_colours().save(tmp_path / "closed.png")
    with Image.open(tmp_path / "closed.png") as picture:
        return picture


def test_what_is_no_picture_is_refused(images: FolderImages, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a cat")
    buffer = BytesIO()
    two_colours().save(buffer, "PNG")
    wrong = [
        tmp_path / "notes.txt",
        tmp_path / "missing.png",
        tmp_path,
        "a\0b",
        "x" * 5000,
        "",
        b"",
        b"a cat",
        buffer.getvalue()[:60],
        "0" * 32 + ".png",
        "/images/" + "0" * 32 + ".png",
        "/images/../notes.txt",
        closed_picture(tmp_path),
        Image.new("La", (8, 8)),
        Image.new("RGB", (0, 0)),
        5,
    ]
    for source in wrong:
        with pytest.raises(InvalidRequest, match="mask must be a picture") as raised:
            keep(images, "mask", source)  # type: ignore[arg-type]
        assert raised.value.field == "mask"
    assert list((tmp_path / "images").iterdir()) == []


def test_a_huge_picture_is_refused_before_it_fills_the_memory(
    images: FolderImages, tmp_path: Path
) -> None:
    # 200 million pixels of one bit, in a file of 25 kB.
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(InvalidRequest, match="a huge picture"):
        keep(images, "image", tmp_path / "huge.png")
