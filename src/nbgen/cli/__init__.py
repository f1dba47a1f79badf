"""The command line.

Commands on a data folder: ``generate`` has those that make pictures, ``queue`` those
that order, cancel and retry tasks, ``tasks`` those that list, check and export them,
``show`` the one that shows one, ``decide`` those that decide on them, ``keep`` those
that delete, clear up and back up. Commands on a server: ``server`` has those that
serve, or that speak to a server. Commands only translate; the rules are the studio's
and the server's.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

from nbgen.cli import decide, generate, keep, queue, server, show, tasks
from nbgen.cli.terminal import app

__all__ = ["decide", "generate", "keep", "main", "queue", "server", "show", "tasks"]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A prompt may have letters that the terminal or the file has not.
            stream.reconfigure(errors="replace")
    app()
