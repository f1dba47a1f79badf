"""The command line.

``generate`` has the commands that make pictures, ``manage`` those that list, decide on,
clear up and export what was made. Commands only translate; the rules are the studio's
and the server's.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

from nbgen.cli import generate, manage
from nbgen.cli.terminal import app

__all__ = ["generate", "main", "manage"]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A prompt may have letters that the terminal or the file has not.
            stream.reconfigure(errors="replace")
    app()
