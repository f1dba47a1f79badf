"""Remembers how long the stages of like runs took, for the time left of the next one.

A file of the data folder: it may be deleted at any time, and a broken one is taken for
an empty one. Thread-safe: the content belongs to a lock.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nbgen.atomic import write_atomic
from nbgen.schema import GenerationRequest, Stage, StagePlan, rough_plan

logger = logging.getLogger(__name__)

_NEWEST_WEIGHS = 0.5
"""The share of the newest run in what is remembered; the rest is what was before."""
_MOST_KINDS = 500
_KEEP_EVERY_S = 1.0


class _Content(msgspec.Struct):
    """What is in the file.

    Attributes:
        made_with: By checkpoint, what its last pictures were made with.
        seconds: By kind of run, the seconds of each stage, or of each step of it for
            stages with steps.
    """

    made_with: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[Stage, float]] = {}


class Timings:
    """The stages of like runs: the same model, device, types, size and batch.

    Args:
        path: The file.
        checkpoint: The model as the studio was asked for it.
    """

    def __init__(self, path: Path, checkpoint: str) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._is_kept = True
        self._kept_at_s = float("-inf")
        try:
            self._content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except (OSError, msgspec.DecodeError):
            self._content = _Content()

    def expected_s(
        self,
        request: GenerationRequest,
        plan: Sequence[StagePlan] | None = None,
        *,
        loaded: bool,
    ) -> dict[Stage, float]:
        """Return the seconds that the stages of a run will take; empty if not known.

        Args:
            request: What is to be made.
            plan: Its stages; None before they are known exactly.
            loaded: Whether the model is in memory already.
        """
        with self._lock:
            made_with = self._content.made_with.get(self._checkpoint, {})
            known = dict(self._content.seconds.get(_kind(request, made_with), {}))
        if loaded:
            known.pop(Stage.LOAD, None)
        steps = _steps(rough_plan(request) if plan is None else plan)
        return {
            stage: seconds * steps.get(stage, 0 if stage in _SAMPLING else 1)
            for stage, seconds in known.items()
        }

    def remember(
        self,
        request: GenerationRequest,
        plan: Sequence[StagePlan],
        stage_times_s: Mapping[Stage, float],
        *,
        was_loaded: bool,
        made_with: Mapping[str, str],
    ) -> None:
        """Take in how long the stages of a run took that succeeded.

        The file is written once a second at most; ``keep`` writes the rest.

        Args:
            request: What was made.
            plan: Its stages.
            stage_times_s: The seconds that each took.
            was_loaded: Whether the model was in memory before.
            made_with: See ``Engine.facts``.
        """
        steps = _steps(plan)
        measured = {
            stage: seconds / steps.get(stage, 1)
            for stage, seconds in stage_times_s.items()
            if stage is not Stage.COMPILE and not (was_loaded and stage is Stage.LOAD)
        }
        kind = _kind(request, made_with)
        with self._lock:
            known = self._content.seconds.pop(kind, {})
            for stage, seconds in measured.items():
                before = known.get(stage, seconds)
                known[stage] = before + _NEWEST_WEIGHS * (seconds - before)
            # At the end, so that the first is the one not seen for longest.
            self._content.seconds[kind] = known
            while len(self._content.seconds) > _MOST_KINDS:
                del self._content.seconds[next(iter(self._content.seconds))]
            self._content.made_with[self._checkpoint] = dict(made_with)
            self._is_kept = False
            is_due = time.monotonic() - self._kept_at_s >= _KEEP_EVERY_S
        if is_due:
            self.keep()

    def keep(self) -> None:
        """Write what is remembered into the file, if it is not there already."""
        with self._lock:
            if self._is_kept:
                return
            self._is_kept = True
            self._kept_at_s = time.monotonic()
            data = msgspec.json.encode(self._content)
        try:
            write_atomic(self._path, data)
        except Exception as error:  # noqa: BLE001 - a time left is not worth a failure
            logger.warning("The times of the last run could not be kept: %s", error)


_SAMPLING = (Stage.BASE_MODEL, Stage.REFINER_MODEL)


def _kind(request: GenerationRequest, made_with: Mapping[str, str]) -> str:
    return json.dumps(
        [
            *(made_with.get(name) for name in ("checkpoint", "device", "dtype")),
            request.width,
            request.height,
            request.num_images,
            request.guidance_scale > 1,
            request.output_format,
        ]
    )


def _steps(plan: Sequence[StagePlan]) -> dict[Stage, int]:
    return {planned.stage: planned.steps for planned in plan if planned.steps}
