"""Sends SIGTERM to servers in the middle of a task, and counts what they did.

Run: ``.venv/bin/python benchmarks/stops.py --times 200``. The servers follow on each
other on one data folder. Each first completes the task that the one before it gave
back. Then it is posted another, gets SIGTERM at a random moment after its first step,
and has to end by itself with exit status 0. The task must wait in the store then.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbgen.schema import Status
from nbgen.studio import Studio

_LONGEST_S = 120.0
_TASK = {"prompt": "a red circle", "num_inference_steps": 100, "wait": False}


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)  # noqa: S311 - moments, no secrets
    counts: Counter[str] = Counter()
    took_s = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.times):
            delay_s = draw.uniform(0, 0.5)
            took_s.append(stop_one(folder, number, delay_s, counts))
            print(f"\r{number + 1} of {arguments.times}", end="", file=sys.stderr)
        with serving(folder) as (_, url):
            complete(url, arguments.times - 1, counts)
    print(file=sys.stderr)
    for name, count in sorted(counts.items()):
        print(f"{name:<45}{count:>6,}")
    median_ms, worst_ms = statistics.median(took_s) * 1000, max(took_s) * 1000
    print(f"{'ms from SIGTERM to the exit, median, worst':<45}", end="")
    print(f"{median_ms:>6.0f}{worst_ms:>8.0f}")
    wrong = {name for name in counts if name.startswith("wrong")}
    sys.exit(bool(wrong))


@contextmanager
def serving(folder: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server; yield it and its address; end it if it has not ended."""
    command = [sys.executable, "-u", "-m", "nbgen", "serve", "--port", "0"]
    command += ["--checkpoint", "tiny", "--data-dir", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, re.findall(r"http://\S+", process.stdout.readline())[0]
        process.kill()


def complete(url: str, number: int, counts: Counter[str]) -> None:
    """Wait until a server has completed what the one before it gave back."""
    if number < 0:
        return
    deadline_s = time.monotonic() + _LONGEST_S
    task = ask(f"{url}/api/tasks/t{number}")
    while not task["outcome"] and time.monotonic() < deadline_s:
        time.sleep(0.1)
        task = ask(f"{url}/api/tasks/t{number}")
    outcome = task["outcome"]
    is_made = outcome == "succeeded" and task["attempt"] == 2
    counts["completed by the next" if is_made else f"wrong: {outcome}"] += 1


def stop_one(folder: str, number: int, delay_s: float, counts: Counter[str]) -> float:
    """Stop one server; return how many seconds it took."""
    with serving(folder) as (process, url):
        complete(url, number - 1, counts)
        ask(f"{url}/api/media/generate", {**_TASK, "task_id": f"t{number}"})
        while ask(f"{url}/api/tasks/t{number}")["current_step"] < 1:
            time.sleep(0.02)
        time.sleep(delay_s)  # the moment is what is tried
        sent_s = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_LONGEST_S)
        except subprocess.TimeoutExpired:
            counts["wrong: SIGTERM was not heard"] += 1
            return _LONGEST_S
        took_s = time.perf_counter() - sent_s
    counts["heard" if status == 0 else f"wrong: exit status {status}"] += 1
    with Studio.open_library(folder) as studio:
        left = studio.get_record(f"t{number}")
    is_given_back = left.status is Status.PENDING and left.started_at is None
    counts["task given back" if is_given_back else f"wrong: {left.status}"] += 1
    return took_s


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=_LONGEST_S) as answer:  # noqa: S310
        return json.load(answer)


if __name__ == "__main__":
    main()
