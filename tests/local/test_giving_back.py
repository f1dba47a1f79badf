"""What runs when its studio is closed waits again, whatever its engine does."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.generation.process import ProcessEngine
from nbgen.generation.worker_process import ProcessTiming
from nbgen.schema import AttemptOutcome, GenerationProgress, Status
from nbgen.store.running import RunStore
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.generation.engines import HungEngine
from tests.parts import until

ROOT = Path(__file__).parent.parent.parent


def test_a_process_that_hangs_holds_up_no_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)  # for the process to find its engine
    engine = ProcessEngine(HungEngine, ProcessTiming(cancel_s=3_600.0))
    studio = Studio(tmp_path, engine=engine)
    task = studio.generate("a cat", num_inference_steps=10)
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    task.watch(seen.put)
    while seen.get(timeout=30).current_step < 2:
        pass
    closing = threading.Thread(target=studio.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    with Studio(tmp_path, engine=PatternEngine()) as again:
        until(again, lambda: again.offered() == [task.id])
        again.run_offered()
        assert again.task(task.id).result(10).images
        [given_back, made] = again.attempts(task.id)
        assert given_back.outcome is AttemptOutcome.GIVEN_BACK
        assert (made.number, made.seed) == (2, given_back.seed)


def test_another_studio_s_watcher_sees_it_wait_and_end(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()

    def wait_for(status: Status) -> None:
        while seen.get(timeout=10).status is not status:
            pass

    with Studio.open_library(tmp_path) as looking:
        studio = Studio(tmp_path, engine=PatternEngine(gate))
        task = studio.generate("a cat", num_inference_steps=3)
        gate.wait_reached()
        looking.watch(task.id, seen.put)
        wait_for(Status.GENERATING)
        gate.open()
        studio.close()
        wait_for(Status.PENDING)
        assert looking.get_record(task.id).started_at is None
        with Studio(tmp_path, engine=PatternEngine(), take_over=True):
            wait_for(Status.COMPLETED)


def test_an_attempt_that_cannot_be_given_back_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise DataFolderUnusable("The disk is full.")

    gate = Gate(at_step=2)
    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "give_back", fail)
        studio = Studio(tmp_path, engine=PatternEngine(gate))
        task = studio.generate("a cat", num_inference_steps=3)
        gate.wait_reached()
        gate.open()
        studio.close()
    assert "could not be given back" in caplog.text
    with Studio(tmp_path, engine=PatternEngine(), take_over=True) as again:
        assert again.task(task.id).result(10).images
        [lost, made] = again.attempts(task.id)
        assert lost.outcome is AttemptOutcome.LOST
        assert made.outcome is AttemptOutcome.SUCCEEDED
