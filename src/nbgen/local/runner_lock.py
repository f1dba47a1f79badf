"""Sees to it that one process at a time runs the tasks of a data folder.

Thread-safe, and between processes. The lock is the system's, so it goes when its
process does, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from nbgen.errors import DataFolderInUse, DataFolderUnusable

# One for all, as the studios of a process have one lock on a file, which counts how
# often it was taken.
_taking = threading.Lock()


class RunnerLock:
    """The right to run tasks, of one process at a time.

    Several studios of one process share it: each runs what was submitted to it.

    Args:
        folder: The folder of the store's locks; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._holder = folder / "runner.txt"
        # One for all of this process; a lock of its own for each would exclude them.
        self._lock = FileLock(
            str((folder / "runner.lock").resolve()),
            timeout=0,
            thread_local=False,
            is_singleton=True,
        )
        self.held = False

    def take(self) -> None:
        """Take the right, unless it is held here already.

        Raises:
            DataFolderInUse: Another process has it.
            DataFolderUnusable: The folder cannot be written.
        """
        with _taking:
            if self.held:
                return
            before = self._lock.lock_counter
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                self._holder.write_text(_name())
                self.held = True
            except Timeout:
                raise DataFolderInUse(str(self._folder), self._holder_name()) from None
            except OSError as error:
                raise DataFolderUnusable(
                    f"The data folder {str(self._folder)!r} cannot be used: {error}. "
                    "Choose another with data_dir, --data-dir or NBGEN_DATA_DIR."
                ) from error
            finally:
                # Also if an interrupt came when it was taken and not yet said to be.
                if not self.held and self._lock.lock_counter > before:
                    self._lock.release()

    @property
    def held_elsewhere(self) -> bool:
        """Whether another process has taken it and not released it.

        That process may have died since: ``take`` tells.
        """
        with contextlib.suppress(OSError, ValueError):
            return not self.held and self._holder.read_text() not in ("", _name())
        return False

    def release(self) -> None:
        """Let others take it; no-op if it is not held."""
        with _taking:
            if self.held:
                self.held = False
                if self._lock.lock_counter == 1:  # else another studio here holds it
                    with contextlib.suppress(OSError):
                        self._holder.write_text("")
                self._lock.release()

    def _holder_name(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return self._holder.read_text() or "another process"
        return "another process"


def _name() -> str:
    return f"process {os.getpid()} on {platform.node()}"
