"""Pictures are saved whole, under names that say what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nbgen.store import ImageFolder


def test_the_same_picture_is_one_file(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path)
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    name = folder.save(red)
    assert folder.save(red) == name != folder.save(blue)
    path = folder.path(name)
    assert path is not None
    with Image.open(path) as saved:
        assert (saved.format, saved.getpixel((0, 0))) == ("PNG", (255, 0, 0))
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
        ImageFolder(tmp_path).save(Image.new("RGB", (8, 8)))
    assert list(tmp_path.iterdir()) == []
