"""What tests of several folders share: the parts of a studio, and how it is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from filelock import FileLock

from nbgen.local.backend import LocalBackend
from nbgen.local.opening import Library, Workshop
from nbgen.schema import Changes, GenerationProgress
from nbgen.studio import Studio


def library(studio: Studio) -> Library:
    return _local(studio).library


def workshop(studio: Studio) -> Workshop:
    parts = _local(studio).workshop
    assert parts is not None
    return parts


def _local(studio: Studio) -> LocalBackend:
    assert isinstance(studio.backend, LocalBackend)
    return studio.backend


@contextmanager
def another_runs(folder: Path) -> Iterator[None]:
    """Hold the lock of the process that runs tasks, as another process would."""
    lock = FileLock(folder / "runner.lock", thread_local=False)
    # A thread that holds no lock: a studio releases its own in a moment, and waiting
    # for what the same thread holds would be refused as a deadlock.
    with ThreadPoolExecutor(1) as other:
        other.submit(lock.acquire).result()
        try:
            yield
        finally:
            other.submit(lock.release).result()


def until(studio: Studio, is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for changes until something is so; fail if it does not come to be."""
    told: SimpleQueue[Changes] = SimpleQueue()
    stop = studio.watch_changes(told.put)
    try:
        while not is_so():
            told.get(timeout=timeout_s)
    finally:
        stop()


def until_end(
    states: SimpleQueue[GenerationProgress], timeout_s: float = 30.0
) -> list[GenerationProgress]:
    """Return the states up to the end, as a watcher puts them into a queue."""
    seen: list[GenerationProgress] = []
    while not (seen and seen[-1].status.ended):
        seen.append(states.get(timeout=timeout_s))
    return seen
