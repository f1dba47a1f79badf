"""Reports steps when the device has done them, not when they were enqueued.

CUDA works through a queue of its own: diffusers' step callback fires when a step has
been put there, and many steps may be there at once. Each report is therefore held back
until an event that was recorded behind its step has come to pass. The sampling thread
only records events; the thread ``nbgen-steps`` waits for them and reports.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, Self

from nbgen.generation.events import StageStarted, StepFinished
from nbgen.schema import Stage
from nbgen.threads import start_thread

if TYPE_CHECKING:
    from nbgen.generation.engine import Reporter

logger = logging.getLogger(__name__)

RUN_AHEAD = 2
"""How many steps the host may be ahead of the device: those that a cancel wastes."""


class DeviceEvent(Protocol):
    """A place in the device's queue, such as ``torch.cuda.Event``."""

    def record(self) -> None:
        """Take the present end of the queue as the place."""

    def synchronize(self) -> None:
        """Wait until the device is there."""


class DoneSteps:
    """Reports the stages and steps of one run, in order.

    ``start_stage`` and ``finish_step`` belong to the sampling thread. Use it as a
    context manager: leaving it reports what is left, and ends the thread.

    Args:
        reporter: Takes stages and steps.
        make_event: Makes an event of the device; None for a device, such as the CPU,
            on which an operation that has returned is done.
    """

    def __init__(
        self, reporter: Reporter, make_event: Callable[[], DeviceEvent] | None
    ) -> None:
        self._reporter = reporter
        self._make_event = make_event
        self._ahead: deque[DeviceEvent] = deque()
        self._reports: SimpleQueue[DeviceEvent | Stage | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._make_event is not None:
            self._thread = start_thread("nbgen-steps", self._report)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._thread is not None:
            self._reports.put(None)
            self._thread.join()

    def start_stage(self, stage: Stage) -> None:
        """Report a stage, once the steps before it are done."""
        if self._make_event is None:
            self._reporter.report(StageStarted(stage))
        else:
            self._reports.put(stage)

    def finish_step(self) -> None:
        """Report the step that was enqueued last, once it is done.

        Waits for an earlier step while the device is more than ``RUN_AHEAD`` behind.
        """
        if self._make_event is None:
            self._reporter.report(StepFinished())
            return
        event = self._make_event()
        event.record()
        self._reports.put(event)
        self._ahead.append(event)
        if len(self._ahead) > RUN_AHEAD:
            self._ahead.popleft().synchronize()

    def _report(self) -> None:
        while (report := self._reports.get()) is not None:
            if isinstance(report, str):
                self._reporter.report(StageStarted(report))
                continue
            try:
                report.synchronize()
            except RuntimeError as error:
                # The device is broken, which the sampling thread finds out by itself.
                logger.debug("Steps are told of no more: %s", error)
                return
            self._reporter.report(StepFinished())
