"""The parts of a studio that tests look at: those of its local backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from nbgen.local.backend import LocalBackend
from nbgen.local.opening import Library, Runner
from nbgen.studio import Studio


def library(studio: Studio) -> Library:
    return _local(studio).library


def runner(studio: Studio) -> Runner:
    parts = _local(studio).runner
    assert parts is not None
    return parts


def _local(studio: Studio) -> LocalBackend:
    assert isinstance(studio.backend, LocalBackend)
    return studio.backend


@contextmanager
def another_runs(folder: Path) -> Iterator[None]:
    """Hold the lock of the process that runs tasks, as another process would."""
    with FileLock(folder / "runner.lock"):
        yield
