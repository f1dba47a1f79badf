"""Starts child processes that end with this one.

Any thread may call every function. The open ends are known to the whole process, so
that a fork of it closes them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import IO

from nbgen.generation.pipe import PipeEnd

# With the module search path of this process, which a notebook may have changed.
_PROGRAM = (
    "import sys; lifeline = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "del sys.argv[1:]; "
    "from nbgen.generation.child import main; main(lifeline)"
)


def start_child() -> tuple[IO[bytes], int, subprocess.Popen[bytes]]:
    """Start the process; return where its errors go, the lifeline and itself."""
    with contextlib.ExitStack() as opened:
        errors: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())
        end, lifeline = os.pipe()
        _lifelines.add(lifeline)
        opened.callback(let_lifeline_go, lifeline)
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _PROGRAM, str(end), *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=(end,) if os.name == "posix" else (),
                # Out of reach of what a terminal or a kernel's manager sends to a
                # group.
                start_new_session=True,
            )
        finally:
            os.close(end)
        opened.pop_all()
    return errors, lifeline, process


def take_pipes(process: subprocess.Popen[bytes]) -> tuple[PipeEnd, PipeEnd]:
    """Return the pipes to and from a child."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        output = PipeEnd(process.stdin.fileno())
        _lifelines.add(output.fileno())
        return output, PipeEnd(process.stdout.fileno())


# Descriptors whose closing ends a child.
_lifelines: set[int] = set()


def let_lifeline_go(descriptor: int) -> None:
    """Close the end of a pipe whose closing ends a child."""
    _lifelines.discard(descriptor)
    os.close(descriptor)


def forget_pipe(pipe: PipeEnd) -> None:
    """Close the pipe to a child."""
    _lifelines.discard(pipe.fileno())
    pipe.close()


def _let_go() -> None:
    """Close, in a fork of this process, what would keep children alive after it."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _lifelines:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
