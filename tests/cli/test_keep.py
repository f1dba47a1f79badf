"""The commands that delete, clear up, back up and restore, as a person runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from nbgen.cli.terminal import app
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

HELP_PAGE = Path(__file__).parent.parent.parent / "docs" / "help.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder with a picture, a cancelled task and one that waits."""
    folder = tmp_path / "data"
    with Studio(folder, engine=PatternEngine(), publishers=()) as studio:
        studio.generate("a cat", task_id="done", seed=7).result(10)
        studio.pause()
        studio.generate("a cow", task_id="cancelled")
        studio.cancel("cancelled")
        studio.generate("a dog", task_id="waits")
    for picture in (folder / "images").glob("*.png"):
        os.utime(picture, (0, 0))
    return folder


def nbgen(*words: str, folder: Path) -> Result:
    command = [*words, "--data-dir", str(folder)]
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, command)


def read_json(*words: str, folder: Path) -> Any:
    done = nbgen(*words, "--json", folder=folder)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def ids(folder: Path) -> list[str]:
    return [task["id"] for task in read_json("tasks", folder=folder)]


def test_tasks_are_deleted(folder: Path) -> None:
    nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    refused = nbgen("delete", "cancelled", "done", folder=folder)
    assert refused.exit_code == 1
    assert "'done' is approved by ada" in refused.stderr
    assert "--force" in refused.stderr
    busy = nbgen("delete", "waits", "--force", folder=folder)
    assert (busy.exit_code, "has not ended" in busy.stderr) == (1, True)
    assert ids(folder) == ["waits", "cancelled", "done"]
    done = nbgen("delete", "cancelled", "done", "--force", folder=folder)
    assert "2 tasks deleted" in done.stdout
    assert ids(folder) == ["waits"]
    assert "1 file removed" in nbgen("gc", "--delete", folder=folder).stdout
    assert list((folder / "images").glob("*.png")) == []


def test_old_tasks_are_listed_before_they_are_deleted(folder: Path) -> None:
    found = nbgen("gc", "--older-than", "0h", folder=folder).stdout
    assert found.startswith(
        "done\ncancelled\n2 tasks (and the files that only they use)"
    )
    assert "--delete" in found
    assert ids(folder) == ["waits", "cancelled", "done"]
    young = nbgen("gc", "--older-than", "90d", "--delete", folder=folder)
    assert "Nothing to clear up" in young.stdout
    failed = ("gc", "--older-than", "0d", "--failed", "--delete")
    assert read_json(*failed, folder=folder) == {
        "deleted": True,
        "tasks": ["cancelled"],
        "files": [],
    }
    nbgen("reject", "done", "--reviewer", "ada", folder=folder)
    rejected = nbgen(
        "gc", "--older-than", "0w", "--rejected", "--delete", folder=folder
    )
    assert "1 task and 1 file removed." in rejected.stdout
    assert ids(folder) == ["waits"]


@pytest.mark.parametrize("age", ["90", "d", "-1d", "90 days", "1.5d"])
def test_an_age_has_a_unit(folder: Path, age: str) -> None:
    refused = nbgen("gc", f"--older-than={age}", folder=folder)
    assert refused.exit_code == 2
    assert "such as 90d" in refused.output


def test_kinds_of_old_tasks_need_an_age(folder: Path) -> None:
    refused = nbgen("gc", "--failed", "--delete", folder=folder)
    assert refused.exit_code == 2
    assert "--older-than" in refused.output


@pytest.mark.parametrize("more", [(), ("--delete",)])
def test_no_task_is_deleted_where_another_database_may_use_the_pictures(
    folder: Path, more: tuple[str, ...]
) -> None:
    (folder / "images" / f"owner-{'0' * 32}").touch()
    refused = nbgen("gc", "--older-than", "0d", *more, folder=folder)
    assert refused.exit_code == 1
    assert "Several databases keep their pictures here" in refused.stderr
    assert ids(folder) == ["waits", "cancelled", "done"]


@pytest.mark.parametrize("name", ["nbgen.sqlite", "images/a.zip", "images", ""])
def test_a_backup_onto_what_is_kept_is_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    refused = nbgen("backup", name, "--force", folder=folder)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: path must be a file")
    assert refused.stderr.count("\n") == 1
    assert ids(folder) == ["waits", "cancelled", "done"]


def remove(file: Path) -> None:
    file.unlink()


def overwrite(file: Path) -> None:
    file.write_bytes(b"not a database" * 1_000)


def scribble(file: Path) -> None:
    """Write over all pages but the first."""
    with file.open("r+b") as database:
        database.seek(4_096)
        database.write(b"\xff" * (file.stat().st_size - 4_096))


@pytest.mark.parametrize("lose", [remove, overwrite, scribble])
def test_what_an_error_says_of_backups_works(
    folder: Path, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    file, new = tmp_path / "backup.zip", tmp_path / "new"
    nbgen("backup", str(file), folder=folder)
    lose(folder / "nbgen.sqlite")
    said = nbgen("tasks", folder=folder).stderr
    found = re.search(r"'nbgen (restore FILE --data-dir NEW-FOLDER)'", said)
    assert found is not None, said
    words = found[1].replace("FILE", str(file)).replace("NEW-FOLDER", str(new))
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    assert ids(new) == ["waits", "cancelled", "done"]
    # In the place of the lost one, it is the database of other pictures.
    shutil.copy(new / "nbgen.sqlite", folder / "nbgen.sqlite")
    assert "is another one" in nbgen("tasks", folder=folder).stderr


def test_what_the_page_says_of_backups_works(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbgen("backup", str(tmp_path / "backup.zip"), folder=folder)
    page = HELP_PAGE.read_text()
    [command] = re.findall(r"^ *nbgen (restore .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, command.split()).exit_code == 0
    assert ids(tmp_path / "new-folder") == ["waits", "cancelled", "done"]


def test_a_backup_and_its_restoring(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.zip"
    done = nbgen("backup", str(file), folder=folder)
    assert "3 tasks and 1 picture backed up" in done.stdout
    again = nbgen("backup", str(file), folder=folder)
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    [picture] = (folder / "images").glob("*.png")
    told = read_json("backup", str(file), "--force", folder=folder)
    assert told == {"tasks": 3, "pictures": 1, "missing": []}
    new = tmp_path / "new"
    assert "Restored to" in nbgen("restore", str(file), folder=new).stdout
    assert ids(new) == ["waits", "cancelled", "done"]
    assert (new / "images" / picture.name).read_bytes() == picture.read_bytes()
    refused = nbgen("restore", str(file), folder=new)
    assert (refused.exit_code, "new or empty" in refused.stderr) == (1, True)


def test_a_missing_picture_is_told(folder: Path, tmp_path: Path) -> None:
    [picture] = (folder / "images").glob("*.png")
    picture.unlink()
    done = nbgen("backup", str(tmp_path / "backup.zip"), folder=folder)
    assert done.exit_code == 0
    assert "the files of 1 picture are gone or damaged" in done.stdout
    assert picture.name in done.stdout
