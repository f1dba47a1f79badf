"""Tables out: the same columns and dtypes whatever there is, also through files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbgen
from nbgen.errors import InvalidRequest
from nbgen.frames.tables import records_frame
from nbgen.schema import GenerationRequest, GenerationResult
from nbgen.studio import Studio

MakeStudio = Callable[..., Studio]
UTC = "datetime64[us, UTC]"


@pytest.fixture
def full(make_studio: MakeStudio) -> Studio:
    """Return a studio with tasks of every kind and decisions on them."""

    def fail(step: int) -> None:
        if step == 4:
            raise ValueError("no")

    studio = make_studio(fail)
    for name in ("nan", "a cat, “quoted”\n", "None"):
        studio.generate(name, num_images=2, num_inference_steps=3).result(10)
    studio.generate("fails", task_id="fails", num_inference_steps=5)
    studio.generate("a dog", task_id="dog", num_inference_steps=3).result(10)
    studio.approve("dog", reviewer_id="ada", feedback="NA", tags=["hands", "light"])
    studio.undo("dog", reviewer_id="ada")
    studio.reject("dog", reviewer_id="bob", feedback="Too dark")
    studio.pause()
    studio.generate("waits", negative_prompt="red", seed=2**32 - 1)
    return studio


def frames(studio: Studio) -> dict[str, pd.DataFrame]:
    return {
        "tasks": studio.tasks_frame(),
        "images": studio.images_frame(),
        "decisions": studio.decisions_frame(),
    }


def test_tables_say_what_there_is(full: Studio) -> None:
    tasks = full.tasks_frame().set_index("task_id")
    assert tasks.loc["dog", "status"] == "completed"
    assert tasks.loc["dog", "approval_status"] == "rejected"
    assert tasks.loc["dog", "reviewer_id"] == "bob"
    assert tasks.loc["fails", "outcome"] == "failed"
    assert tasks.loc["fails", "error"] == "ValueError: no"
    assert list(tasks["prompt"][:2]) == ["waits", "a dog"]
    waits = tasks.iloc[0]
    assert (waits["status"], waits["seed"]) == ("pending", 2**32 - 1)
    assert pd.isna(waits["outcome"])
    assert pd.isna(waits["ended_at"])
    assert tasks["checkpoint"].dropna().unique().tolist() == ["pattern"]
    assert (tasks["took_s"].dropna() > 0).all()
    images = full.images_frame()
    assert len(images) == 7
    assert list(images["number"][:3]) == [0, 0, 1]
    assert all(Path(path).exists() for path in images["image_path"])
    decisions = full.decisions_frame("dog")
    assert list(decisions["verdict"]) == ["approved", "undone", "rejected"]
    assert decisions.loc[0, "tags"] == "hands; light"
    assert list(decisions["supersedes"].dropna()) == [decisions["sequence"].iloc[0]]
    assert len(full.decisions_frame()) == 3
    assert full.decisions_frame("fails").empty


def test_filters_and_limits_are_those_of_tasks(full: Studio) -> None:
    assert len(full.tasks_frame()) == 6
    assert len(full.tasks_frame(limit=2)) == 2
    assert full.tasks_frame(limit=0).empty
    assert list(full.tasks_frame(text="DOG")["task_id"]) == ["dog"]
    assert list(full.tasks_frame(status="failed")["task_id"]) == ["fails"]
    assert full.tasks_frame(since=dt.datetime.now(dt.UTC)).empty
    assert len(full.images_frame(limit=3)) == 3
    assert len(full.images_frame(text="dog")) == 1
    with pytest.raises(InvalidRequest, match="limit must be a whole number"):
        full.tasks_frame(limit=-1)
    with pytest.raises(InvalidRequest, match="limit must be a whole number"):
        full.images_frame(limit="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="status must be"):
        full.tasks_frame(status="done")


def test_pictures_are_filtered_as_tasks_are(full: Studio) -> None:
    request = GenerationRequest(prompt="x", num_inference_steps=3)
    batch = full.submit_batch({"a": request}, batch_id="pets")
    full.resume()
    batch.result(10)
    dog = full.get_record("dog")
    assert set(full.images_frame(batch_id="pets")["task_id"]) == {"pets:a"}
    assert full.images_frame(batch_id="cows").empty
    assert full.images_frame(limit=0).empty
    newer = full.images_frame(since=dog.created_at)
    assert "dog" in set(newer["task_id"])
    assert set(newer["prompt"]) == {"a dog", "x"}
    row = full.images_frame(text="dog").iloc[0]
    assert dog.result is not None
    assert row["image_url"] == dog.result.images[0].url
    assert row["made_at"] == dog.ended_at


@pytest.mark.parametrize("table", ["tasks", "tasks_frame", "images_frame"])
def test_filters_of_another_kind_are_refused(full: Studio, table: str) -> None:
    find = getattr(full, table)
    batch = full.submit_batch({"a": GenerationRequest(prompt="x")}, batch_id="pets")
    with pytest.raises(InvalidRequest, match=r"batch_id must be the id of a batch, su"):
        find(batch_id=batch)
    for since in ("2026-01-01", dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), pd.NaT):
        with pytest.raises(InvalidRequest, match=r"since must be a datetime with its"):
            find(since=since)


def test_a_decision_is_shown_on_the_pictures_that_it_is_about(studio: Studio) -> None:
    def shown() -> list[object]:
        columns = ["approval_status", "reviewer_id", "feedback"]
        images = studio.images_frame(batch_id=batch.id)[columns].astype(object)
        return [None if row[0] is pd.NA else row for row in images.values.tolist()]  # noqa: PD011 - cells

    df = pd.DataFrame({"headline": ["A cat"]})
    batch = studio.generate_frame(df, num_images=3, prompt="headline", seed=1)
    [made] = batch.result(10)
    assert isinstance(made, GenerationResult)
    [task_id] = batch.task_ids
    names = [image.name for image in made.images]
    pending = ["pending", pd.NA, pd.NA]
    assert shown() == [pending] * 3
    assert list(studio.tasks_frame()["image_name"]) == names[:1]
    studio.approve(task_id, reviewer_id="ada", image=names[2], feedback="This one")
    assert shown() == [None, None, ["approved", "ada", "This one"]]
    assert list(studio.tasks_frame()["image_name"]) == names[2:]
    assert batch.to_frame()["image_path"][0] == str(studio.image_path(names[2]))
    studio.undo(task_id, reviewer_id="ada")
    assert shown() == [pending] * 3
    url = made.images[1].url
    studio.approve(task_id, reviewer_id="ada", featured_image_url=url)
    assert shown() == [None, ["approved", "ada", pd.NA], None]
    studio.undo(task_id, reviewer_id="ada")
    studio.reject(task_id, reviewer_id="bob", feedback="Bad hands", image=names[1])
    assert shown() == [None, ["rejected", "bob", "Bad hands"], None]
    assert list(studio.tasks_frame()["image_name"]) == names[1:2]
    studio.undo(task_id, reviewer_id="bob")
    studio.reject(task_id, reviewer_id="bob", feedback="All bad")
    assert shown() == [["rejected", "bob", "All bad"]] * 3
    assert list(studio.tasks_frame()["image_name"]) == names[:1]


def test_times_are_in_utc_wherever_they_were_taken(studio: Studio) -> None:
    studio.generate("a cat", num_inference_steps=3).result(10)
    [record] = studio.tasks()
    away = record.created_at.astimezone(dt.timezone(dt.timedelta(hours=9)))
    moved = msgspec.structs.replace(record, created_at=away)
    table = records_frame(studio.backend, [record, moved])
    assert table["created_at"].dtype == UTC
    assert list(table["created_at"]) == [record.created_at] * 2


def test_all_tasks_are_there_however_many(studio: Studio) -> None:
    studio.pause()
    many = pd.DataFrame({"prompt": [f"Number {number}" for number in range(1_003)]})
    studio.generate_frame(many)
    assert len(studio.tasks_frame()) == 1_003
    assert len(studio.tasks_frame(limit=1_001)) == 1_001


@pytest.mark.parametrize("name", ["tasks", "images", "decisions"])
def test_columns_and_dtypes_never_vary(name: str, full: Studio, tmp_path: Path) -> None:
    table = frames(full)[name]
    with Studio(tmp_path / "empty", worker="thread", checkpoint="tiny") as empty:
        without_rows = frames(empty)[name]
    assert without_rows.empty
    assert dict(without_rows.dtypes) == dict(table.dtypes)
    kinds = {str(dtype) for dtype in table.dtypes}
    assert kinds <= {"string", "Int64", "float64", "boolean", UTC}
    assert UTC in kinds


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("rows", ["some", "none"])
@pytest.mark.parametrize("name", ["tasks", "images", "decisions"])
def test_files_keep_columns_dtypes_and_values(
    name: str, rows: str, suffix: str, full: Studio, tmp_path: Path
) -> None:
    table = frames(full)[name]
    if rows == "none":
        table = table[:0]
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    pd.testing.assert_frame_equal(nbgen.read_frame(path), table)


def test_a_batch_with_columns_of_its_own_comes_back(
    studio: Studio, tmp_path: Path
) -> None:
    df = pd.DataFrame({"headline": ["A cat", "A dog"], "clicks": [3, 4]})
    batch = studio.generate_frame(df, "headline", num_inference_steps=5)
    batch.result(10)
    table = batch.to_frame()
    table.to_csv(tmp_path / "batch.csv", index=False)
    again = nbgen.read_frame(tmp_path / "batch.csv")
    assert list(again.columns) == list(table.columns)
    assert list(again["clicks"]) == [3, 4]
    assert again["seed"].dtype == "Int64"
    assert again["status"].dtype == "string"
    with pytest.raises(InvalidRequest, match=r"path must be a file that ends in"):
        nbgen.read_frame("batch.xlsx")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_that_only_have_our_names_are_left_alone(
    studio: Studio, tmp_path: Path, suffix: str
) -> None:
    own = pd.DataFrame(
        {
            "headline": ["A cat", "A dog"],
            "priority": ["high", "low"],
            "width": [3.5, 2.5],
            "created_at": ["monday", "tuesday"],
            "use_refinement": ["yes", "no"],
            "zip": [123, 45],
        }
    )
    table = studio.generate_frame(own, "headline", num_inference_steps=5).to_frame()
    path = tmp_path / f"own{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    pd.testing.assert_frame_equal(nbgen.read_frame(path), table)


def test_parquet_keeps_the_dtypes_of_one_s_own_columns(tmp_path: Path) -> None:
    berlin = pd.DatetimeIndex(["2026-01-01"]).tz_localize("Europe/Berlin")
    own = pd.DataFrame({"created_at": berlin, "seed": [1.0], "tags": [["x"]]})
    own.to_parquet(tmp_path / "own.parquet")
    again = nbgen.read_frame(tmp_path / "own.parquet")
    assert dict(again.dtypes) == dict(own.dtypes)
    assert list(again["tags"][0]) == ["x"]


def test_a_table_that_was_written_on_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"seed": [1, 2], "prompt": ["a", 'b\r\n"c"']})
    table.to_csv(path, index=False, lineterminator="\r\n")
    again = nbgen.read_frame(path)
    assert list(again.columns) == ["seed", "prompt"]
    assert list(again["prompt"]) == ["a", 'b\r\n"c"']
    assert list(again["seed"]) == [1, 2]


@given(st.lists(st.text().map(str.strip).filter(bool), max_size=5))
def test_any_prompt_survives_a_csv_file(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str]
) -> None:
    # pandas writes a carriage return alone without quotes.
    prompts = [*prompts, "a\rb"]
    texts = [text.encode("utf-8", "replace").decode() for text in prompts]
    table = pd.DataFrame({"prompt": pd.array(texts, dtype="string")})
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(nbgen.read_frame(path), table)
