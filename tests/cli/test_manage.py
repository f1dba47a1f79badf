"""The commands on what was made, run as a person runs them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from nbgen.cli.terminal import app
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder with a picture to decide on, and a task that waits."""
    folder = tmp_path / "data"
    with Studio(folder, engine=PatternEngine()) as studio:
        studio.generate("a [bold] cat", task_id="done", seed=7).result(10)
    with Studio.open_library(folder) as library:
        library.generate("a dog", task_id="waits")
    return folder


def nbgen(*words: str, folder: Path) -> Result:
    command = [*words, "--data-dir", str(folder)]
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, command)


def read_json(*words: str, folder: Path) -> Any:
    done = nbgen(*words, "--json", folder=folder)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_tasks_are_listed_and_none_is_started(folder: Path) -> None:
    shown = nbgen("tasks", folder=folder).stdout
    assert "a [bold] cat" in shown
    assert shown.index("waits") < shown.index("done")
    listed = read_json("tasks", "--status", "completed", folder=folder)
    assert [task["id"] for task in listed] == ["done"]
    assert listed[0]["request"]["prompt"] == "a [bold] cat"
    assert "no such tasks" in nbgen("tasks", "--text", "cow", folder=folder).stdout
    again = read_json("tasks", "--status", "pending", folder=folder)
    assert [task["id"] for task in again] == ["waits"]


def test_the_tasks_of_a_batch_are_listed(folder: Path) -> None:
    with Studio(folder, engine=PatternEngine()) as studio:
        request = studio.get_record("done").request
        studio.submit_batch({"cat": request}, batch_id="pets").result(10)
    listed = read_json("tasks", "--batch", "pets", folder=folder)
    assert [task["id"] for task in listed] == ["pets:cat"]
    assert "no such tasks" in nbgen("tasks", "--batch", "cows", folder=folder).stdout


def test_a_decision_and_its_undo(folder: Path) -> None:
    approved = nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    assert approved.exit_code == 0
    assert "ada" in approved.stdout
    refused = nbgen("reject", "done", "--reviewer", "bob", folder=folder)
    assert refused.exit_code == 1
    assert "ada" in refused.stderr
    undone = read_json("undo", "done", "--reviewer", "ada", folder=folder)
    assert undone["verdict"] == "undone"
    reject = ("reject", "done", "--reviewer", "bob", "--reason", "Dull")
    rejected = read_json(*reject, "--tag", "colour", folder=folder)
    assert (rejected["feedback"], rejected["tags"]) == ("Dull", ["colour"])
    [task] = read_json("tasks", "--status", "completed", folder=folder)
    assert task["approval_status"] == "rejected"


