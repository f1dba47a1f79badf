"""What the tests of the contract make: requests, tasks, pictures and decisions."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest
from PIL import Image

from nbgen.backend import Backend
from nbgen.errors import NbgenError
from nbgen.generation.engine import CancelToken
from nbgen.schema import (
    Change,
    Changes,
    Decision,
    DecisionRequest,
    GenerationRequest,
    Outcome,
    Position,
    TaskRecord,
    Verdict,
)
from nbgen.testing import Gate, PatternEngine

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


class Telling(PatternEngine):
    """Tells by ``is_asked`` that it was asked to end."""

    def __init__(self, before_step: Callable[[int], None]) -> None:
        super().__init__(before_step)
        self.is_asked = Event()

    def generate(
        self, request: GenerationRequest, *, cancel: CancelToken, **others: Any
    ) -> Iterator[Image.Image]:
        cancel.on_cancel(self.is_asked.set)
        return super().generate(request, cancel=cancel, **others)


def hold_telling(make_backend: Callable[..., Backend]) -> tuple[Backend, Gate, Event]:
    """Return what ``hold`` does, and an event that says that the task is to end."""
    gate = Gate(at_step=2)
    engine = Telling(gate)
    backend = make_backend(gate, engine=engine)
    submit(backend, "runs")
    gate.wait_reached()
    return backend, gate, engine.is_asked


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


class Follower:
    """Takes what is told, one change after the other."""

    def __init__(self, backend: Backend, since: Position | None = None) -> None:
        self.told: SimpleQueue[Changes] = SimpleQueue()
        self._left: deque[Change] = deque()
        backend.watch_changes(self.told.put, since=since)
        self.begins = self.told.get(timeout=WAIT_S).position

    def next(self) -> Change:
        while not self._left:
            self._left.extend(self.told.get(timeout=WAIT_S).changes)
        return self._left.popleft()

    def until(self, *last: str) -> list[Change]:
        """Return the changes up to the one of that kind, id and state."""
        seen = [self.next()]
        while told(seen[-1]) != last:
            seen.append(self.next())
        return seen


def told(change: Change) -> tuple[str, str, str]:
    return (change.kind.value, change.id, change.state)
