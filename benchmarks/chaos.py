"""Stops, freezes and kills processes that share a queue, and counts what was lost.

Run: ``.venv/bin/python benchmarks/chaos.py --disturbances 300``. Three processes
submit, cancel, reorder, retry, pause and resume at random, and run tasks when they have
the turn. One of them gets SIGKILL, SIGTERM, or SIGSTOP and SIGCONT, again and again.
With ``--postgresql`` the queue is in a database of a server that is started for this,
and all connections are dropped now and then.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.chaos import WRONG, Chaos
from tests.postgresql import running_server


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disturbances", type=int, default=300)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started_s = time.perf_counter()
    with ExitStack() as closing:
        folder = closing.enter_context(tempfile.TemporaryDirectory())
        drop = None
        if arguments.postgresql:
            server = closing.enter_context(running_server())
            os.environ["NBGEN_DATABASE"] = url = server.new_database()
            drop = partial(server.drop_connections, url)
        chaos = Chaos(Path(folder), arguments.seed, drop_connections=drop)
        chaos.run(disturbances=arguments.disturbances)
    for name, count in sorted(chaos.counts.items()):
        mark = "  must be 0" if name in WRONG else ""
        print(f"{name:<45}{count:>8,}{mark}")
    print(f"{'seconds in all':<45}{time.perf_counter() - started_s:>8.0f}")
    sys.exit(any(chaos.counts[name] for name in WRONG))


if __name__ == "__main__":
    main()
