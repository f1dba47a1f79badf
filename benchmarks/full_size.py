"""Measures nbgen against plain diffusers with a model of SDXL's size, on a GPU.

Run: ``.venv/bin/python benchmarks/full_size.py``; with ``--tiny`` on any machine, which
shows that it works and measures nothing of SDXL's. The models are those of SDXL 1.0,
base and refiner, by their public configurations, with random weights: nothing is
downloaded and nothing is saved. Pictures are noise, but take as long as real ones.

For each way to place the models, and with and without the refiner, pictures of plain
diffusers (no callback) and of nbgen (its engine, a worker's reporter, the progress
service) are made in turns with the same seed and over the same weights. The floor is
what the operations of a picture take at the given speed of the GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from PIL import Image

from nbgen.generation.checkpoints import TINY_FOLDER, Checkpoint
from nbgen.generation.engine import Cancelled, CancelToken
from nbgen.generation.loading import Pipelines, assemble, find_device
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.generation.schedule import split_steps
from nbgen.generation.sdxl import SDXLEngine
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationProgress,
    GenerationRequest,
    Preview,
    Stage,
    new_record,
)

BASE_STEP_TFLOP, REFINER_STEP_TFLOP, DECODE_TFLOP = 13.52, 14.57, 10.47
"""Counted on the configurations below, at 1024x1024, a step with guidance."""
SEED = 7

UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
    "sample_size": 128,
}
REFINER_UNET = UNET | {
    "down_block_types": (*UNET["down_block_types"], "DownBlock2D"),  # type: ignore[misc]
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "UpBlock2D",
    ),
    "block_out_channels": (384, 768, 1536, 1536),
    "attention_head_dim": (6, 12, 24, 24),
    "transformer_layers_per_block": 4,
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "max_position_embeddings": 77,
}
TEXT_2 = TEXT | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

# What --tiny changes.
TINY_UNET = {
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (2, 4, 4),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 96,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 64 + 6 * 32,
}
TINY_REFINER_UNET = {
    "block_out_channels": (32, 32, 64, 64),
    "attention_head_dim": (2, 2, 4, 4),
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 64 + 5 * 32,
}
TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
TINY_TEXT_2 = TINY_TEXT | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "projection_dim": 64,
}


def build(device: str, dtype: torch.dtype, *, tiny: bool) -> tuple[Any, Any]:
    """Return base and refiner with random weights."""
    # Neither library publishes types.
    library: Any = diffusers
    texts: Any = transformers
    torch.manual_seed(0)

    def made(make: Callable[[], Any]) -> Any:
        with torch.device(device):
            return make().to(dtype).eval()

    def model(kind: str, config: dict[str, Any], small: dict[str, Any]) -> Any:
        chosen = config | small if tiny else config
        return made(lambda: getattr(library, kind)(**chosen))

    def text_model(kind: str, config: dict[str, Any], small: dict[str, Any]) -> Any:
        chosen = texts.CLIPTextConfig(**(config | small if tiny else config))
        return made(lambda: getattr(texts, kind)(chosen))

    def tokenizer(name: str) -> Any:
        # Which tokens they are does not matter for the time.
        return texts.CLIPTokenizer.from_pretrained(
            TINY_FOLDER / name, model_max_length=77
        )

    shared = {
        "vae": model("AutoencoderKL", VAE, TINY_VAE),
        "text_encoder_2": text_model(
            "CLIPTextModelWithProjection", TEXT_2, TINY_TEXT_2
        ),
        "tokenizer_2": tokenizer("tokenizer_2"),
        "scheduler": library.EulerDiscreteScheduler(**SCHEDULER),
        "add_watermarker": False,
    }
    base = library.StableDiffusionXLPipeline(
        **shared,
        unet=model("UNet2DConditionModel", UNET, TINY_UNET),
        text_encoder=text_model("CLIPTextModel", TEXT, TINY_TEXT),
        tokenizer=tokenizer("tokenizer"),
    )
    refiner = library.StableDiffusionXLImg2ImgPipeline(
        **shared,
        unet=model("UNet2DConditionModel", REFINER_UNET, TINY_REFINER_UNET),
        text_encoder=None,
        tokenizer=None,
        requires_aesthetics_score=True,
    )
    return base, refiner


class MadePicture(NamedTuple):
    """One picture: its pixels, the seconds it took, and those of its stages."""

    pixels: bytes
    seconds: float
    stages_s: dict[Stage, float]
    previews: int


class Reporting(JobRun):
    """A job's run that takes the events of an engine itself."""

    def __init__(
        self, task_id: str, request: GenerationRequest, service: ProgressService
    ) -> None:
        timings = Timings(Path(os.devnull), "none")
        job = Job(new_record(task_id, request), generation=1)
        super().__init__(job, service, timings, was_loaded=True)
        self.report = self.handle


