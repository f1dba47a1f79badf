#!/usr/bin/env python3
"""Measures the tiny checkpoint through the stock pipelines, and draws a contact sheet.

    python tools/measure_tiny.py --prompts 256 --json figures.json
    python tools/measure_tiny.py --prompts 0 --sheet sheet.png

Prompts come from the training grammar, with captions that no training picture had.
Times are wall times on whatever else the machine does; the load average is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.tiny.denoisers import held_out_error  # noqa: E402
from tools.tiny.latents import in_memory, to_samples  # noqa: E402
from tools.tiny.measure import measure  # noqa: E402
from tools.tiny.models import Networks  # noqa: E402
from tools.tiny.scenes import Scene, make_scene  # noqa: E402

# Diffusers publishes no types, and its names are resolved lazily.
_DIFFUSERS: Any = diffusers
_BATCH = 16
_SPLIT = 0.8
# Of 256 prompts: half one shape, near a third two, the rest landscapes.
_MIX = ("one", "two", "one", "landscape", "one", "two", "one", "two")
SHEET_PROMPTS = (
    "a red circle on a blue background",
    "a green triangle on a yellow background",
    "a big white heart on a red background",
    "a small purple star on a black background",
    "a yellow ring on a purple background",
    "an orange square on a white background",
    "a pink diamond on a gray background",
    "a blue cross on a white background",
    "a big yellow star on a black background",
    "a small cyan circle at the top left on a brown background",
    "a purple heart at the bottom right on a yellow background",
    "three red hearts on a white background",
    "a green triangle above a yellow square on a gray background",
    "a pink diamond left of a cyan cross on a black background",
    "a red circle inside a white square on a blue background",
    "a blue star below an orange ring on a white background",
    "a yellow circle right of a purple triangle on a green background",
    "a red heart on a blue square on a yellow background",
    "a white star beside a red diamond on a black background",
    "an orange cross and a green circle on a pink background",
    "green hills by day with a yellow sun",
    "a red house on green hills under a blue sky with clouds",
    "a yellow house with a blue roof in the snow at night with a moon and stars",
    "a white boat on the sea at sunset with a yellow sun",
    "a red boat on the sea by day with clouds",
    "a pine in the snow at night with stars",
    "a tree in a field under a pink sky",
    "mountains at night with a moon and stars",
    "mountains under a pink sky with a yellow sun",
    "a blue car in the desert by day with a yellow sun",
    "a red flower in a field by day with clouds",
    "the sea at sunset with a yellow sun",
)


class Checkpoint:
    """Base and refiner of a folder, as a user of diffusers loads them."""

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        options: dict[str, Any] = {"local_files_only": True, "dtype": torch.float32}
        base = _DIFFUSERS.StableDiffusionXLPipeline.from_pretrained(folder, **options)
        refiner = _DIFFUSERS.StableDiffusionXLImg2ImgPipeline.from_pretrained(
            folder / "refiner",
            text_encoder_2=base.text_encoder_2,
            tokenizer_2=base.tokenizer_2,
            vae=base.vae,
            **options,
        )
        self.load_seconds = time.perf_counter() - start
        for pipeline in (base, refiner):
            pipeline.set_progress_bar_config(disable=True)
        self._base, self._refiner = base, refiner

    def networks(self) -> Networks:
        """Return what the pipelines are made of."""
        base = self._base
        return Networks(
            base.tokenizer,
            base.tokenizer_2,
            base.text_encoder,
            base.text_encoder_2,
            base.vae,
            base.unet,
            self._refiner.unet,
        )

    def draw(
        self,
        prompts: list[str],
        seeds: list[int],
        *,
        guidance: float,
        refine: bool,
        steps: int,
        aesthetic_score: float = 6.0,
    ) -> npt.NDArray[np.uint8]:
        """Return a picture for each prompt, shape (n, 128, 128, 3)."""
        common: dict[str, Any] = {
            "prompt": prompts,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }
        seeded = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if not refine:
            made = self._base(**common, generator=seeded, output_type="np").images
        else:
            latents = self._base(
                **common,
                generator=seeded,
                denoising_end=_SPLIT,
                output_type="latent",
            ).images
            made = self._refiner(
                **common,
                image=latents,
                generator=seeded,
                denoising_start=_SPLIT,
                aesthetic_score=aesthetic_score,
                output_type="np",
            ).images
        pixels: npt.NDArray[np.uint8] = (made * 255).round().astype(np.uint8)
        return pixels


def unseen_scenes(count: int, seed: int, pictures: int) -> list[Scene]:
    """Return scenes whose captions none of the training pictures of a seed has."""
    seen = {make_scene(seed, index).caption for index in range(pictures)}
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < count:
        scene = make_scene(seed + 1_000_003, index, _MIX[len(scenes) % len(_MIX)])
        if scene.caption not in seen:
            scenes.append(scene)
        index += 1
    return scenes


def measure_all(
    checkpoint: Checkpoint,
    scenes: list[Scene],
    *,
    prompted: bool = True,
    **options: Any,
) -> dict[str, list[float]]:
    """Return what was measured, for each picture to which it applies."""
    found: dict[str, list[float]] = {}
    for start in range(0, len(scenes), _BATCH):
        batch = scenes[start : start + _BATCH]
        prompts = [scene.caption if prompted else "" for scene in batch]
        pictures = checkpoint.draw(
            prompts, [start + i for i in range(len(batch))], **options
        )
        for picture, scene in zip(pictures, batch, strict=True):
            for name, right in vars(measure(picture, scene)).items():
                if right is not None:
                    found.setdefault(name, []).append(right)
    return found


def low_noise_errors(checkpoint: Checkpoint, seed: int) -> dict[str, float]:
    """Return how far base and refiner are off in the last fifth of the way.

    The error is that of the clean latents that they see in noisy ones, in deviations
    of the latents, on 256 pictures that neither was trained on.
    """
    networks = checkpoint.networks()
    joined = to_samples(networks, networks.vae, seed + 1_000_003, 0, 256)
    samples = in_memory(joined, torch.device("cpu"))
    return {
        name: held_out_error(unet, samples, 0, 200, refiner=name == "refiner")
        for name, unet in (("base", networks.base), ("refiner", networks.refiner))
    }


def seconds_per_picture(checkpoint: Checkpoint, *, refine: bool, steps: int) -> float:
    """Return the median time of one picture at a time, of five after a first."""
    times = []
    for seed in range(6):
        start = time.perf_counter()
        checkpoint.draw(
            ["a red circle on a blue background"],
            [seed],
            guidance=4.5,
            refine=refine,
            steps=steps,
        )
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def contact_sheet(checkpoint: Checkpoint, steps: int, guidance: float) -> Image.Image:
    """Return `SHEET_PROMPTS` drawn with base and refiner, eight to a row."""
    drawn = [
        checkpoint.draw(
            list(SHEET_PROMPTS[start : start + 8]),
            list(range(start, start + 8)),
            guidance=guidance,
            refine=True,
            steps=steps,
        )
        for start in range(0, len(SHEET_PROMPTS), 8)
    ]
    rows = [np.concatenate(list(row), axis=1) for row in drawn]
    return Image.fromarray(np.concatenate(rows, axis=0))


def main() -> None:
    """Read the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = ROOT / "src" / "nbgen" / "generation" / "tiny"
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--prompts", type=int, default=256, help="0 for none")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--quick", action="store_true", help="one row of the table")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--pictures", type=int, default=40_960, help="of the training")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = Checkpoint(options.folder)
    # The first time diffusers also imports what it needs for it.
    figures: dict[str, Any] = {
        "load_seconds": checkpoint.load_seconds,
        "load_again_seconds": Checkpoint(options.folder).load_seconds,
    }
    if options.sheet is not None:
        contact_sheet(checkpoint, options.steps, options.guidance).save(options.sheet)
    rows: dict[str, dict[str, Any]] = {}
    if options.prompts:
        scenes = unseen_scenes(options.prompts, options.seed, options.pictures)
        rows = {
            "base and refiner": {"guidance": options.guidance, "refine": True},
            "base alone": {"guidance": options.guidance, "refine": False},
            "guidance 1": {"guidance": 1.0, "refine": True},
            "empty prompt": {"guidance": 1.0, "refine": True, "prompted": False},
            "aesthetic score 2.5": {
                "guidance": options.guidance,
                "refine": True,
                "aesthetic_score": 2.5,
            },
        }
        clean = {}
        for name, row in list(rows.items())[: 1 if options.quick else None]:
            found = measure_all(checkpoint, scenes, steps=options.steps, **row)
            clean[name] = found["clean"]
            figures[name] = {k: statistics.fmean(v) for k, v in found.items()}
            shares = "  ".join(f"{k} {v:.1%}" for k, v in figures[name].items())
            print(f"{name:19} {shares}", flush=True)
        for other in ("base alone", "aesthetic score 2.5"):
            if other in clean:
                pairs = zip(clean["base and refiner"], clean[other], strict=True)
                cleaner = statistics.fmean(ours > theirs for ours, theirs in pairs)
                figures[f"cleaner than {other}"] = cleaner
    if not options.quick:
        for refine in (True, False):
            key = f"seconds_{'with' if refine else 'without'}_refiner"
            figures[key] = seconds_per_picture(
                checkpoint, refine=refine, steps=options.steps
            )
        same = [
            checkpoint.draw(
                ["a red star on a white background"], [5],
                guidance=4.5, refine=True, steps=options.steps,
            )
            for _ in range(2)
        ]  # fmt: skip
        figures["repeatable"] = bool((same[0] == same[1]).all())
        figures["low_noise_error"] = low_noise_errors(checkpoint, options.seed)
        figures["load_average"] = os.getloadavg()[0]
        for name in set(figures) - set(rows):
            print(f"{name}: {figures[name]}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
