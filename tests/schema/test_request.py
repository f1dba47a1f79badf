"""Requests are validated when they are made, and say clearly what is wrong."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.errors import InvalidRequest
from nbgen.schema import (
    DECISION_FIELDS,
    GenerationRequest,
    GenerationResult,
    ImageRecord,
)
from nbgen.schema.checks import check_task_id


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", "", "prompt must be a text of 1 to 2,000 characters; got ''."),
        ("prompt", " \n\t ", "1 to 2,000 characters"),
        ("prompt", None, "got None"),
        ("prompt", "x" * 100_000, "got 100,000 characters."),
        ("negative_prompt", "x" * 2_001, "0 to 2,000 characters; got 2,001 characters"),
        ("width", 1001, "multiple of 8 from 64 to 2,048 pixels (the nearest are 1000"),
        ("width", 0, "multiple of 8 from 64 to 2,048 pixels; got 0."),
        ("height", 4096, "height must be a multiple of 8"),
        ("height", "tall", "got 'tall'"),
        ("num_inference_steps", 0, "a whole number from 1 to 150; got 0."),
        ("num_inference_steps", 151, "1 to 150"),
        ("num_inference_steps", 20.0, "got 20.0"),
        ("num_inference_steps", True, "got True"),
        ("guidance_scale", math.nan, "a number from 0 to 20; got nan."),
        ("guidance_scale", -0.1, "0 to 20"),
        ("guidance_scale", "8", "got '8'"),
        ("guidance_scale", 10**400, "0 to 20"),
        ("seed", -1, "0 to 4,294,967,295"),
        ("seed", 2**32, "0 to 4,294,967,295"),
        ("use_refinement", "yes", "true or false; got 'yes'."),
        ("num_images", 17, "1 to 16"),
    ],
)
def test_wrong_value_is_named(field: str, value: Any, said: str) -> None:
    values = {"prompt": "a cat", field: value}
    with pytest.raises(InvalidRequest) as raised:
        GenerationRequest(**values)
    assert raised.value.field == field
    assert raised.value.code == "invalid_request"
    assert str(raised.value).startswith(f"{field} must be ")
    assert said in str(raised.value)
    assert len(str(raised.value)) < 300


def test_prompt_is_trimmed() -> None:
    request = GenerationRequest(prompt="  a cat\n", negative_prompt=" dog ")
    assert (request.prompt, request.negative_prompt) == ("a cat", "dog")


def test_longest_prompt_counts_after_trimming() -> None:
    assert len(GenerationRequest(prompt=" " + "x" * 2_000 + " ").prompt) == 2_000


def test_lone_surrogate_does_not_reach_the_store() -> None:
    assert GenerationRequest(prompt="a \ud800 cat").prompt == "a ? cat"


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "prompt": st.text(max_size=50),
            "width": st.none() | st.integers(0, 3000),
            "num_inference_steps": st.integers(-5, 200),
            "guidance_scale": st.floats(),
            "seed": st.none() | st.integers(),
        },
    )
)
def test_a_request_is_valid_or_says_which_field_is_not(values: dict[str, Any]) -> None:
    try:
        request = GenerationRequest(**{"prompt": "a cat", **values})
    except InvalidRequest as error:
        named = error.field
    else:
        encoded = msgspec.json.encode(request)
        assert msgspec.json.decode(encoded, type=GenerationRequest) == request
        return
    assert named in values


@pytest.mark.parametrize("task_id", ["a", "hero-1", "A.b_c:d-9", "x" * 128])
def test_good_task_id(task_id: str) -> None:
    assert check_task_id(task_id) == task_id


@pytest.mark.parametrize(
    "task_id", ["", "a/b", "a b", ".", "..", "ü", "x" * 129, "a\n", None, 5]
)
def test_bad_task_id(task_id: Any) -> None:
    with pytest.raises(InvalidRequest, match="task_id must be 1 to 128 letters"):
        check_task_id(task_id)


def test_reviewer() -> None:
    check_reviewer_id = DECISION_FIELDS["reviewer_id"].check
    assert check_reviewer_id(" ada ") == "ada"
    with pytest.raises(InvalidRequest, match="reviewer_id must be"):
        check_reviewer_id(" ")


def test_result_shows_only_what_a_rerun_repeats() -> None:
    image = ImageRecord(name="f.png", url="/images/f.png", width=64, height=32, seed=7)
    result = GenerationResult(images=(image,), generation_time=1.25)
    assert repr(result) == "GenerationResult(1 image, 64x32, seed 7)"
