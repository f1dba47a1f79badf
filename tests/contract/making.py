"""What the tests of the contract make: requests, tasks, pictures and decisions."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from nbgen.backend import Backend
from nbgen.errors import NbgenError
from nbgen.schema import (
    Decision,
    DecisionRequest,
    GenerationRequest,
    Outcome,
    TaskRecord,
    Verdict,
)
from nbgen.testing import Gate

WAIT_S = 30.0
STEPS = 4
A_PICTURE = f"{'0' * 32}.png"
"""The name of a picture that is kept nowhere."""

# Backends of one data folder, or what is done to files on a disk.
local_only = pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)


def asks(prompt: str = "a cat", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt, **{"num_inference_steps": STEPS, "seed": 7, **fields}
    )


def submit(
    backend: Backend, task_id: str, prompt: str = "a cat", priority: int = 0
) -> TaskRecord:
    return backend.submit(asks(prompt), task_id=task_id, priority=priority)


def hold(make_backend: Callable[..., Backend], **options: Any) -> tuple[Backend, Gate]:
    """Return a backend whose task ``runs`` is under way, and the gate that holds it."""
    gate = Gate(at_step=2)
    backend = make_backend(gate, **options)
    submit(backend, "runs")
    gate.wait_reached()
    return backend, gate


def made(backend: Backend, *task_ids: str) -> list[TaskRecord]:
    """Submit tasks, wait for their pictures and return them."""
    for task_id in task_ids:
        submit(backend, task_id)
    for task_id in task_ids:
        assert backend.ended(task_id).result(WAIT_S).outcome is Outcome.SUCCEEDED
    return backend.get_tasks(task_ids)


def says(
    task_id: str, reviewer_id: str, verdict: Verdict = Verdict.APPROVED, **fields: Any
) -> DecisionRequest:
    return DecisionRequest(
        task_id=task_id, reviewer_id=reviewer_id, verdict=verdict, **fields
    )


def decide(backend: Backend, request: DecisionRequest) -> Decision:
    [answer] = backend.decide([request])
    if isinstance(answer, NbgenError):
        raise answer
    return answer


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()
