"""A new database is never started beside the pictures of a lost one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.images import FolderImages, find_owners
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

MakeStudio = Callable[..., Studio]
A_MARK = f"owner-{'0' * 32}"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies in a folder, with the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder with a picture and its database."""
    folder = tmp_path / "kept"
    with Studio(folder, engine=PatternEngine()) as studio:
        studio.generate("a cat", task_id="a").result(30)
    return folder


def lose(file: Path, how: str) -> None:
    """Put something else in the place of a database."""
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "another one":
        file.unlink()
        Store(file.parent).close()
    else:
        file.unlink()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE tasks (id)")
            connection.execute("DROP TABLE tasks")


@pytest.mark.parametrize("how", ["missing", "empty", "another one", "without tables"])
def test_pictures_without_their_database_are_said(folder: Path, how: str) -> None:
    lose(folder / "nbgen.sqlite", how)
    before = contents(folder)
    told = how if how != "without tables" else "another one"
    for open_studio in (Studio.open_library, Studio):
        with pytest.raises(
            DataFolderUnusable,
            match=rf"nbgen\.sqlite' is {told}\..*backup.*NBGEN_DATABASE.*images' away",
        ):
            open_studio(folder)
    assert contents(folder) == before


def test_the_pictures_may_be_moved_away_to_start_anew(folder: Path) -> None:
    (folder / "nbgen.sqlite").unlink()
    (folder / "images").rename(folder / "old images")
    with Studio(folder, engine=PatternEngine()) as studio:
        assert studio.tasks() == []


def test_a_copy_of_the_database_finds_its_pictures(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "nbgen.sqlite", tmp_path / "copy")
    (folder / "nbgen.sqlite").unlink()
    shutil.copy(tmp_path / "copy", folder / "nbgen.sqlite")
    with Studio(folder, engine=PatternEngine()) as studio:
        assert studio.task("a").pictures[0].read()


def test_what_is_in_the_log_of_a_killed_process_is_known(tmp_path: Path) -> None:
    """Its identity may be in the file -wal only, as of a database that is new."""
    copy = tmp_path / "copy"
    with Studio(copy, engine=PatternEngine()) as studio:
        studio.generate("a cat", task_id="a").result(30)
        # Not what comes and goes meanwhile, nor pipes.
        passing = shutil.ignore_patterns("live", "followers", "*.part")
        shutil.copytree(copy, tmp_path / "killed", ignore=passing)
        assert (tmp_path / "killed" / "nbgen.sqlite-wal").stat().st_size
    with Studio.open_library(tmp_path / "killed") as studio:
        assert studio.get_record("a").result is not None


@pytest.mark.parametrize("where", ["argument", "variable"])
def test_a_chosen_place_may_have_the_pictures_of_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    place = str(folder / "images")
    options: dict[str, Any] = {"images": place} if where == "argument" else {}
    if where == "variable":
        monkeypatch.setenv("NBGEN_IMAGES", place)
    with Studio(tmp_path / "new", engine=PatternEngine(), **options) as studio:
        studio.generate("a dog").result(30)
    assert len(find_owners(folder / "images")) == 2


def test_pictures_from_before_there_were_marks_are_no_hindrance(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    FolderImages(tmp_path / "data" / "images").save(b"old", "png")
    assert make_studio().tasks() == []


def test_another_database_by_its_url_is_looked_at_too(
    folder: Path, database: str | None, tmp_path: Path
) -> None:
    url = database or f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(DataFolderUnusable, match=r"other\.db' is missing|was named is"):
        Studio(folder, engine=PatternEngine(), database=url)
    assert not (tmp_path / "other.db").exists()
    (folder / "images" / A_MARK).touch()
    with pytest.raises(DataFolderUnusable):
        Studio(folder, engine=PatternEngine(), database=url)
    with Studio(folder, engine=PatternEngine()) as studio:
        assert studio.get_record("a").id == "a"
