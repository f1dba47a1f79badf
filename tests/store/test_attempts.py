"""The earlier attempts at a task are kept with it, with the pictures that they made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nbgen.errors import UnknownTask
from nbgen.keeping import restore
from nbgen.schema import Attempt, AttemptOutcome
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

WAIT_S = 30.0


def open_studio(folder: Path, database: str | None) -> Studio:
    return Studio(folder, engine=PatternEngine(), database=database)


def make_twice(studio: Studio) -> list[Attempt]:
    """Have "a" made, and made anew with another request; return both attempts."""
    for prompt in ("a cat", "a dog"):
        task = studio.generate(
            prompt, task_id="a", seed=1, num_inference_steps=2, replace=True
        )
        task.result(WAIT_S)
    attempts = studio.attempts("a")
    assert [each.request.prompt for each in attempts] == ["a cat", "a dog"]
    assert {each.outcome for each in attempts} == {AttemptOutcome.SUCCEEDED}
    return attempts


def picture(attempt: Attempt) -> str:
    assert attempt.result is not None
    return attempt.result.images[0].name


def age_pictures(folder: Path) -> None:
    for path in (folder / "images").glob("*.png"):
        os.utime(path, (0, 0))


def test_garbage_holds_no_picture_of_an_attempt_and_all_once_its_task_is_deleted(
    tmp_path: Path, database: str | None
) -> None:
    with open_studio(tmp_path, database) as studio:
        first, second = map(picture, make_twice(studio))
        assert first != second
        age_pictures(tmp_path)
        assert studio.collect_garbage(dry_run=False) == []
        assert studio.read_image(first)
        studio.delete(["a"])
        with pytest.raises(UnknownTask):
            studio.attempts("a")
        age_pictures(tmp_path)
        assert set(studio.collect_garbage(dry_run=False)) == {first, second}


def test_a_task_of_the_same_id_has_no_attempts_of_the_deleted_one(
    tmp_path: Path, database: str | None
) -> None:
    """Its row may get the number of the deleted one."""
    with open_studio(tmp_path, database) as studio:
        make_twice(studio)
        studio.delete(["a"])
        task = studio.generate("a bird", task_id="a", num_inference_steps=2)
        task.result(WAIT_S)
        [only] = studio.attempts("a")
        assert (only.number, only.request.prompt) == (1, "a bird")


def test_a_backup_keeps_the_attempts_and_their_pictures(tmp_path: Path) -> None:
    with open_studio(tmp_path / "data", None) as studio:
        attempts = make_twice(studio)
        done = studio.backup(tmp_path / "backup.zip")
        assert (done.pictures, done.missing) == (2, ())
    restore(tmp_path / "backup.zip", tmp_path / "new")
    with Studio.open_library(tmp_path / "new") as again:
        assert again.attempts("a") == attempts
        assert all(again.read_image(picture(each)) for each in attempts)
