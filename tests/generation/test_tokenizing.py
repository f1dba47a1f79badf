"""Prompts are measured from files as the pipelines' own tokenizers measure them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st

from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.generation.prompt_length import describe_cut, measure
from nbgen.generation.tokenizing import PromptReader, read_limit, tokenizer_folders
from nbgen.schema import PromptLength

FAMILY = "\U0001f469\u200d\U0001f467"
SPECIAL = "<|startoftext|>", "<|endoftext|>", "<|EndOfText|>", "!", "!!!"
PIECES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "red",
            "a circle",
            "it's",
            "😀",
            FAMILY,
            "e\u0301",
            "漢字",
            " ",
            "\n",
            *SPECIAL,
        ]
    ),
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=40).map("".join),
    st.lists(PIECES, max_size=60).map(" ".join),
)
LONG = "a red circle " * 20


def split_files(folder: Path) -> Path:
    """Write the tokenizers of the tiny checkpoint in the files that SDXL has."""
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        held = folder / name
        held.mkdir(parents=True)
        written = json.loads((TINY_FOLDER / name / "tokenizer.json").read_text())
        merges = [" ".join(merge) for merge in written["model"]["merges"]]
        (held / "vocab.json").write_text(json.dumps(written["model"]["vocab"]))
        (held / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        plain = {"lstrip": False, "rstrip": False, "single_word": False}
        begin = {**plain, "content": "<|startoftext|>", "normalized": True}
        end = {**plain, "content": "<|endoftext|>", "normalized": True}
        named = {"bos_token": begin, "eos_token": end, "unk_token": end}
        typed = {key: {"__type": "AddedToken", **one} for key, one in named.items()}
        config = {**typed, "model_max_length": 40}
        (held / "tokenizer_config.json").write_text(json.dumps(config))
        listed = json.dumps({**named, "pad_token": pad})
        (held / "special_tokens_map.json").write_text(listed)
    return folder


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Return a folder with both tokenizers, in each form that there is."""
    if request.param == "tokenizer.json":
        return TINY_FOLDER
    return split_files(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def reader(folder: Path) -> PromptReader:
    return PromptReader(tokenizer_folders(folder))


@pytest.fixture(scope="module")
def pipelines_own(folder: Path) -> list[Any]:
    """Return the tokenizers that a pipeline has."""
    return [
        transformers.CLIPTokenizer.from_pretrained(folder / name)
        for name in ("tokenizer", "tokenizer_2")
    ]


def test_both_forms_are_what_they_are_called(tmp_path: Path) -> None:
    assert not list(split_files(tmp_path).rglob("tokenizer.json"))
    assert not list(TINY_FOLDER.rglob("vocab.json"))


@given(TEXTS)
@example(LONG)
@example("😀" * 12)
@example("wow!!! " * 20)
@example("a <|EndOfText|> b <|endoftext|> c")
def test_the_length_is_the_pipelines(
    reader: PromptReader, pipelines_own: list[Any], text: str
) -> None:
    readings = [
        tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        ).offset_mapping
        for tokenizer in pipelines_own
    ]
    assert reader.measure(text) == measure(readings, reader.limit)
    counts = [
        len(tokenizer(text, verbose=False).input_ids) - 2 for tokenizer in pipelines_own
    ]
    assert reader.measure(text).tokens == min(counts)