class Bench:
    """Makes the picture of one request, by plain diffusers and by nbgen."""

    def __init__(self, pipelines: Pipelines, request: GenerationRequest) -> None:
        assert request.width is not None
        assert request.height is not None
        self._pipelines = pipelines
        self._request = request
        size = (request.width, request.height)
        checkpoint = Checkpoint("random weights", Path(), size)
        self._engine = SDXLEngine(load_models=lambda: (checkpoint, pipelines))
        self._service = ProgressService()
        self._runs = 0

    def close(self) -> None:
        """End the threads."""
        self._engine.close()
        self._service.close()

    def plain(self) -> MadePicture:
        """Make it by plain diffusers."""
        started_at_s = time.perf_counter()
        pixels = self._plain_picture().tobytes()
        return MadePicture(pixels, time.perf_counter() - started_at_s, {}, 0)

    def nbgen(self, *, looked_at: bool = False) -> MadePicture:
        """Make it by nbgen."""
        task_id = self._new_task()
        shown: list[Preview] = []
        if looked_at:
            self._service.previews.register(task_id, shown.append)
        started_at_s = time.perf_counter()
        pixels = self._generate(task_id, CancelToken()).tobytes()
        seconds = time.perf_counter() - started_at_s
        self._service.mark_complete(task_id)
        return MadePicture(
            pixels, seconds, self._service.stage_times(task_id), len(shown)
        )

    def cancel(self, step: int, delay_s: float) -> tuple[float, int]:
        """Return how long a run went on after a cancel, and for how many steps."""
        task_id = self._new_task()
        token = CancelToken()
        cancelled: tuple[float, int] | None = None

        def watch(progress: GenerationProgress) -> None:
            nonlocal cancelled
            if progress.current_step >= step and cancelled is None:
                time.sleep(delay_s)
                present = self._service.get_progress(task_id)
                assert present is not None
                cancelled = (time.perf_counter(), present.current_step)
                token.cancel()

        self._service.register_callback(task_id, watch)
        try:
            self._generate(task_id, token)
        except Cancelled:
            ended_at_s = time.perf_counter()
        else:
            raise AssertionError("the run was not cancelled")
        assert cancelled is not None
        at_s, before = cancelled
        steps = self._service.mark_failed(task_id, "Cancelled.").current_step
        return ended_at_s - at_s, steps - before

    def _new_task(self) -> str:
        self._runs += 1
        task_id = f"task-{self._runs}"
        self._service.create_progress(task_id, self._request.num_inference_steps)
        return task_id

    def _generate(self, task_id: str, cancel: CancelToken) -> Image.Image:
        [picture] = self._engine.generate(
            self._request,
            seed=SEED,
            reporter=Reporting(task_id, self._request, self._service),
            cancel=cancel,
        )
        return picture

    def _plain_picture(self) -> Image.Image:
        request = self._request
        shared = {
            "prompt": request.prompt,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(SEED),
        }
        size = {"width": request.width, "height": request.height}
        base, refiner = self._pipelines.base, self._pipelines.refiner
        if request.use_refinement:
            end = request.denoising_end
            half = base(**shared, **size, denoising_end=end, output_type="latent")
            done = refiner(**shared, image=half.images, denoising_start=end)
        else:
            done = base(**shared, **size)
        picture: Image.Image = done.images[0]
        return picture


