"""Engines for a process of their own; each class is what makes itself there."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from nbgen.errors import CheckpointNotFound, InvalidRequest, NbgenError
from nbgen.generation.engine import Reporter
from nbgen.generation.events import PreviewMade, StageStarted
from nbgen.schema import Preview
from nbgen.testing.engine import PatternEngine

STEP_S = 0.02


class TellingEngine(PatternEngine):
    """Tells its process in its facts."""

    def __init__(self, before_step: Callable[[int], None] | None = None) -> None:
        super().__init__(before_step)
        self.reporter: Reporter | None = None

    def facts(self) -> dict[str, str]:
        return {**super().facts(), "pid": str(os.getpid())}


class SlowEngine(TellingEngine):
    """Takes a while for each step, and writes their number to a file.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        super().__init__(self._work)

    def _work(self, step: int) -> None:
        time.sleep(STEP_S)
        self._file.write_text(str(step))


class GarblingEngine(TellingEngine):
    """Says a stage that there is none of."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        kwargs["reporter"].report(StageStarted("dreaming"))  # type: ignore[arg-type]
        yield from super().generate(*args, **kwargs)


class HungEngine(TellingEngine):
    """Never comes back from its third step, if there is one."""

    def __init__(self) -> None:
        super().__init__(self._hang)

    def _hang(self, step: int) -> None:
        if step == 3:
            threading.Event().wait()


class PacedEngine(TellingEngine):
    """Takes some time for each step.

    Args:
        step_s: How many seconds.
    """

    def __init__(self, step_s: float) -> None:
        super().__init__(lambda _step: time.sleep(step_s))


class DyingEngine(TellingEngine):
    """Is killed before its third step, the first few times.

    Args:
        file: Remembers how often.
        times: How often.
    """

    def __init__(self, file: Path, times: int) -> None:
        self._file = file
        self._times = times
        super().__init__(self._die)

    def _die(self, step: int) -> None:
        died = len(self._file.read_bytes()) if self._file.exists() else 0
        if step == 3 and died < self._times:
            self._file.write_bytes(b"x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)


class NoisyEngine(TellingEngine):
    """Writes to both outputs, by Python and past it."""

    def __init__(self) -> None:
        super().__init__(self._shout)

    def _shout(self, _step: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            print("noise", file=stream, flush=True)
            os.write(1, b"noise")
            os.write(2, b"noise")


class FailingEngine(TellingEngine):
    """Raises what the prompt names, before its second step."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        prompt = args[0].prompt
        errors = {
            "boom": ValueError("boom"),
            "exit": SystemExit("leave"),
            "size": InvalidRequest("width", 7, "more"),
        }

        def fail(step: int) -> None:
            if step == 2 and prompt in errors:
                raise errors[prompt]

        self._before_step = fail
        return super().generate(*args, **kwargs)


class LookingEngine(SlowEngine):
    """Shows a preview before each step if asked for, to its first reporter too."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        reporter = kwargs["reporter"]
        if self.reporter is not None:
            self.reporter.report(PreviewMade(Preview(b"late", 1, 1)))
        self.reporter = reporter

        def look(step: int) -> None:
            self._work(step)
            if reporter.wants_preview():
                reporter.report(PreviewMade(Preview(b"%d" % step, 8, 8)))

        self._before_step = look
        return super().generate(*args, **kwargs)


class EchoEngine(TellingEngine):
    """Yields the picture to start from and the mask."""

    def generate(self, *_args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        yield from (kwargs["image"], kwargs["mask"])


class NativeEngine(TellingEngine):
    """Says that it works, then keeps the interpreter's lock for longer than any test.

    Args:
        file: Written when it does so.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        super().__init__(self._keep)

    def _keep(self, step: int) -> None:
        if step == 2:
            self._file.write_text("now")
            ctypes.PyDLL(None).sleep(120)


class UnportableEngine(TellingEngine):
    """Raises an error that holds what cannot be sent, before its second step."""

    def __init__(self) -> None:
        super().__init__(self._fail)

    def _fail(self, step: int) -> None:
        if step == 2:
            error = NbgenError("No.")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error


def leaving() -> PatternEngine:
    """Leave, as a library does that thinks itself a program."""
    raise SystemExit("no model")


def missing() -> PatternEngine:
    """Have no engine to give."""
    raise CheckpointNotFound("Gone. Put it back.")


class LateEngine(TellingEngine):
    """Reports a preview to the reporter before, and then its own."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        late, self.reporter = self.reporter, kwargs["reporter"]
        for reporter in (late, self.reporter):
            if reporter is not None:
                reporter.report(PreviewMade(Preview(b"own", 1, 1)))
        return super().generate(*args, **kwargs)


class HeldEngine(TellingEngine):
    """Draws pictures that are not encoded before somebody writes into a pipe.

    Only those of a prompt that begins with "held"; another fails if it is "held, then
    fails", after its pictures. Each step of "slow" takes a while.

    Args:
        pipe: The named pipe; each byte in it lets one picture go.
    """

    def __init__(self, pipe: Path) -> None:
        super().__init__()
        # For both, so that it never ends.
        self._pipe = pipe.open("r+b", buffering=0)

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        prompt = args[0].prompt
        self._before_step = lambda _step: time.sleep(STEP_S if prompt == "slow" else 0)
        for picture in super().generate(*args, **kwargs):
            if prompt.startswith("held"):
                self._hold(picture)
            yield picture
        if prompt.endswith("fails"):
            raise InvalidRequest("width", 7, "more")

    def close(self) -> None:
        self._pipe.close()

    def _hold(self, picture: Image.Image) -> None:
        save = picture.save

        def held(*args: Any, **kwargs: Any) -> None:
            self._pipe.read(1)
            save(*args, **kwargs)

        picture.save = held  # type: ignore[method-assign]


class PoisonedEngine(TellingEngine):
    """Is killed before the second step of any picture of "poison"."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
        prompt = args[0].prompt

        def drink(step: int) -> None:
            if step == 2 and prompt == "poison":
                os.kill(os.getpid(), signal.SIGKILL)

        self._before_step = drink
        return super().generate(*args, **kwargs)