def read(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens that a pipeline gives its text encoder."""
    ids: list[int] = tokenizer(
        text,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
    ).input_ids
    return ids


@given(TEXTS, TEXTS)
@example(LONG, "a blue square")
@example("wow!!! " * 20, "!")
def test_what_stands_behind_the_cut_is_not_read(
    reader: PromptReader, pipelines_own: list[Any], text: str, other: str
) -> None:
    cut_at = reader.measure(text).cut_at
    if cut_at is None:
        return
    if not (text[cut_at - 1].isspace() and text[cut_at].isascii()):
        return  # a word or a character of several tokens, read in part
    for tokenizer in pipelines_own:
        assert read(tokenizer, text) == read(tokenizer, text[:cut_at] + other)


@given(TEXTS)
@example(LONG)
def test_a_cut_lies_in_the_text_where_there_is_one(
    reader: PromptReader, text: str
) -> None:
    length = reader.measure(text)
    assert (length.tokens > length.limit) == (length.cut_at is not None)
    if length.cut_at is not None:
        assert 0 < length.cut_at < len(text)
        assert reader.measure(text[: length.cut_at]).tokens <= length.limit + 1


def test_the_marks_of_begin_and_end_do_not_count() -> None:
    folders = tokenizer_folders(TINY_FOLDER)
    assert read_limit(folders) == 38
    assert PromptReader(folders).measure("a red circle").tokens == 3
    assert PromptReader(folders).measure("").tokens == 0


def test_the_smaller_limit_counts(tmp_path: Path) -> None:
    config = split_files(tmp_path) / "tokenizer_2" / "tokenizer_config.json"
    config.write_text(json.dumps({"model_max_length": 12}))
    assert PromptReader(tokenizer_folders(tmp_path)).limit == 10


def test_one_text_encoder_will_do(tmp_path: Path) -> None:
    split_files(tmp_path)
    [_, second] = tokenizer_folders(tmp_path)
    assert PromptReader([second]).measure("wow!!!").tokens == 6


def test_a_token_that_was_added_is_one(tmp_path: Path) -> None:
    """As training a model on a word of its own leaves it."""
    config = split_files(tmp_path) / "tokenizer" / "tokenizer_config.json"
    added = {"content": "<my-cat>", "special": False, "normalized": True}
    listed = {"added_tokens_decoder": {"726": {**added, "lstrip": False}}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **listed}))
    mine = PromptReader([config.parent]).measure("a <my-cat>").tokens
    theirs: Any = transformers.CLIPTokenizer.from_pretrained(config.parent)
    assert mine == len(theirs("a <my-cat>").input_ids) - 2 == 2


def test_a_lone_surrogate_counts_as_the_question_mark_that_replaces_it() -> None:
    reader = PromptReader(tokenizer_folders(TINY_FOLDER))
    assert reader.measure("a\ud800 " * 20) == reader.measure("a? " * 20)


def test_many_threads_measure_at_once() -> None:
    reader = PromptReader(tokenizer_folders(TINY_FOLDER))
    texts = ["a red circle " * count for count in range(100)]
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(reader.measure, texts))
    assert [length.tokens for length in lengths] == [3 * n for n in range(100)]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "vocab.json", "merges.txt"])
@pytest.mark.parametrize("content", [None, "", "[]"])
def test_a_broken_file_is_an_error(
    tmp_path: Path, file: str, content: str | None
) -> None:
    path = split_files(tmp_path) / "tokenizer" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    if (file, content) == ("merges.txt", ""):
        return  # a tokenizer without merges is one
    with pytest.raises(Exception):  # noqa: B017, PT011 - of whatever class
        PromptReader(tokenizer_folders(tmp_path))


@pytest.mark.parametrize(
    ("cut_at", "quoted"),
    [(2, "… red circle"), (4, "…d circle"), (7, "… circle")],
)
def test_a_note_quotes_what_is_left_out(cut_at: int, quoted: str) -> None:
    length = PromptLength(tokens=3, limit=1, cut_at=cut_at)
    assert describe_cut("prompt", "a red  circle", length) == (
        f"The model reads 1 of the prompt's 3 tokens. Left out: '{quoted}'."
    )


def test_a_note_is_short() -> None:
    length = PromptLength(tokens=999, limit=1, cut_at=2)
    for text in ("a " + "circle " * 200, "a " + "漢" * 500):
        note = describe_cut("negative prompt", text, length)
        assert "of the negative prompt's 999 tokens" in note
        assert note.endswith(" …'.")
        assert len(note) < 150
