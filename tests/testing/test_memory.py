"""A studio on ``MemoryBackend`` does all that one on a data folder does."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest

from nbgen import Studio
from nbgen.errors import InvalidRequest, StudioClosed
from nbgen.schema import ApprovalStatus
from nbgen.testing import Gate, MemoryBackend, PatternEngine


def test_a_studio_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGEN_DATA_DIR", str(tmp_path / "unused"))
    with Studio(backend=MemoryBackend()) as studio:
        task = studio.generate("a red circle", task_id="hero-1")
        [image] = task.result(10).images
        assert studio.read_image(image.name)
        assert task.image_paths == []
        studio.approve("hero-1", reviewer_id="ada")
        assert task.record.approval_status is ApprovalStatus.APPROVED
        batch = studio.submit_batch({"x": task.request}, batch_id="b")
        assert len(batch.result(10)) == 1
    assert not (tmp_path / "unused").exists()
    with pytest.raises(StudioClosed):
        studio.tasks()


def test_it_holds_at_a_gate_and_has_limits_of_its_own() -> None:
    gate = Gate(at_step=2)
    backend = MemoryBackend(PatternEngine(gate), quorum="2")
    with Studio(backend=backend) as studio:
        task = studio.generate("a cat")
        gate.wait_reached()
        assert task.progress.current_step == 1
        gate.open()
        task.result(10)
        studio.approve(task.id, reviewer_id="ada")
        assert studio.review(task.id).missing == "1 more approval"
    with pytest.raises(InvalidRequest, match="quorum"):
        MemoryBackend(quorum="none")


def test_all_times_come_from_its_clock() -> None:
    now = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    with Studio(backend=MemoryBackend(now=lambda: now)) as studio:
        task = studio.generate("a cat", num_inference_steps=1)
        task.result(10)
        record = task.record
        assert record.created_at == record.started_at == record.ended_at == now


def test_a_quorum_that_is_none_starts_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidRequest):
        MemoryBackend(quorum="none")
    assert threading.active_count() == before
