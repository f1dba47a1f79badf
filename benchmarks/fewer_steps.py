"""Measures what fewer steps, and guidance that stops early, save and cost.

Run: ``.venv/bin/python benchmarks/fewer_steps.py``. Draws the same 96 captions that
the tiny checkpoint was not trained on, one after the other, with the refiner, and
counts the pictures that are right as ``tools/measure_tiny.py`` does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbgen.generation.engine import CancelToken  # noqa: E402
from nbgen.generation.events import EngineEvent  # noqa: E402
from nbgen.generation.sdxl import SDXLEngine  # noqa: E402
from nbgen.schema import GenerationRequest  # noqa: E402
from tools.measure_tiny import unseen_scenes  # noqa: E402
from tools.tiny.measure import measure  # noqa: E402

CAPTIONS = 96
TRAINED_ON = 40_960
ROWS: Sequence[dict[str, Any]] = (
    {"scheduler": "euler", "num_inference_steps": 20},
    {"scheduler": "euler", "num_inference_steps": 20, "guidance_cutoff": 0.8},
    {"scheduler": "euler", "num_inference_steps": 20, "guidance_cutoff": 0.5},
    {"scheduler": "euler", "num_inference_steps": 12},
    {"scheduler": "euler", "num_inference_steps": 8},
    {"scheduler": "dpmpp_2m_karras", "num_inference_steps": 12},
    {"scheduler": "dpmpp_2m_karras", "num_inference_steps": 8},
    {"scheduler": "unipc", "num_inference_steps": 12},
    {"scheduler": "unipc", "num_inference_steps": 8},
)


class Silent:
    """A reporter that takes no note."""

    def report(self, event: EngineEvent) -> None:
        """Take no note."""

    def wants_preview(self) -> bool:
        """Want none."""
        return False


def main() -> None:
    """Print a row for each way."""
    engine = SDXLEngine("tiny")
    scenes = unseen_scenes(CAPTIONS, 0, TRAINED_ON)
    print("| scheduler | steps | guided | seconds | colour | shape | clean |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        times_s, found = [], []
        for seed, scene in enumerate(scenes):
            request = GenerationRequest(prompt=scene.caption, guidance_scale=4.5, **row)
            started_at_s = time.perf_counter()
            [picture] = engine.generate(
                request, seed=seed, reporter=Silent(), cancel=CancelToken()
            )
            times_s.append(time.perf_counter() - started_at_s)
            found.append(measure(np.asarray(picture), scene))
        shares = []
        for name in ("colour", "shape", "clean"):
            values = [getattr(measured, name) for measured in found]
            share = statistics.fmean(value for value in values if value is not None)
            shares.append(f"{share:.1%}")
        cutoff = row.get("guidance_cutoff", 1.0)
        print(
            f"| {row['scheduler']} | {row['num_inference_steps']} | {cutoff:.0%} | "
            f"{statistics.median(times_s):.2f} | {' | '.join(shares)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
