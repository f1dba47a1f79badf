"""Who watches a task that runs here is told when its data folder vanishes."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.schema import GenerationProgress, Outcome
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine


def test_watchers_are_told_while_the_task_runs(tmp_path: Path) -> None:
    folder, gate = tmp_path / "data", Gate(at_step=2)
    seen: SimpleQueue[GenerationProgress] = SimpleQueue()
    with Studio(folder, engine=PatternEngine(gate)) as studio:
        task = studio.generate("a cat", num_inference_steps=4)
        gate.wait_reached()
        task.watch(seen.put)
        elsewhere = folder.rename(tmp_path / "elsewhere")
        while not (state := seen.get(timeout=10)).message.startswith("The data folder"):
            pass
        assert "has vanished" in state.message
        assert state.outcome is None
        assert not folder.exists()
        gate.open()
        while (state := seen.get(timeout=10)).outcome is None:
            pass
        assert state.outcome is Outcome.FAILED
        elsewhere.rename(folder)


def test_nobody_takes_the_turn_in_a_folder_that_has_vanished(tmp_path: Path) -> None:
    """A lock in a new folder would let two run one queue, each in its own."""
    folder = tmp_path / "data"
    store = Store(folder)
    turn = store.open_turn()
    elsewhere = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataFolderUnusable, match="cannot be used"):
        turn.take()
    assert not folder.exists()
    elsewhere.rename(folder)
    assert turn.take()
    turn.release()
    store.close()
