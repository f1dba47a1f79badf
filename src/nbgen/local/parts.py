"""The parts of a local backend, and who uses them.

Every method may be called from any thread. The users of the parts, and the gates,
belong to ``_lock``, which is held for a moment, over nothing. The table of the parts
that are open in this process belongs, folder by folder, to the gate of the folder. A
gate is held while parts are opened, and while closing ones are waited for.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nbgen.errors import CheckpointNotFound, InvalidRequest
from nbgen.generation.checkpoints import find_checkpoint
from nbgen.generation.engine import Engine
from nbgen.generation.process import ProcessEngine
from nbgen.local.config import StudioConfig
from nbgen.local.opening import (
    Library,
    Workshop,
    open_library,
    open_stock,
    open_workshop,
)
from nbgen.progress import ProgressService
from nbgen.review.publishers import Publisher
from nbgen.schema import DRAFT, Draft
from nbgen.threads import start_thread

_Key = tuple[Path, str | None, str]
_lock = threading.Lock()
_open: weakref.WeakValueDictionary[_Key, Parts] = weakref.WeakValueDictionary()
_gates: dict[_Key, threading.RLock] = {}
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
        library: The parts that submit, find, watch and decide.
        workshop: The parts that run tasks; None where none are run.
        closing: Closes the parts, the last one first.

    Attributes:
        config: See above.
        made: See above.
        library: See above.
        workshop: See above.
        in_effect: The settings whose defaults are variables of the process.
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
        # Of each user, whoever has it, who may be gone and leave handles on tasks.
        self._users: dict[object, weakref.ref[object]] = {}
        self._is_ending = False
        # As they take effect now: variables of the process may change.
        self.in_effect = _in_effect(config)
        atexit.register(self.close)

    @property
    def can_be_used(self) -> bool:
        """Whether somebody uses the parts, and nobody closes them."""
        return bool(self._users) and not self._is_ending

    def used_by(self, user: object, holder: object) -> Callable[[], bool]:
        """Count a user, until it leaves or is collected.

        Args:
            user: What uses the parts.
            holder: Whoever has the user. When another user leaves and no holder is
                left, the parts are closed, though handles on tasks have the user still.

        Returns:
            A function with which the user leaves. It returns whether nobody is left,
            so that the user has to close the parts.
        """
        mark = object()
        self._users[mark] = weakref.ref(holder)

        def leave() -> bool:
            if os.getpid() != self._process_id:
                return False
            collected.detach()
            with _lock:
                self._users.pop(mark, None)
                held = [ref for ref in self._users.values() if ref() is not None]
                self._is_ending = self._is_ending or not held
                return self._is_ending

        def close_if_last() -> None:
            with _lock:
                self._users.pop(mark, None)
                self._is_ending = self._is_ending or not self._users
                is_last = self._is_ending
            if is_last:
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
        runner = None if self.workshop is None else self.workshop.runner
        try:
            if runner is not None:
                runner.close(finish=finish)
        finally:
            # Never beneath a task that runs: its end has to be stored and told.
            if runner is None or runner.has_ended:
                self.is_closed = True
                with self._tearing_down:
                    self._closing.close()
                atexit.unregister(self.close)


def open_parts(config: StudioConfig, made: Made, draft: Draft = DRAFT) -> Parts:
    """Open parts that run tasks when they have the turn.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        DataFolderUnusable: The folder or the database cannot be read or written.
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    if made.engine is None:
        find_checkpoint(config.checkpoint)
    with ExitStack() as opening:
        stock = open_stock(config, made.progress, opening)
        workshop = open_workshop(config, made.engine, stock, opening)
        library = open_library(
            config,
            stock,
            workshop,
            publishers=made.publishers,
            draft=draft,
            opening=opening,
        )
        parts = Parts(config, made, library, workshop, opening.pop_all())
    try:
        workshop.runner.start()
    except BaseException:
        parts.close()
        raise
    return parts


def open_parts_of_library(
    config: StudioConfig, publishers: Sequence[Publisher] | None
) -> Parts:
    """Open parts that never run a task, and need no model.

    Raises:
        DataFolderUnusable: The folder or the database cannot be read or written.
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    with ExitStack() as opening:
        stock = open_stock(config, None, opening)
        library = open_library(
            config, stock, None, publishers=publishers, draft=DRAFT, opening=opening
        )
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
        config: The settings. Its folder, database and queue say which parts.
        given: The names of the settings that the caller has chosen. Of parts that are
            open, the others may be any, but for ``images`` and ``quorum``.
        made: What the caller has made itself.
        use: Makes a user of parts, which ``Parts.used_by`` counts.

    Raises:
        InvalidRequest: Parts are open that have another setting than one that is given.
    """
    key = (config.folder.resolve(), config.database_url, config.queue_name)
    with _lock:
        gate = _gates.setdefault(key, threading.RLock())
    with gate:
        parts = _open.get(key)
        if parts is not None:
            if parts.can_be_used:
                _check_same(parts, config, given, made)
            with _lock:
                if parts.can_be_used:
                    return use(parts)
            # Or those that are opened would not find what these give back.
            parts.close(finish=True)
        parts = _open[key] = open_parts(config, made)
        return use(parts)


def _check_same(
    parts: Parts, config: StudioConfig, given: Collection[str], made: Made
) -> None:
    for name in given:
        is_same = _setting(config, name) == _setting(parts.config, name)
        if name not in parts.in_effect and not is_same:
            allowed = f"{getattr(parts.config, name)!r}{_AS_IT_IS_OPEN}"
            raise InvalidRequest(name, getattr(config, name), allowed)
    for name, value in _in_effect(config).items():
        if value != parts.in_effect[name]:
            allowed = f"{parts.in_effect[name]!r}{_AS_IT_IS_OPEN}"
            raise InvalidRequest(name, value, allowed)
    for name, thing in made._asdict().items():
        if thing is not None and not _is_same(thing, getattr(parts.made, name)):
            raise InvalidRequest(name, thing, f"the same{_AS_IT_IS_OPEN}")


_AS_IT_IS_OPEN = (
    ", as in the studio that is open on this data folder in this process; close that "
    "one first to have another"
)


def _in_effect(config: StudioConfig) -> dict[str, str]:
    """Return the settings that variables of the process may decide."""
    return {"images": str(config.picture_place), "quorum": config.approvals_needed}


def _setting(config: StudioConfig, name: str) -> Any:
    """Return a setting, equal to all that mean the same."""
    value = getattr(config, name)
    if name == "checkpoint":
        with suppress(CheckpointNotFound):
            found = find_checkpoint(value, gpu=True)
            # Where SDXL is on the machine, the engine alone knows what "auto" means.
            if value != "auto" or found == find_checkpoint("tiny"):
                return found
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(path): weight for path, weight in value.items()}
    return value


def _is_same(wanted: Any, standing: Any) -> bool:
    """Return whether two are one; of publishers, whether kinds and names are equal."""
    if not (isinstance(wanted, Sequence) and isinstance(standing, Sequence)):
        return wanted is standing
    kinds, others = ([(type(p), p.name) for p in each] for each in (wanted, standing))
    return kinds == others


def _forget() -> None:
    """Begin anew in a fork of this process: a thread of it may have held a lock."""
    global _lock  # noqa: PLW0603 - the one that was held stays so for ever
    _lock = threading.Lock()
    _gates.clear()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