def measure(
    pipelines: Pipelines, request: GenerationRequest, rounds: int, tflops: float
) -> dict[str, Any]:
    """Return the figures of one request."""
    bench = Bench(pipelines, request)
    # The first loads or compiles; the second fits the colours of previews.
    first = bench.nbgen()
    bench.nbgen(looked_at=True)
    same = bench.plain().pixels == first.pixels
    plain, ours, looked = [], [], []
    makers: list[Callable[[], None]] = [
        lambda: plain.append(bench.plain()),
        lambda: ours.append(bench.nbgen()),
        lambda: looked.append(bench.nbgen(looked_at=True)),
    ]
    for turn in range(rounds):
        for make in makers[turn % 3 :] + makers[: turn % 3]:
            make()
    split = split_steps(pipelines.scheduler_config, request)
    base_s, refiner_s = (
        statistics.median(made.stages_s.get(stage, 0.0) for made in ours)
        for stage in (Stage.BASE_MODEL, Stage.REFINER_MODEL)
    )
    rng = random.Random(SEED)  # noqa: S311 - seeded, for the same points each time
    step_s = (base_s + refiner_s) / sum(split)
    cancels = [
        bench.cancel(rng.randint(1, sum(split) - 4), rng.random() * step_s)
        for _ in range(max(rounds, 3))
    ]
    bench.close()
    tflop = split.base_steps * BASE_STEP_TFLOP + DECODE_TFLOP
    tflop += split.refiner_steps * REFINER_STEP_TFLOP
    seconds = statistics.median(made.seconds for made in ours)
    return {
        "steps": list(split),
        "plain_s": statistics.median(made.seconds for made in plain),
        "nbgen_s": seconds,
        "nbgen_to_plain": _ratio(ours, plain),
        "steps_a_second": sum(split) / (base_s + refiner_s),
        "base_step_ms": 1000 * base_s / split.base_steps,
        "floor_s": tflop / tflops,
        "share_of_floor": tflop / tflops / seconds,
        "first_s": first.seconds,
        "previews_to_none": _ratio(looked, ours),
        "previews_a_picture": statistics.mean(made.previews for made in looked),
        "cancel_s": statistics.median(latency_s for latency_s, _ in cancels),
        "longest_cancel_s": max(latency_s for latency_s, _ in cancels),
        "steps_after_cancel": max(steps for _, steps in cancels),
        "same_pixels": same,
    }


def _ratio(those: list[MadePicture], others: list[MadePicture]) -> float:
    pairs = zip(those, others, strict=True)
    return statistics.median(one.seconds / other.seconds for one, other in pairs)


def main() -> None:
    """Print the table, then all figures as JSON."""
    parser = argparse.ArgumentParser(description="nbgen and diffusers at SDXL's size.")
    parser.add_argument("--tiny", action="store_true", help="scaled down, for any CPU")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tflops", type=float, default=790.0, help="of the GPU")
    given = parser.parse_args()
    device = find_device()
    if device.kind == "cpu" and not given.tiny:
        parser.error("there is no GPU; --tiny shows that it works")
    on_gpu = device.kind == "cuda"
    plan = functools.partial(
        MemoryPlan,
        dtype="bfloat16" if on_gpu else "float32",
        vae_dtype="bfloat16" if on_gpu else "float32",
    )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    base, refiner = build(device.kind, dtype, tiny=given.tiny)
    side = 128 if given.tiny else 1024
    results = []
    print(
        f"{device.name}, {side}x{side}, {given.steps} steps, torch {torch.__version__}"
    )
    print(
        "| placed | refiner | plain s | nbgen s | ratio | steps/s | of the floor "
        "| first s | previews | cancel s | steps after | same pixels |"
    )
    print("|" + " --- |" * 12)
    # In this order, since a model cannot be changed back.
    for name, placed in (
        ("eager", plan()),
        ("channels_last", plan(channels_last=True)),
        ("compiled", plan(channels_last=True, compile=True)),
    ):
        pipelines = assemble(base, refiner, device, placed)
        for use_refinement in (True, False):
            request = GenerationRequest(
                prompt="a red circle",
                width=side,
                height=side,
                num_inference_steps=given.steps,
                use_refinement=use_refinement,
            )
            got = measure(pipelines, request, given.rounds, given.tflops)
            results.append({"placed": name, "refiner": use_refinement, **got})
            share = "" if given.tiny else f"{100 * got['share_of_floor']:.0f} %"
            print(
                f"| {name} | {'yes' if use_refinement else 'no'} "
                f"| {got['plain_s']:.3f} | {got['nbgen_s']:.3f} "
                f"| {got['nbgen_to_plain']:.3f} | {got['steps_a_second']:.1f} "
                f"| {share} | {got['first_s']:.1f} | {got['previews_to_none']:.3f} "
                f"| {got['cancel_s']:.3f} | {got['steps_after_cancel']} "
                f"| {'yes' if got['same_pixels'] else 'no'} |",
                flush=True,
            )
    facts = {
        "device": device.name,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "tiny": given.tiny,
        "side": side,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
    }
    print(json.dumps({**facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()
