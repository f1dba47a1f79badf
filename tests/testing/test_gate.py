"""The helpers that users test with: the gate, and collected progress."""

from __future__ import annotations

import pytest

from nbgen.errors import GenerationFailed
from nbgen.schema import GenerationRequest, Outcome, Status
from nbgen.testing import Gate, collect_progress
from nbgen.testing.plugin import MakeStudio

REQUEST = GenerationRequest(prompt="a cat", num_inference_steps=3)


def test_a_gate_holds_the_step_and_no_other(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate(at_step=2)
    task = make_nbgen_studio(gate).submit(REQUEST)
    assert gate.wait_reached() == 2
    assert task.progress.current_step == 1
    assert gate.steps == [1, 2]
    assert repr(gate) == "Gate(closed, at step 2)"
    assert not gate.is_open
    gate.open()
    assert gate.is_open
    task.result(10)
    assert gate.steps == [1, 2, 3]
    assert repr(gate) == "Gate(open, at step 2)"


def test_release_lets_so_many_go_on(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate()
    studio = make_nbgen_studio(gate)
    first, second = studio.submit(REQUEST), studio.submit(REQUEST)
    gate.wait_reached()
    gate.release()
    first.result(10)
    gate.wait_reached()
    assert second.status is Status.GENERATING
    with pytest.raises(TimeoutError, match=r"came to step 1 within 0\.01 s.*: 1, 2, 3"):
        gate.wait_reached(0.01)
    gate.release()
    second.result(10)


def test_a_release_may_come_first(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate()
    gate.release()
    make_nbgen_studio(gate).submit(REQUEST).result(10)


def test_a_gate_may_hold_every_step(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate(at_step=None)
    task = make_nbgen_studio(gate).submit(REQUEST)
    for step in (1, 2, 3):
        assert gate.wait_reached() == step
        assert task.progress.current_step == step - 1
        gate.release()
    task.result(10)
    assert repr(gate) == "Gate(closed, at every step)"
    with pytest.raises(TimeoutError, match=r"came to a step within"):
        gate.wait_reached(0.01)


def test_a_gate_can_have_a_generation_fail(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate()
    studio = make_nbgen_studio(gate)
    failing = studio.submit(REQUEST, task_id="a")
    gate.fail(ValueError("no"))
    with pytest.raises(GenerationFailed, match="ValueError: no"):
        failing.result(10)
    gate.release()
    studio.submit(REQUEST, task_id="b").result(10)


def test_a_forgotten_gate_says_so(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate(timeout_s=0.01)
    task = make_nbgen_studio(gate).submit(REQUEST)
    with pytest.raises(GenerationFailed, match=r"held step 1 for 0\.01 s.*open\(\)"):
        task.result(10)


def test_progress_is_collected_to_the_end(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate()
    studio = make_nbgen_studio(gate)
    task = studio.submit(REQUEST, task_id="a")
    gate.wait_reached()
    with pytest.raises(TimeoutError, match=r"'a' did not end within 0\.01 s.*Sampling"):
        collect_progress(studio, "a", timeout_s=0.01)
    with pytest.raises(TimeoutError, match=r"'b' did not .* nothing was told of it"):
        collect_progress(studio, "b", timeout_s=0.01)
    gate.open()
    states = collect_progress(studio, "a")
    assert [s.seq for s in states] == sorted({s.seq for s in states})
    assert states[-1].outcome is Outcome.SUCCEEDED
    task.result(10)
    assert collect_progress(studio, "a") == states[-1:]
