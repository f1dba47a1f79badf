"""A gate that holds generations at a step of their sampling, for tests.

Thread-safety: every method may be called from any thread. The state belongs to the
gate's condition; generations wait for it on the threads that make them.
"""

from __future__ import annotations

import threading
from collections import deque


class Gate:
    """Holds generations before a step until a test lets them go on. Thread-safe.

    Give it to ``PatternEngine`` as its ``before_step``::

        gate = Gate(at_step=3)
        with Studio(folder, engine=PatternEngine(gate)) as studio:
            task = studio.generate("a cat")
            gate.wait_reached()  # two steps are done, the third has not begun
            assert task.progress.current_step == 2
            gate.open()
            task.result(10)

    Args:
        at_step: The step to hold, from 1; None holds every step.
        timeout_s: How long a generation is held at most, in seconds. Then it fails
            with a ``TimeoutError`` that says so.
    """

    def __init__(self, at_step: int | None = 1, *, timeout_s: float = 30.0) -> None:
        self._at_step = at_step
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._steps: list[int] = []
        self._reached: deque[int] = deque()
        self._orders: deque[BaseException | None] = deque()
        self._open = False

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        step = "every step" if self._at_step is None else f"step {self._at_step}"
        return f"Gate({state}, at {step})"

    @property
    def steps(self) -> list[int]:
        """The numbers of all steps that came to the gate, held or not, in order."""
        with self._changed:
            return list(self._steps)

    @property
    def is_open(self) -> bool:
        """Whether ``open`` was called."""
        return self._open

    def __call__(self, step: int) -> None:
        """Hold a generation if this is the step to hold; called before each step.

        Raises:
            TimeoutError: Nobody let it go on within ``timeout_s``.
            BaseException: The one that was given to ``fail``.
        """
        with self._changed:
            self._steps.append(step)
            if self._at_step not in (None, step):
                return
            self._reached.append(step)
            self._changed.notify_all()
            if not self._changed.wait_for(self._may_go_on, self._timeout_s):
                raise TimeoutError(
                    f"The gate held step {step} for {self._timeout_s:g} s. Call open() "
                    "or release() to let it go on."
                )
            error = self._orders.popleft() if self._orders else None
        if error is not None:
            raise error

    def wait_reached(self, timeout_s: float = 10.0) -> int:
        """Wait until a generation has come to the held step; return the step's number.

        Each arrival is returned once: called again, it waits for the next one.
        Arrivals at an open gate count, too.

        Raises:
            TimeoutError: None came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._reached), timeout_s):
                awaited = "a step" if self._at_step is None else f"step {self._at_step}"
                seen = ", ".join(map(str, self._steps)) or "none"
                raise TimeoutError(
                    f"No further generation came to {awaited} within {timeout_s:g} s. "
                    f"Steps so far: {seen}."
                )
            return self._reached.popleft()

    def open(self) -> None:
        """Let everything go on, from now on and for good."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def release(self, count: int = 1) -> None:
        """Let so many held generations go on, or the next that come, and no more."""
        with self._changed:
            self._orders.extend([None] * count)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Have the generation that is held, or the next that comes, raise an error."""
        with self._changed:
            self._orders.append(error)
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        return self._open or bool(self._orders)
