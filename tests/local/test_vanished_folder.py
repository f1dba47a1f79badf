"""Who watches a task that runs here is told when its data folder vanishes."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

from nbgen.schema import GenerationProgress, Outcome
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
