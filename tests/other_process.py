"""A process that shares a data folder with the test: it runs, follows and serves.

It reads orders from its input, a line each, and ends with the input. What it says are
changes of the feed and the address of its server, a line each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from nbgen.generation.engine import CancelToken, Reporter
from nbgen.schema import Change, Changes, GenerationRequest
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine

SLOW_STEP_S = 0.05
HELD_AT = 3


class Order(msgspec.Struct, frozen=True):
    """What the process is told to do.

    Attributes:
        submits: The ids of tasks.
        prompt: Their prompt: ``slow`` takes a while for each step, ``held`` waits
            before the third until it is let go on.
        steps: Their sampling steps.
        serves: Whether to serve from now on.
        lets_go: Whether to let what is held go on.
    """

    submits: tuple[str, ...] = ()
    prompt: str = "quick"
    steps: int = 2
    serves: bool = False
    lets_go: bool = False


class Said(msgspec.Struct, frozen=True):
    """What the process says: one of these."""

    change: Change | None = None
    url: str | None = None
    ready: bool = False


class OtherProcess:
    """The process, as a test sees it.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._said: SimpleQueue[Said | None] = SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.next().ready

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    def tell(self, **order: Any) -> None:
        """Give an order; see ``Order``."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(Order(**order)) + b"\n")
        self._process.stdin.flush()

    def next(self) -> Said:
        """Return what it says next."""
        said = self._said.get(timeout=60)
        assert said is not None, "It has ended."
        return said

    def close(self) -> int:
        """Have it end, and return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._reader.join()
            with self._process:
                pass

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(msgspec.json.decode(line, type=Said))
        self._said.put(None)


class _Engine(PatternEngine):
    """Draws as fast as the prompt says."""

    def __init__(self) -> None:
        super().__init__(self._work)
        self.gate = Gate(HELD_AT)
        self._prompt = ""

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: Reporter,
        cancel: CancelToken,
        **pictures: Any,
    ) -> Any:
        self._prompt = request.prompt
        return super().generate(
            request, seed=seed, reporter=reporter, cancel=cancel, **pictures
        )

    def _work(self, step: int) -> None:
        if self._prompt == "slow":
            time.sleep(SLOW_STEP_S)
        if self._prompt == "held":
            self.gate(step)


def _say(**what: Any) -> None:
    # One write, so that the lines of threads do not mix.
    os.write(1, msgspec.json.encode(Said(**what)) + b"\n")


def _say_changes(changes: Changes) -> None:
    for change in changes.changes:
        _say(change=change)


def main(folder: Path) -> None:
    """Do as the input says until it ends."""
    engine = _Engine()
    with Studio(folder, engine=engine) as studio, ExitStack() as closing:
        studio.watch_changes(_say_changes)
        _say(ready=True)
        for line in sys.stdin.buffer:
            order = msgspec.json.decode(line, type=Order)
            for task_id in order.submits:
                studio.generate(
                    order.prompt, task_id=task_id, num_inference_steps=order.steps
                )
            if order.serves:
                server = closing.enter_context(Server(studio))
                _say(url=server.url)
            if order.lets_go:
                engine.gate.open()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
