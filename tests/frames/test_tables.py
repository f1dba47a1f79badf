"""Tables out: the same columns and dtypes whatever there is, also through files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbgen
from nbgen.errors import InvalidRequest
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
    studio.reject("dog", reviewer_id="bob", reason="Too dark")
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


@given(st.lists(st.text().map(str.strip).filter(bool), max_size=5))
def test_any_prompt_survives_a_csv_file(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str]
) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in prompts]
    table = pd.DataFrame({"prompt": pd.array(texts, dtype="string")})
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(nbgen.read_frame(path), table)
