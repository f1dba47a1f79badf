"""Collects the progress of tasks, for tests."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

from nbgen.backend import Watching
from nbgen.errors import UnknownTask
from nbgen.schema import GenerationProgress


def collect_progress(
    studio: Watching, task_id: str, *, timeout_s: float = 10.0
) -> list[GenerationProgress]:
    """Watch a task until it ends and return the states that its watchers are told.

    The first is the state at the time of the call, the last is the end. For a task
    that has ended there is one::

        studio.generate("a cat", task_id="a")
        states = collect_progress(studio, "a")
        assert states[-1].percentage == 100.0

    Args:
        studio: A studio, or a backend.
        task_id: The task, which need not exist yet.
        timeout_s: How long to wait for the end, in seconds.

    Raises:
        TimeoutError: The task did not end in time.
    """
    told: SimpleQueue[GenerationProgress] = SimpleQueue()
    states: list[GenerationProgress] = []
    until = time.monotonic() + timeout_s
    stop = studio.watch(task_id, told.put)
    try:
        while not (states and states[-1].status.ended):
            states.append(told.get(timeout=max(0.0, until - time.monotonic())))
    except Empty:
        # Asked for, since a watcher may be told too late on a busy machine.
        try:
            last = studio.get_progress(task_id).message
        except UnknownTask:
            last = "nothing was told of it"
        raise TimeoutError(
            f"Task {task_id!r} did not end within {timeout_s:g} s. Its last state: "
            f"{last}"
        ) from None
    finally:
        stop()
    return states
