"""How the steps of a request are split, as far as the request alone says."""

from __future__ import annotations

from typing import Any

import pytest

from nbgen.schema import GenerationRequest, rough_plan

PICTURE = "0" * 32 + ".png"


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, {"base_model": 40, "refiner_model": 10}),
        ({"denoising_end": 0.5}, {"base_model": 25, "refiner_model": 25}),
        ({"use_refinement": False}, {"base_model": 50}),
        ({"num_inference_steps": 1}, {"base_model": 1}),
        (
            {"image": PICTURE, "strength": 0.5},
            {"base_model": 15, "refiner_model": 10},
        ),
        ({"image": PICTURE, "strength": 0.1}, {"base_model": 5}),
    ],
)
def test_steps_are_split_as_the_request_says(
    fields: dict[str, Any], steps: dict[str, int]
) -> None:
    plan = rough_plan(GenerationRequest(prompt="a cat", **fields))
    assert {planned.stage: planned.steps for planned in plan} == steps
