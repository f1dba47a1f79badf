"""Runs an engine in a process of its own. Imports no torch.

The process is a fresh interpreter that knows nothing of the caller's ``__main__``, so
scripts, notebooks and servers need no precaution. It ends when its pipe does: by
``close``, and with the process that started it, however that one ends. In Linux another
pipe, the lifeline, has the kernel end it also in the middle of native code.

Thread-safety: a ``ProcessEngine`` is for one thread at a time, like any runner; the
``CancelToken`` of its work may be set from any. While a process lives, three threads of
this one belong to it (see ``worker_process``).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbgen.generation.drawing import Delivery
from nbgen.generation.engine import Cancelled, CancelToken, Engine, Work
from nbgen.generation.events import Ended, EngineEvent
from nbgen.generation.worker_process import ProcessTiming, WorkerProcess

if TYPE_CHECKING:
    from nbgen.generation.memory_plan import MemoryPlan

_DEFAULT_TIMING = ProcessTiming()


def load_sdxl(
    checkpoint: str | Path,
    *,
    memory_plan: MemoryPlan | None = None,
    loras: Mapping[str | Path, float] | None = None,
) -> Engine:
    """Return an ``SDXLEngine`` that has loaded; imports torch, which takes seconds.

    Raises:
        CheckpointNotFound: Something is missing or broken.
    """
    from nbgen.generation.sdxl import SDXLEngine

    engine = SDXLEngine(checkpoint, memory_plan=memory_plan, loras=loras)
    engine.load()
    return engine


class ProcessEngine:
    """Runs an engine in one child process; see ``EngineRunner``.

    A crash or an out-of-memory kill takes nothing else along, and ending the process
    gives all memory back. The process stays between runs, until ``close``; one that
    died is replaced by the next ``run``. It prints nothing and is not interrupted by
    Ctrl-C.

    Besides what the engine raises, ``Ended.error`` may be:

    - ``WorkerDied``: the process ended before it was done, or was killed because it
      said nothing for ``timing.silence_s``;
    - ``EngineFailed``: the engine raised something that is no ``NbgenError``.

    Args:
        make_engine: Called in the child as soon as it has started, so that it loads
            ahead of need. If it raises, the next work calls it again and ends with
            that. It is pickled, so it is a function of a module, or a
            ``functools.partial`` of one.
        timing: How long to wait for a process that does not answer.
        on_loaded: Takes the facts of the engine each time that a process has made it;
            see ``Engine.facts``. It is called on the thread ``nbgen-events`` and must
            return quickly.

    Example::

        runner = ProcessEngine(partial(load_sdxl, "tiny"))
        runner.start()
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        timing: ProcessTiming = _DEFAULT_TIMING,
        *,
        on_loaded: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self._make_engine = pickle.dumps(make_engine)
        self._timing = timing
        self._on_loaded = on_loaded
        self._child: WorkerProcess | None = None

    def start(self) -> None:
        """Start the process unless it runs, without waiting until it is ready."""
        self._running_child()

    def run(
        self,
        work: Work,
        *,
        on_event: Callable[[EngineEvent], None],
        wants_preview: Callable[[], bool],
        cancel: CancelToken,
    ) -> None:
        """Make pictures; see ``EngineRunner.run``.

        A process that has not answered a cancel after ``timing.cancel_s`` is killed.
        """
        deliver = Delivery(on_event, cancel)
        child = None if cancel.cancelled else self._running_child()
        # Again, now that there is a process: ``kill`` may have come before it.
        if child is None or cancel.cancelled:
            deliver(Ended(Cancelled()))
        else:
            child.run(work, deliver, wants_preview)

    def close(self) -> None:
        """End the process once all pictures are encoded, by force if need be.

        A later ``run`` starts another. Calling it again does nothing.
        """
        if self._child is not None:
            self._child.close()
            self._child = None

    def kill(self) -> None:
        """Kill the process, if there is one; any thread may call it.

        What was under way ends as after a cancel if it was cancelled before, and else
        with ``WorkerDied``.
        """
        child = self._child
        if child is not None:
            child.kill()

    @property
    def process_id(self) -> int | None:
        """The id of the process that runs; None if none does."""
        child = self._child
        return child.process_id if child is not None and child.alive else None

    def _running_child(self) -> WorkerProcess:
        if self._child is not None and not self._child.alive:
            self.close()
        if self._child is None:
            self._child = WorkerProcess(
                self._make_engine, self._timing, self._on_loaded
            )
        return self._child
