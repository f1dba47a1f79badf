"""What tests of several folders share: the parts of a studio, and how it is watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.generation.engine import CancelToken
from nbgen.local.backend import LocalBackend
from nbgen.local.opening import Library, Workshop
from nbgen.local.runner import Runner
from nbgen.schema import Changes, GenerationProgress
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing import PatternEngine


def library(studio: Studio) -> Library:
    return _local(studio).library


def workshop(studio: Studio) -> Workshop:
    parts = _local(studio)._parts.workshop  # noqa: SLF001 - no face shows it
    assert parts is not None
    return parts


def _local(studio: Studio) -> LocalBackend:
    assert isinstance(studio.backend, LocalBackend)
    return studio.backend


@contextmanager
def another_runs(folder: Path, database: str | None = None) -> Iterator[Store]:
    """Have the turn at running a queue, as another process would; return its store."""
    store = Store(folder, database)
    turn = store.open_turn()
    while not turn.take():  # a studio releases its own in a moment
        time.sleep(0.01)
    try:
        yield store
    finally:
        turn.release()
        store.close()


def until(studio: Studio, is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for changes until something is so; fail if it does not come to be."""
    told: SimpleQueue[Changes] = SimpleQueue()
    stop = studio.watch_changes(told.put)
    try:
        while not is_so():
            told.get(timeout=timeout_s)
    finally:
        stop()


class CancelledEngine(PatternEngine):
    """Tells when its work is cancelled.

    Args:
        before_step: See ``PatternEngine``.
    """

    def __init__(self, before_step: Callable[[int], None] | None = None) -> None:
        super().__init__(before_step)
        self.cancelled = threading.Event()

    def generate(self, *args: Any, cancel: CancelToken, **options: Any) -> Any:
        cancel.on_cancel(self.cancelled.set)
        return super().generate(*args, cancel=cancel, **options)


def closes(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set once a studio is being closed."""
    is_closing = threading.Event()
    let_go = Runner._let_go  # noqa: SLF001 - nothing else tells

    def let_go_and_tell(runner: Runner) -> None:
        let_go(runner)
        is_closing.set()

    monkeypatch.setattr(Runner, "_let_go", let_go_and_tell)
    return is_closing


def until_end(
    states: SimpleQueue[GenerationProgress], timeout_s: float = 30.0
) -> list[GenerationProgress]:
    """Return the states up to the end, as a watcher puts them into a queue."""
    seen: list[GenerationProgress] = []
    while not (seen and seen[-1].status.ended):
        seen.append(states.get(timeout=timeout_s))
    return seen
