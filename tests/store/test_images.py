"""Pictures are saved whole, under names that say what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbgen.store import ImageFolder


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
