"""Tables in: columns, constants and templates become tasks, all or none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nbgen.errors import InvalidRequest, RowErrors, UnknownImage
from nbgen.frames.rows import read_rows
from nbgen.images import read_source
from nbgen.schema import GenerationRequest, SchedulerName
from nbgen.studio import Studio

HEADLINES = pd.DataFrame(
    {
        "id": [11, 12, 13],
        "headline": ["A cat", "A dog", "A bird"],
        "price": [3.5, 2.0, None],
        "steps": [5, None, 7],
        "seed": pd.array([1, None, 3], dtype="Int64"),
        "refine": [True, False, True],
    }
)


def no_picture(field: str, value: Any) -> Any:
    raise InvalidRequest(field, value, "left out")


def read(
    df: Any, prompt: str = "headline", **options: Any
) -> dict[str, GenerationRequest]:
    key, overrides = options.pop("key", None), options.pop("overrides", None)
    rows = read_rows(
        df,
        prompt,
        key=key,
        overrides=overrides,
        fields=options,
        check_picture=no_picture,
    )
    return rows.requests


def mistakes(df: pd.DataFrame, **options: Any) -> list[tuple[Any, ...]]:
    with pytest.raises(RowErrors) as caught:
        read(df, **options)
    return list(caught.value.table.itertuples(index=False, name=None))


def test_a_table_becomes_pictures_and_comes_back_with_them(studio: Studio) -> None:
    df = HEADLINES.set_index(pd.Index(["x", "y", "x"]))
    batch = studio.generate_frame(
        df,
        "{headline}, watercolor",
        key="id",
        num_inference_steps="steps",
        seed="seed",
        width=64,
        height=64,
    )
    batch.result(20)
    studio.approve(batch.task_ids[1], reviewer_id="ada", feedback="Good")
    made = batch.to_frame()
    assert list(made.index) == ["x", "y", "x"]
    pd.testing.assert_frame_equal(made[list(df.columns)], df)
    # The table has a seed of its own, which stays.
    assert list(made.columns[len(df.columns) :]) == [
        "task_id",
        "nbgen_seed",
        "image_path",
        "status",
        "error",
        "approval_status",
        "reviewer_id",
        "feedback",
    ]
    assert list(made["status"]) == ["completed"] * 3
    assert list(made["nbgen_seed"])[::2] == [1, 3]
    assert made["nbgen_seed"].dtype == "Int64"
    assert list(made["approval_status"]) == ["pending", "approved", "pending"]
    assert made["feedback"].iloc[1] == "Good"
    assert made["reviewer_id"].isna().tolist() == [True, False, True]
    prompts = [studio.get_record(i).request.prompt for i in batch.task_ids]
    assert prompts == [f"A {animal}, watercolor" for animal in ("cat", "dog", "bird")]
    steps = [studio.get_record(i).request.num_inference_steps for i in batch.task_ids]
    assert steps == [5, 50, 7]
    for path in made["image_path"]:
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
    assert repr(batch) == "FrameBatch(3 rows)"


def test_tables_are_the_caller_s_to_change(studio: Studio) -> None:
    df = HEADLINES[["headline"]].copy()
    batch = studio.generate_frame(df, "headline", num_inference_steps=5)
    df["headline"] = "changed"
    made = batch.to_frame()
    made["headline"] = made["status"] = "changed"
    again = batch.to_frame()
    assert list(again["headline"]) == list(HEADLINES["headline"])
    assert "changed" not in set(again["status"])


def test_what_came_back_goes_in_again(studio: Studio) -> None:
    df = pd.DataFrame({"headline": ["A cat", "A dog"], "seed": [1, 2]})

    def run(df: pd.DataFrame) -> pd.DataFrame:
        batch = studio.generate_frame(df, "headline", num_inference_steps=5)
        batch.result(20)
        return batch.to_frame()

    first = run(df)
    stale = first.assign(status="stale", nbgen_seed=0)
    pd.testing.assert_frame_equal(run(stale), first)
    assert list(first["seed"]) == [1, 2]
    plain = run(df[["headline"]])
    assert list(plain.columns[:3]) == ["headline", "task_id", "seed"]
    pd.testing.assert_frame_equal(run(plain.assign(status="stale")), plain)
    # With some of the names, it is a table of the caller's.
    some = run(plain.drop(columns="feedback").assign(status="mine", nbgen_error="x"))
    assert list(some["status"]) == ["mine", "mine"]
    assert list(some["nbgen_status"]) == ["completed", "completed"]
    assert some["nbgen_error"].isna().all()
    assert len(studio.tasks()) == 2


def test_rows_run_at_the_priority_that_is_asked_for(studio: Studio) -> None:
    studio.pause()
    later = studio.generate_frame(HEADLINES, "headline", name="later")
    sooner = studio.generate_frame(HEADLINES, "headline", name="sooner", priority=5)
    assert studio.waiting() == sooner.task_ids + later.task_ids


def test_run_again_it_makes_what_is_missing(studio: Studio) -> None:
    df = HEADLINES[["id", "headline"]].copy()

    def run() -> list[str]:
        batch = studio.generate_frame(df, "headline", key="id", num_inference_steps=5)
        batch.result(20)
        return batch.task_ids

    first = run()
    assert run() == first
    df.loc[1, "headline"] = "Two dogs"
    df = pd.concat([df, pd.DataFrame({"id": [14], "headline": ["A fish"]})])
    changed = run()
    assert [changed[0], changed[2]] == [first[0], first[2]]
    assert changed[1] != first[1]
    assert len(studio.tasks()) == 5
    with pytest.raises(InvalidRequest, match="name must be 1 to 60 letters"):
        studio.generate_frame(df, "headline", name="a new one")
    renamed = studio.generate_frame(df, "headline", num_inference_steps=5, name="new")
    renamed.result(20)
    assert renamed.task_ids[0].startswith("new:")
    assert len(studio.tasks()) == 9


def test_a_wrong_row_queues_nothing_and_all_mistakes_are_told(studio: Studio) -> None:
    df = pd.DataFrame(
        {
            "id": ["a", "b", "b", None],
            "headline": ["A cat", None, "A dog", "A bird"],
            "steps": [5, 6, 500, 7],
            "scheduler": ["euler", "euler", "eular", "ddim"],
        }
    )
    with pytest.raises(RowErrors) as caught:
        studio.generate_frame(
            df,
            "headline",
            key="id",
            num_inference_steps="steps",
            scheduler="scheduler",
        )
    assert studio.tasks() == []
    told = str(caught.value)
    assert told.startswith("3 of 4 rows ask for what is not allowed; none was queued.")
    assert "Row 1 (b): prompt is empty" in told
    assert "And 2 more, in the table of this error." in told
    table = caught.value.table
    assert list(table.columns) == ["row", "key", "field", "value", "error"]
    assert list(table["row"]) == [1, 2, 2, 2, 3]
    assert list(table["field"]) == [
        "prompt",
        "id",
        "num_inference_steps",
        "scheduler",
        "id",
    ]
    assert list(table["value"])[2:4] == ["500", "eular"]
    assert caught.value.code == "row_errors"
    wanted = {"row": "int64", **dict.fromkeys(table.columns[1:], "string")}
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == wanted


def test_each_row_may_have_fields_of_its_own() -> None:
    df = pd.DataFrame(
        {
            "headline": ["A cat", "A dog", "A bird", "A fish"],
            "own": [
                {"seed": np.int64(7), "prompt": "Two cats", "width": None},
                '{"num_inference_steps": 9}',
                None,
                float("nan"),
            ],
        }
    )
    cat, dog, *plain = read(df, overrides="own", num_inference_steps=5).values()
    assert (cat.prompt, cat.seed, cat.width) == ("Two cats", 7, None)
    assert (cat.num_inference_steps, dog.num_inference_steps) == (5, 9)
    assert [request.seed for request in plain] == [None, None]
    df["own"] = pd.Series([{"steps": 3}, "no JSON", [1], '{"width": 1001}'])
    wrong = mistakes(df, overrides="own")
    assert [(row, field) for row, _key, field, *_ in wrong] == [
        (0, "own"),
        (1, "own"),
        (2, "own"),
        (3, "width"),
    ]
    assert "such as 'num_inference_steps'; got 'steps'" in wrong[0][4]
    assert "the nearest are 1000 and 1008" in wrong[3][4]


def test_nothing_in_an_override_overrides_nothing(tmp_path: Path) -> None:
    df = pd.DataFrame(
        {
            "headline": ["A cat", "A dog", "A bird"],
            "own": [{"num_inference_steps": 7}, {"scheduler": "heun"}, None],
        }
    )
    options: dict[str, Any] = {"overrides": "own", "seed": 5, "num_inference_steps": 3}
    df.to_parquet(tmp_path / "own.parquet")
    back = pd.read_parquet(tmp_path / "own.parquet")
    assert back["own"][0] == {"num_inference_steps": 7, "scheduler": None}
    requests = read(df, **options)
    assert read(back, **options) == requests
    assert [each.num_inference_steps for each in requests.values()] == [7, 3, 3]
    df["own"] = pd.Series(['{"seed": null}', {"seed": np.nan}, {"seed": pd.NA}])
    assert [each.seed for each in read(df, **options).values()] == [5, 5, 5]


def test_what_is_overridden_is_not_looked_at() -> None:
    df = pd.DataFrame(
        {
            "headline": [None, "A dog"],
            "steps": [500, 5],
            "own": [{"prompt": "A cat", "num_inference_steps": 6}, None],
        }
    )
    options: dict[str, Any] = {"overrides": "own", "num_inference_steps": "steps"}
    cat, dog = read(df, **options).values()
    assert (cat.prompt, cat.num_inference_steps) == ("A cat", 6)
    assert (dog.prompt, dog.num_inference_steps) == ("A dog", 5)
    cat, _dog = read(df, prompt="{headline}", **options).values()
    assert cat.prompt == "A cat"
    df["own"] = None
    wrong = mistakes(df, **options)
    assert [(row, field) for row, _key, field, *_ in wrong] == [
        (0, "prompt"),
        (0, "num_inference_steps"),
    ]


def test_fields_that_do_not_go_together_are_told_by_row() -> None:
    df = pd.DataFrame({"headline": ["A cat", "A dog"], "count": [1, 2]})
    [wrong] = mistakes(df, seed=2**32 - 1, num_images="count")
    assert (wrong[0], wrong[2]) == (1, "seed")
    assert "each of 2 pictures has a seed" in wrong[4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "headlin"}, r"prompt must be the name of a column, such as 'head"),
        ({"prompt": "zzz"}, r"column \('id', 'headline', .*\), a template such"),
        ({"prompt": "{headlin}"}, "braces hold the name of a column, such as 'headl"),
        ({"prompt": "{}"}, "braces hold the name of a column"),
        ({"prompt": "{headline.upper}"}, "braces hold the name of a column"),
        ({"prompt": "{headline!r}"}, "a template without conversions such as !r; got"),
        ({"prompt": "{headline"}, "a template with columns in braces .expected '}'"),
        ({"prompt": "{headline:>99999}"}, "formats hold numbers of up to four digits"),
        ({"prompt": "{headline:.٩٩٩٩٩}"}, "formats hold numbers of up to four digits"),
        ({"prompt": "{headline:{price}}"}, "formats hold no braces of their own"),
        ({"prompt": "a headline"}, "prompt must be the name of a column, such as 'hea"),
        ({"prompt": 10**5_000}, "got a value of type int that cannot be shown"),
        ({"key": "ID"}, r"key must be the name of a column"),
        ({"key": ["id"]}, r"key must be the name of a column .*; got \['id'\]"),
        ({"key": 0}, r"key must be the name of a column .*; got 0"),
        ({"overrides": ["id"]}, r"overrides must be the name of a column .*got \['id'"),
        ({"overrides": "own"}, "overrides must be the name of a column"),
        ({"num_inference_step": 5}, "such as 'num_inference_steps'; got 'num_inf"),
        ({"num_inference_steps": "step"}, "150, or the name of a column, such as 'st"),
        ({"num_inference_steps": 500}, "from 1 to 150; got 500"),
        ({"scheduler": "eular"}, "or 'unipc', or the name of a column"),
        ({"width": 1001}, "the nearest are 1000 and 1008"),
    ],
)
def test_an_argument_that_no_row_can_use_is_said_at_once(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read(HEADLINES, **options)


def test_of_many_columns_some_are_named() -> None:
    df = pd.DataFrame([range(14)], columns=[f"column {n}" for n in range(14)])
    with pytest.raises(InvalidRequest, match=r"'column 9', and 4 more\), a template"):
        read(df, prompt="zzz")


def test_a_text_of_several_words_is_the_prompt_of_all_rows(studio: Studio) -> None:
    df = pd.DataFrame({"seed": [1, 2], "guidance": [3.0, 4.0]})
    requests = read(df, prompt=" a red circle", seed="seed", guidance_scale="guidance")
    assert [each.prompt for each in requests.values()] == ["a red circle"] * 2
    assert [each.seed for each in requests.values()] == [1, 2]
    studio.pause()
    one = studio.generate_frame(df, "a red circle", seed="seed").id
    assert studio.generate_frame(df, "a red square", seed="seed").id != one
    with pytest.raises(InvalidRequest, match="a text of 1 to 2,000 characters"):
        read(df, prompt="red " * 600)


@pytest.mark.parametrize("nothing", [None, pd.NA, float("nan")])
def test_nothing_stands_for_the_default(studio: Studio, nothing: object) -> None:
    fields = ("seed", "scheduler", "num_inference_steps", "negative_prompt", "image")
    constants: dict[str, Any] = dict.fromkeys(fields, nothing)
    assert read(HEADLINES, **constants) == read(HEADLINES)
    studio.pause()
    batch = studio.generate_frame(HEADLINES, "headline")
    assert studio.generate_frame(HEADLINES, "headline", **constants).id == batch.id
    with pytest.raises(InvalidRequest, match="prompt must be the name of a column"):
        read(HEADLINES, prompt=nothing)  # type: ignore[arg-type]


class Odd:
    """What can be neither written nor shown."""

    def __format__(self, how: str) -> str:
        raise KeyError("\ud800")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Surrogate:
    """What shows itself with what can be neither stored nor sent."""

    def __repr__(self) -> str:
        return "\ud800" * 300


@pytest.mark.parametrize(
    "cell",
    [Odd(), Surrogate(), "\ud800", 10**5_000, b"\xff" * 999],
    ids=["odd", "shown as surrogates", "surrogate", "huge", "bytes"],
)
def test_whatever_is_in_a_cell_its_row_is_told(cell: object) -> None:
    df = pd.DataFrame({"headline": ["A cat"]})
    df["cell"] = pd.Series([cell], dtype=object)
    for field in ("scheduler", "seed", "guidance_scale", "width", "use_refinement"):
        [(row, _key, told, value, _error)] = mistakes(df, **{field: "cell"})
        assert (row, told) == (0, field)
        assert 0 < len(value) <= 200
        value.encode()
    df["headline"] = None
    told = mistakes(df, key="cell")
    assert {row for row, *_ in told} == {0}
    df["cell"] = pd.Series([{"seed": cell}], dtype=object)
    assert len(mistakes(df.assign(headline="A cat"), overrides="cell")) == 1


def test_whatever_an_argument_is_can_be_told() -> None:
    for value in (Odd(), Surrogate(), 10**5_000):
        with pytest.raises(InvalidRequest) as caught:
            read(HEADLINES, scheduler=value)
        assert str(caught.value).encode()


def test_what_cannot_be_written_is_told_by_row() -> None:
    df = pd.DataFrame({"cell": pd.Series([Odd(), 10**5_000, 2**40], dtype=object)})
    [odd, huge] = mistakes(df, prompt="{cell}")
    assert (odd[0], huge[0]) == (0, 1)
    assert "'cell' cannot be written as '': '?'" in odd[4].replace("\\ud800", "?")
    assert "'cell' cannot be written as ''" in huge[4]
    assert len(mistakes(df, prompt="{cell:c}")) == 3


def test_an_empty_key_is_no_key() -> None:
    df = pd.DataFrame({"headline": ["A cat", "A dog", "A bird"], "key": ["", " ", "x"]})
    wrong = mistakes(df, key="key")
    assert [(row, error) for row, *_, error in wrong] == [
        (0, "key is empty, and it is the key of the row."),
        (1, "key is empty, and it is the key of the row."),
    ]


def test_what_is_no_table_is_said() -> None:
    with pytest.raises(InvalidRequest, match="df must be a pandas DataFrame; got"):
        read({"headline": ["A cat"]})
    twice = pd.DataFrame([["A cat", "A dog"]], columns=["headline", "headline"])
    with pytest.raises(InvalidRequest, match="columns have different names"):
        read(twice)


def test_a_template_writes_values_as_a_person_does() -> None:
    df = pd.DataFrame({"a": [1.0, None], "b c": ["x", "y"], "d": [2.5, 3]})
    [only] = read(df[:1], prompt="{{a}} {a} {b c} {d:.2f}").values()
    assert only.prompt == "{a} 1 x 2.50"
    [wrong] = mistakes(df, prompt="{a}")
    assert wrong[0] == 1
    assert "the column 'a', which the template needs, is empty" in wrong[4]
    [number, *_] = mistakes(df, prompt="{b c:.2f}")
    assert "'b c' cannot be written as '.2f'" in number[4]
    [both] = read(df[:1], prompt="{d}", negative_prompt="no {b c}").values()
    assert both.negative_prompt == "no x"


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        (np.array([5, 6]), "num_inference_steps", [5, 6]),
        ([5.0, float("nan")], "num_inference_steps", [5, 50]),
        (pd.array([5, None], dtype="Int64"), "num_inference_steps", [5, 50]),
        (np.array([True, False]), "use_refinement", [True, False]),
        (
            pd.Series([np.bool_(False), np.int64(1) > 0], dtype=object),
            "use_refinement",
            [False, True],
        ),
        (pd.array([True, None], dtype="boolean"), "use_refinement", [True, True]),
        (np.array([1.5, 2], dtype="float32"), "guidance_scale", [1.5, 2]),
        (pd.Categorical(["ddim", "heun"]), "scheduler", ["ddim", "heun"]),
        (pd.array(["ddim", None], dtype="string"), "scheduler", ["ddim", "euler"]),
        ([SchedulerName.DDIM, pd.NaT], "scheduler", ["ddim", "euler"]),
        ([[1], (2,)], "seed", None),
        ([pd.Timestamp("2026-01-01"), "x"], "seed", None),
    ],
)
def test_cells_are_read_whatever_pandas_keeps_them_in(
    values: Any, field: str, expected: list[Any] | None
) -> None:
    df = pd.DataFrame({"headline": ["A cat", "A dog"], "cell": values})
    if expected is None:
        assert [row for row, *_ in mistakes(df, **{field: "cell"})] == [0, 1]
        return
    requests = read(df, **{field: "cell"}).values()
    assert [getattr(request, field) for request in requests] == expected


def test_rows_without_a_key_are_told_apart_by_what_they_ask_for() -> None:
    df = pd.DataFrame({"headline": ["A cat", "A cat", "A dog"]})
    cat, cat_again, dog = read(df)
    assert cat_again == f"{cat}-2"
    assert list(read(df[::-1])) == [dog, cat, cat_again]
    assert list(read(pd.concat([df, df[:1]])))[3] == f"{cat}-3"
    assert list(read(df, num_inference_steps=50)) == [cat, cat_again, dog]
    assert not set(read(df, num_inference_steps=5)) & {cat, cat_again, dog}
    # Stored under that name by whoever made it before, so it stays the same.
    assert list(read(df[2:], num_inference_steps=5)) == ["232e52104040"]


@given(
    keys=st.lists(st.text().filter(str.strip), min_size=1, max_size=5, unique=True),
    prompts=st.lists(st.sampled_from(["a", "b"]), min_size=5, max_size=5),
)
def test_every_key_makes_a_name_of_its_own(keys: list[str], prompts: list[str]) -> None:
    df = pd.DataFrame({"key": keys, "headline": prompts[: len(keys)]})
    names = list(read(df, key="key"))
    assert len(set(names)) == len(keys)
    assert list(read(df[::-1], key="key")) == names[::-1]
    # As a studio takes them.
    assert all(1 <= len(name) <= 60 and name.isascii() for name in names)


def test_a_batch_is_named_by_the_arguments_and_not_by_the_rows(
    studio: Studio,
) -> None:
    def name(df: pd.DataFrame, prompt: str, **options: Any) -> str:
        return studio.generate_frame(df, prompt, **options).id

    cats = pd.DataFrame({"headline": ["A cat"], "own": [None]})
    dogs = pd.DataFrame({"headline": ["A dog"]})
    first = name(cats, "headline", num_inference_steps=5)
    assert name(dogs, "headline", num_inference_steps=5) == first
    others = {
        name(cats, "{headline}", num_inference_steps=5),
        name(cats, "headline", num_inference_steps=6),
        name(cats, "headline", num_inference_steps=5, key="headline"),
        name(cats, "headline", num_inference_steps=5, overrides="own"),
        name(cats, "headline", num_inference_steps=5, name="mine"),
    }
    assert len(others | {first}) == 6


def test_pictures_come_from_files_and_bytes(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(buffer, "PNG")
    df = pd.DataFrame(
        {
            "headline": ["A cat", "A dog", "A bird"],
            "start": [str(tmp_path / "red.png"), buffer.getvalue(), None],
        }
    )
    batch = studio.generate_frame(df, "headline", image="start", num_inference_steps=5)
    batch.result(20)
    names = [record.request.image for record in studio.get_records(batch.task_ids)]
    assert names[2] is None
    for name in names[:2]:
        assert name
        assert studio.read_image(name)
    with pytest.raises(UnknownImage):
        studio.read_image("0" * 32 + ".png")
    df.loc[2, "start"] = str(tmp_path / "none.png")
    with pytest.raises(RowErrors, match=r"Row 2: image must be"):
        studio.generate_frame(df, "headline", image="start")


def test_a_picture_is_read_once_however_many_rows_start_from_it(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "red.png")
    path = str(tmp_path / "red.png")
    read_pictures = []

    def read(field: str, source: Any) -> str | bytes:
        read_pictures.append(source)
        return read_source(field, source)

    monkeypatch.setattr("nbgen.frames.batch.read_source", read)
    studio.pause()
    df = pd.DataFrame(
        {
            "headline": ["A cat", "A dog", "A bird", "A cow"],
            "start": [path, Path(path), blue, blue],
            "own": [None, {"mask": path}, None, {"mask": blue}],
        }
    )
    batch = studio.generate_frame(df, "headline", image="start", overrides="own")
    assert read_pictures == [path, blue]
    requests = [record.request for record in studio.get_records(batch.task_ids)]
    images = [request.image for request in requests]
    assert images[0] == images[1] != images[2] == images[3]
    assert [request.mask for request in requests] == [None, images[0], None, images[2]]


def test_a_table_without_rows_is_a_batch_without_rows(studio: Studio) -> None:
    batch = studio.generate_frame(pd.DataFrame({"headline": []}), "headline")
    assert len(batch) == 0
    assert batch.progress.ended
    assert batch.progress.percentage == 100.0
    assert batch.result(1) == []
    batch.cancel()
    batch.retry()
    assert list(batch.to_frame().columns)[:2] == ["headline", "task_id"]