def test_an_approval_is_published_before_the_command_ends(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "approved"
    monkeypatch.setenv("NBGEN_PUBLISH_FOLDER", str(place))
    approved = nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    assert f"Published by folder: {(place / 'done.png').as_uri()}" in approved.stdout
    assert (place / "done.png").read_bytes().startswith(b"\x89PNG")
    # Said again, it says so again.
    again = read_json("approve", "done", "--reviewer", "ada", folder=folder)
    assert [entry["state"] for entry in again["publications"]] == ["published"]


def test_a_publication_that_fails_is_said_and_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "approved"
    place.write_text("in the way")
    monkeypatch.setenv("NBGEN_PUBLISH_FOLDER", str(place))
    approved = nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    assert approved.exit_code == 0
    assert "Not yet published by folder (Task 'done' could not be" in approved.stdout
    place.unlink()
    with Studio(folder, engine=PatternEngine(), publishers=()) as studio:
        [record] = studio.publications("done")
        assert record.attempts == 1


def test_an_unknown_task_is_one_clear_line(folder: Path) -> None:
    done = nbgen("approve", "gone", "--reviewer", "ada", folder=folder)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: There is no task 'gone'.")


def test_garbage_is_listed_before_it_is_removed(folder: Path) -> None:
    assert "Nothing to clear up" in nbgen("gc", folder=folder).stdout
    orphan = folder / "images" / ("0" * 32 + ".png")
    orphan.write_bytes(b"old")
    os.utime(orphan, (0, 0))
    assert "1 file found; --delete" in nbgen("gc", folder=folder).stdout
    assert orphan.exists()
    removed = read_json("gc", "--delete", folder=folder)
    assert removed == {"deleted": True, "files": [orphan.name]}
    assert not orphan.exists()
    assert len(list((folder / "images").glob("*.png"))) == 1


def test_approved_pictures_are_exported(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "0 tasks with 0 pictures" in nbgen("export", str(out), folder=folder).stdout
    nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    assert "1 task with 1 picture" in nbgen("export", str(out), folder=folder).stdout
    [task] = json.loads((out / "tasks.json").read_text())
    [image] = task["result"]["images"]
    assert (out / image["name"]).read_bytes().startswith(b"\x89PNG")
    assert len(list(out.iterdir())) == 2


def test_only_the_approved_picture_is_exported(folder: Path, tmp_path: Path) -> None:
    with Studio(folder, engine=PatternEngine()) as studio:
        two = studio.generate("cats", task_id="two", num_images=2, seed=3).result(10)
        second = two.images[1].name
        studio.approve("two", reviewer_id="ada", image=second)
    out = tmp_path / "out"
    told = read_json("export", str(out), folder=folder)
    assert told == {"tasks": 1, "files": [second], "missing": []}
    everything = read_json("export", str(out), "--approval", "all", folder=folder)
    assert len(everything["files"]) == 2


def test_an_export_goes_on_where_a_file_is_gone(folder: Path, tmp_path: Path) -> None:
    with Studio(folder, engine=PatternEngine()) as studio:
        gone = studio.generate("a cow", task_id="gone", seed=9).result(10).images[0]
    (folder / "images" / gone.name).unlink()
    done = nbgen("export", str(tmp_path), "--approval", "all", folder=folder)
    assert done.exit_code == 1
    assert f"1 file missing or damaged: {gone.name}" in done.stderr
    assert "3 tasks with 1 picture exported" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--approval", "aproved"), "approval must be 'pending', 'approved'"),
        ((), "folder must be a folder that can be written"),
    ],
)
def test_an_export_that_cannot_be_is_one_clear_line(
    folder: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "out"
    out.write_text("in the way")
    done = nbgen("export", str(out), *words, folder=folder)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {said}")


@pytest.mark.parametrize("width", ["60", "80"])
def test_a_long_prompt_hides_nothing_else(folder: Path, width: str) -> None:
    with Studio(folder, engine=PatternEngine()) as studio:
        prompt = "\x1b[31ma fox\nin the snow, " + "very " * 50
        studio.generate(prompt, task_id="fox", num_inference_steps=1).result(10)
        studio.approve("fox", reviewer_id="ada")
    command = ["tasks", "--data-dir", str(folder)]
    shown = subprocess.run(
        [sys.executable, "-m", "nbgen", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": width},
        timeout=60,
        check=True,
    ).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("fox")]
    assert line.split()[:3] == ["fox", "completed", "approved"]
    assert len(line) <= int(width)
    assert "\x1b" not in shown


def test_to_look_makes_nothing(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for words in (("tasks",), ("gc",), ("check",), ("export", str(tmp_path / "out"))):
        done = nbgen(*words, folder=nowhere)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: Nothing is kept in '{nowhere}' yet.")
    assert not nowhere.exists()


def test_somebody_elses_decision_is_undone_knowingly(folder: Path) -> None:
    nbgen("approve", "done", "--reviewer", "ada", folder=folder)
    refused = nbgen("undo", "done", "--reviewer", "bob", folder=folder)
    assert refused.exit_code == 1
    assert "approved by ada" in refused.stderr
    knows = ("undo", "done", "--reviewer", "bob", "--expect-version", "1")
    assert read_json(*knows, folder=folder)["verdict"] == "undone"


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_every_field_of_a_decision_has_an_option(folder: Path, word: str) -> None:
    with Studio(folder, engine=PatternEngine()) as studio:
        two = studio.generate("cats", task_id="two", num_images=2, seed=3).result(10)
    second = two.images[1]
    words = (word, "two", "--reviewer", "ada", "--feedback", "Well")
    tags = ("--tag", "colour", "--tag", "hands")
    told = read_json(
        *words, *tags, "--image", second.name, "--expect-version", "0", folder=folder
    )
    assert told["verdict"] == {"approve": "approved", "reject": "rejected"}[word]
    assert (told["feedback"], told["tags"]) == ("Well", ["colour", "hands"])
    assert told["image"] == second.name
    late = nbgen(*words, "--expect-version", "0", "--tag", "late", folder=folder)
    assert late.exit_code == 1


def test_a_picture_is_named_by_its_address(folder: Path) -> None:
    url = "https://example.org/cat.png"
    with Studio(folder, engine=PatternEngine()) as studio:
        studio.put_content("post", {})
    words = ("approve", "post", "--reviewer", "ada", "--featured-image-url", url)
    assert read_json(*words, folder=folder)["featured_image_url"] == url


def picture_file(folder: Path) -> Path:
    """Return the only picture of a data folder."""
    [path] = (folder / "images").glob("*.png")
    return path


def test_a_check_of_what_is_sound(folder: Path) -> None:
    done = nbgen("check", folder=folder)
    assert (done.exit_code, done.stdout) == (0, "All is sound. 1 picture checked.\n")
    assert read_json("check", folder=folder) == {
        "sound": True,
        "files": 1,
        "damaged": [],
        "set_aside": [],
        "missing": [],
        "faults": [],
        "out_of_reach": [],
    }


def test_a_check_names_damaged_files_and_repairs_once_asked(folder: Path) -> None:
    path = picture_file(folder)
    path.write_bytes(b"not a picture")
    found = nbgen("check", folder=folder)
    assert found.exit_code == 1
    assert f"damaged: {path.name}, needed by done\n" in found.stdout
    assert "same request and seed" in found.stderr
    repaired = nbgen("check", "--repair", folder=folder)
    assert repaired.exit_code == 1  # a task has lost its picture
    assert f"set aside: {path.name}, needed by done\n" in repaired.stdout
    assert f"missing: {path.name}, needed by done\n" in repaired.stdout
    aside = folder / "images" / "damaged" / path.name
    assert aside.read_bytes() == b"not a picture"
    done = nbgen("check", "--json", folder=folder)
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["sound"], told["damaged"]) == (False, [])
    assert told["missing"] == [{"name": path.name, "task_ids": ["done"]}]


def test_a_repair_of_what_nobody_needs_leaves_nothing_wrong(folder: Path) -> None:
    spare = folder / "images" / ("0" * 32 + ".png")
    spare.write_bytes(b"not a picture")
    assert nbgen("check", folder=folder).exit_code == 1
    done = nbgen("check", "--repair", folder=folder)
    assert done.exit_code == 0
    assert f"set aside: {spare.name}, needed by no task" in done.stdout


def test_a_damaged_file_that_cannot_be_moved_is_still_told(folder: Path) -> None:
    path = picture_file(folder)
    path.write_bytes(b"not a picture")
    (folder / "images" / "damaged").write_text("in the way")
    done = nbgen("check", "--repair", folder=folder)
    assert done.exit_code == 1
    assert f"damaged: {path.name}, needed by done\n" in done.stdout
    fault = (
        f"The picture {path.name} cannot be taken away, though it is damaged: "
        "File exists."
    )
    assert fault in done.stdout
    assert "missing:" not in done.stdout
    assert "same request and seed" in done.stderr
    assert "Check that nbgen may read them" in done.stderr
    assert "database" not in done.stderr
    assert path.read_bytes() == b"not a picture"
    told = json.loads(nbgen("check", "--repair", "--json", folder=folder).stdout)
    assert (told["sound"], told["faults"]) == (False, [fault])
    assert told["damaged"] == [{"name": path.name, "task_ids": ["done"]}]
    assert told["out_of_reach"] == [path.name]


def test_a_check_advises_on_pictures_and_database_at_once(folder: Path) -> None:
    picture_file(folder).write_bytes(b"not a picture")
    with closing(sqlite3.connect(folder / "nbgen.sqlite")) as connection:
        connection.execute("UPDATE tasks SET parent_id = 'gone' WHERE id = 'done'")
        connection.commit()
    done = nbgen("check", folder=folder)
    assert done.exit_code == 1
    assert "same request and seed" in done.stderr
    assert "restore it from a backup, into a new folder" in done.stderr


def test_a_check_finds_a_database_that_contradicts_itself(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "nbgen.sqlite")) as connection:
        connection.execute("UPDATE tasks SET parent_id = 'gone' WHERE id = 'done'")
        connection.commit()
    done = nbgen("check", folder=folder)
    assert done.exit_code == 1
    assert "a row of tasks refers to a row of tasks that is not there" in done.stdout
    assert "restore it from a backup" in done.stderr


def test_a_lost_database_beside_pictures_is_said(folder: Path) -> None:
    (folder / "nbgen.sqlite").unlink()
    for words in (("tasks",), ("check",), ("gc",)):
        done = nbgen(*words, folder=folder)
        assert done.exit_code == 1
        assert "nbgen.sqlite' is missing" in done.stderr
    assert not (folder / "nbgen.sqlite").exists()
