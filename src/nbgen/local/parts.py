"""The parts of a local backend, and who uses them.

Every method may be called from any thread. The users of the parts, and the parts that
are open in this process, belong to one lock, which is held while parts are opened and
never while they are closed.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nbgen.errors import InvalidRequest
from nbgen.generation.checkpoints import find_checkpoint
from nbgen.generation.engine import Engine
from nbgen.generation.process import ProcessEngine
from nbgen.local.config import StudioConfig
from nbgen.local.opening import Library, Workshop, open_library, open_workshop
from nbgen.progress import ProgressService
from nbgen.review.publishers import Publisher
from nbgen.schema import DRAFT, Draft
from nbgen.threads import start_thread

_lock = threading.Lock()
_Key = tuple[int, Path, str | None]
_open: weakref.WeakValueDictionary[_Key, Parts] = weakref.WeakValueDictionary()
_User = TypeVar("_User")


class Made(NamedTuple):
    """What a caller has made itself, for the parts to work with; None where not.

    Attributes:
        engine: Makes the pictures in this process, instead of SDXL; for tests.
        progress: Notifies watchers; without one, a service is made, and closed with
            the parts.
        publishers: Publish what is approved; without them, those of
            ``nbgen.review.installed``.
    """

    engine: Engine | ProcessEngine | None = None
    progress: ProgressService | None = None
    publishers: Sequence[Publisher] | None = None


class Parts:
    """What the backends of one data folder in this process work with.

    Args:
        config: The settings.
        made: What the caller has made itself.
        library: The parts that find, watch and decide.
        workshop: The parts that run tasks; None where none are run.
        closing: Closes the parts, the last one first.

    Attributes:
        config: See above.
        made: See above.
        library: See above.
        workshop: See above.
        is_closed: Whether all parts are closed.
    """

    def __init__(
        self,
        config: StudioConfig,
        made: Made,
        library: Library,
        workshop: Workshop | None,
        closing: ExitStack,
    ) -> None:
        self.config = config
        self.made = made
        self.library = library
        self.workshop = workshop
        self.is_closed = False
        self._closing = closing
        self._tearing_down = threading.Lock()
        self._process_id = os.getpid()
        self._users: set[object] = set()
        atexit.register(self.close)

    @property
    def is_used(self) -> bool:
        """Whether anybody uses the parts."""
        return bool(self._users)

    def used_by(self, user: object) -> Callable[[], bool]:
        """Count a user, until it leaves or is collected.

        Returns:
            A function with which the user leaves. It returns whether nobody is left,
            so that the user has to close the parts.
        """
        mark = object()
        self._users.add(mark)

        def leave() -> bool:
            collected.detach()
            with _lock:
                self._users.discard(mark)
                return not self._users

        def close_if_last() -> None:
            if leave():
                self.close()

        # On a thread of its own: it may be collected on any thread, with any lock held.
        collected = weakref.finalize(user, start_thread, "nbgen-closing", close_if_last)
        collected.atexit = False  # the parts are closed then, whoever uses them
        return leave

    def close(self, *, finish: bool = False) -> None:
        """Give back what runs and close all parts; see ``nbgen.backend.Backend.close``.

        In a fork of the process that opened them it does nothing: they are not the
        fork's.

        Raises:
            KeyboardInterrupt: It came while this waited. It is raised once all is
                closed; a second one is raised at once and leaves the parts to be
                closed again.
        """
        if os.getpid() != self._process_id:
            return
        scheduler = None if self.workshop is None else self.workshop.scheduler
        try:
            if scheduler is not None:
                scheduler.close(finish=finish)
        finally:
            # Never beneath a task that runs: its end has to be stored and told.
            if scheduler is None or scheduler.has_ended:
                self.is_closed = True
                with self._tearing_down:
                    self._closing.close()
                atexit.unregister(self.close)


def open_parts(config: StudioConfig, made: Made, draft: Draft = DRAFT) -> Parts:
    """Open parts that run tasks, and take over those that wait.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        DataFolderUnusable: The folder or the database cannot be read or written.
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    if made.engine is None:
        find_checkpoint(config.checkpoint)
    with ExitStack() as opening:
        library = open_library(config, made.progress, made.publishers, opening)
        workshop = open_workshop(config, made.engine, library, draft, opening)
        parts = Parts(config, made, library, workshop, opening.pop_all())
    try:
        workshop.scheduler.start()
    except BaseException:
        parts.close()
        raise
    return parts


def open_parts_of_library(
    config: StudioConfig, publishers: Sequence[Publisher] | None
) -> Parts:
    """Open parts that find, decide and clear up, without queue or model.

    Raises:
        DataFolderUnusable: The folder or the database cannot be read or written.
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    with ExitStack() as opening:
        library = open_library(config, None, publishers, opening)
        made = Made(publishers=publishers)
        return Parts(config, made, library, None, opening.pop_all())


def share_parts(
    config: StudioConfig,
    given: Collection[str],
    made: Made,
    use: Callable[[Parts], _User],
) -> _User:
    """Use the parts that are open in this process, or open them; see ``open_parts``.

    Args:
        config: The settings. Its folder and its database say which parts.
        given: The names of the settings that the caller has chosen. Of parts that are
            open, the others may be any.
        made: What the caller has made itself.
        use: Makes a user of parts, which ``Parts.used_by`` counts.

    Raises:
        InvalidRequest: Parts are open that have another setting than one that is given.
    """
    key = (os.getpid(), config.folder.resolve(), config.database_url)
    with _lock:
        parts = _open.get(key)
        if parts is not None and parts.is_used:
            _check_same(parts, config, given, made)
        else:
            parts = _open[key] = open_parts(config, made)
        return use(parts)


def _check_same(
    parts: Parts, config: StudioConfig, given: Collection[str], made: Made
) -> None:
    for name in given:
        wanted, standing = _setting(config, name), _setting(parts.config, name)
        if wanted != standing:
            raise InvalidRequest(name, wanted, f"{standing!r}{_AS_IT_IS_OPEN}")
    for name, wanted in made._asdict().items():
        if wanted is not None and wanted is not getattr(parts.made, name):
            raise InvalidRequest(name, wanted, f"the same{_AS_IT_IS_OPEN}")


_AS_IT_IS_OPEN = (
    ", as in the studio that is open on this data folder in this process; close that "
    "one first to have another"
)


def _setting(config: StudioConfig, name: str) -> Any:
    """Return a setting as it takes effect, equal to all that mean the same."""
    in_effect = {"images": config.picture_place, "quorum": config.approvals_needed}
    value = in_effect.get(name, getattr(config, name))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(path): weight for path, weight in value.items()}
    return value
