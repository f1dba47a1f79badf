#!/usr/bin/env python3
"""Trains the tiny SDXL checkpoint that nbgen ships, and writes its folder.

    python tools/train_tiny.py --minutes 120

draws its own captioned pictures, trains the autoencoder, the text encoders, the base
and the refiner one after the other, and exports them. Every stage keeps its state in
the state folder and goes on from there when the command is run again. A stage can be
run on its own, also beside another one in a second process:

    python tools/train_tiny.py --stage base --minutes 60 --decay 0
    python tools/train_tiny.py --stage export

Runs on the GPU if there is one, else on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.tiny import autoencoder, denoisers, latents, text  # noqa: E402
from tools.tiny.assemble import trained_networks  # noqa: E402
from tools.tiny.models import write_checkpoint  # noqa: E402

STAGES = ("vae", "text", "latents", "decoder", "base", "refiner", "export")
# How the time is split when all stages are run.
SHARES = {"vae": 0.16, "text": 0.04, "decoder": 0.10, "base": 0.56, "refiner": 0.14}
TINY_FOLDER = ROOT / "src" / "nbgen" / "generation" / "tiny"


def run_stage(stage: str, minutes: float, options: argparse.Namespace) -> None:
    """Run one stage on top of what the earlier ones left in the state folder."""
    folder, seed = options.state, options.seed
    networks = trained_networks(folder, seed)
    if stage == "vae":
        trainer = autoencoder.train_vae(networks.vae, folder, seed, minutes)
        report = f"{autoencoder.psnr(trainer.average, seed + 99):.1f} dB"
    elif stage == "text":
        trainer = text.train_text(networks, folder, seed, minutes)
        read = text.share_read(trainer, networks, seed + 99)
        report = ", ".join(f"{name} {share:.1%}" for name, share in read.items())
    elif stage == "latents":
        shards = -(-options.pictures // latents.SHARD)
        cache = folder / "latents"
        latents.write_shards(networks, networks.vae, cache, seed, shards)
        return
    elif stage == "decoder":
        trainer = autoencoder.train_decoder(networks.vae, folder, seed, minutes)
        report = f"{autoencoder.psnr(trainer.average, seed + 99):.1f} dB"
    else:
        trainer = denoisers.train_unet(
            networks,
            folder,
            minutes,
            refiner=stage == "refiner",
            decay=options.decay,
            rate=options.rate,
            batch=options.batch,
        )
        report = f"{trainer.step * options.batch} samples"
    print(
        f"\n{stage}: {trainer.step} steps in {trainer.seconds / 60:.1f} min, {report}",
        flush=True,
    )


def export(options: argparse.Namespace) -> None:
    """Write the averaged weights of all stages as a checkpoint folder."""
    size = write_checkpoint(trained_networks(options.state, options.seed), options.out)
    print(f"{options.out}: {size:,} bytes ({size / 2**20:.2f} MiB)")


def main() -> None:
    """Read the command line and run the stages that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=("all", *STAGES), default="all")
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="of training; 0 trains nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--state",
        type=Path,
        default=ROOT / "build" / "tiny-train",
        help="where stages keep their state, to go on from (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=TINY_FOLDER, help="the checkpoint (%(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=40_960, help="how many to train on"
    )
    parser.add_argument(
        "--decay",
        type=float,
        default=0.2,
        help="last share of the time in which the UNets' learning rate falls; "
        "0 keeps it up, for a run that will be gone on with",
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="of the UNets")
    parser.add_argument("--batch", type=int, default=16, help="of the UNets")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.state.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    stages = STAGES if options.stage == "all" else (options.stage,)
    for stage in stages:
        if stage == "export":
            export(options)
        elif options.minutes > 0:
            share = SHARES.get(stage, 1.0) if options.stage == "all" else 1.0
            run_stage(stage, options.minutes * share, options)
    print(f"done in {(time.monotonic() - start) / 60:.1f} min")


if __name__ == "__main__":
    main()
