"""Stable Diffusion XL, base and refiner, through diffusers.

Importing this module imports torch and diffusers, which takes seconds. Pipelines are
not thread-safe: an engine belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from nbgen.errors import CheckpointNotFound
from nbgen.generation.checkpoints import Checkpoint, find_checkpoint
from nbgen.generation.engine import CancelToken, Reporter
from nbgen.generation.events import Planned, StageStarted, Warned
from nbgen.generation.loading import Pipelines, find_device, load
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.generation.preview import PreviewMaker, fit_colours, tiny_decoder
from nbgen.generation.prompt_length import MARKS, describe_cut, measure
from nbgen.generation.sampling import Run, free_memory, out_of_memory
from nbgen.generation.schedule import Split, split_steps
from nbgen.generation.vocabulary import describe_unknown, unknown_words
from nbgen.schema import GenerationRequest, Stage, StagePlan
from nbgen.schema.checks import LONGEST_SIDE, SHORTEST_SIDE, SIZE_MULTIPLE

# Operations counted on the public SDXL configurations at 1024x1024: 13.52 TFLOP for
# a step of the base model with guidance, 14.57 for the refiner's, 10.47 to decode.
_REFINER_STEP_COST = 14.57 / 13.52
_DECODE_COST = 10.47 / 13.52


class SDXLEngine:
    """Makes pictures with a checkpoint.

    Loads at ``load`` or the first use and stays loaded until ``close``. The pictures
    are those of plain diffusers for the same seed and settings, pixel for pixel.

    Args:
        checkpoint: What ``find_checkpoint`` takes.
        memory_plan: How to load it; None decides from the memory that is free.
        loras: Paths of LoRA files (``.safetensors``) and their weights, which are
            added to the base model.
        load_models: Returns a checkpoint and its pipelines; None finds and loads
            ``checkpoint`` as the other arguments say.
        preview_every_s: The least number of seconds between two previews.
    """

    def __init__(
        self,
        checkpoint: str | Path = "auto",
        *,
        memory_plan: MemoryPlan | None = None,
        loras: Mapping[str | Path, float] | None = None,
        load_models: Callable[[], tuple[Checkpoint, Pipelines]] | None = None,
        preview_every_s: float = 0.25,
    ) -> None:
        self._preview_every_s = preview_every_s
        self._name = checkpoint
        self._plan = memory_plan
        self._loras = {Path(path): weight for path, weight in (loras or {}).items()}
        self._load_models = load_models
        self._loaded: tuple[Checkpoint, Pipelines] | None = None
        self._previews: PreviewMaker | None = None
        self._compiled: set[tuple[object, ...]] = set()
        self._facts: dict[str, str] = {}

    def load(self) -> None:
        """Put the models into memory ahead of need.

        Raises:
            CheckpointNotFound: Something is missing or broken.
        """
        self._loaded_models(CancelToken())

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: Reporter,
        cancel: CancelToken,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
    ) -> Iterator[Image.Image]:
        """Make the pictures of a request; see ``Engine.generate``."""
        reporter.report(StageStarted(Stage.LOAD))
        checkpoint, pipelines = self._loaded_models(cancel)
        cancel.raise_if_cancelled()
        if checkpoint.words is not None:
            unknown = unknown_words(request.prompt, checkpoint.words)
            if unknown:
                reporter.report(Warned(describe_unknown(unknown, checkpoint.words)))
        if request.use_refinement and pipelines.refiner is None:
            raise CheckpointNotFound(
                f"The checkpoint {checkpoint.name!r} has no refiner. Pass "
                "use_refinement=False, or put the refiner's folder inside it as "
                "'refiner'."
            )
        run = Run(
            pipelines,
            request,
            split_steps(pipelines.scheduler_config, request),
            _size(request, checkpoint.default_size, image),
            reporter=reporter,
            cancel=cancel,
            image=image,
            mask=mask,
            preview_maker=self._preview_maker,
        )
        for note in _cut_notes(request, pipelines.base, is_guided=run.is_guided):
            reporter.report(Warned(note))
        compiles = pipelines.plan.compile and run.shape not in self._compiled
        reporter.report(
            Planned(_plan(run.split, request.num_images, compiles=compiles))
        )
        self._facts = self._describe(request, checkpoint, pipelines)
        seeds = [seed + index for index in range(request.num_images)]
        if compiles:
            reporter.report(StageStarted(Stage.COMPILE))
            run.warm_up(seeds)
            self._compiled.add(run.shape)
        yield from _sample_and_decode(run, seeds, reporter)

    def facts(self) -> dict[str, str]:
        """Return what the last pictures were made with; see ``Engine.facts``."""
        return dict(self._facts)

    def close(self) -> None:
        """Give the memory of the models back; a later ``generate`` loads again."""
        if self._previews is not None:
            self._previews.close()
            self._previews = None
        self._loaded = None
        self._compiled.clear()
        free_memory()

    def _loaded_models(self, cancel: CancelToken) -> tuple[Checkpoint, Pipelines]:
        if self._loaded is None:
            self._loaded = self._load(cancel)
            checkpoint, pipelines = self._loaded
            self._facts = _facts_of(checkpoint, pipelines)
        return self._loaded

    def _load(self, cancel: CancelToken) -> tuple[Checkpoint, Pipelines]:
        if self._load_models is not None:
            return self._load_models()
        checkpoint = find_checkpoint(self._name, gpu=find_device().kind == "cuda")
        return checkpoint, load(
            checkpoint, self._plan, self._loras, between=cancel.raise_if_cancelled
        )

    def _preview_maker(self) -> PreviewMaker:
        """Return what makes previews; made when the first is wanted."""
        if self._previews is None:
            assert self._loaded is not None
            checkpoint, pipelines = self._loaded
            if checkpoint.previews is None:
                to_pixels = fit_colours(pipelines.base.vae)
            else:
                # Diffusers publishes no types, and its names are resolved lazily.
                library: Any = diffusers
                to_pixels = tiny_decoder(
                    library.AutoencoderTiny.from_pretrained(
                        checkpoint.previews, local_files_only=True
                    )
                )
            self._previews = PreviewMaker(to_pixels, self._preview_every_s)
        return self._previews

    def _describe(
        self, request: GenerationRequest, checkpoint: Checkpoint, pipelines: Pipelines
    ) -> dict[str, str]:
        facts = {
            **_facts_of(checkpoint, pipelines),
            "dtype": pipelines.plan.dtype,
            "vae_dtype": pipelines.plan.vae_dtype,
            "scheduler": request.scheduler.value,
            # Not torch's own kind of string, which needs torch to be unpickled.
            "torch": str(torch.__version__),
            "diffusers": diffusers.__version__,
            "watermark": "none",
        }
        if self._loras:
            weighted = (f"{path.name}:{w:g}" for path, w in self._loras.items())
            facts["loras"] = ", ".join(weighted)
        return facts


def _facts_of(checkpoint: Checkpoint, pipelines: Pipelines) -> dict[str, str]:
    return {"checkpoint": checkpoint.name, "device": pipelines.device.name}


def _cut_notes(
    request: GenerationRequest, pipeline: Any, *, is_guided: bool
) -> Iterator[str]:
    """Yield what to say of each prompt of which the pipeline does not read the end."""
    tokenizers = [
        t for t in (pipeline.tokenizer, pipeline.tokenizer_2) if t is not None
    ]
    limit = min(tokenizer.model_max_length for tokenizer in tokenizers) - MARKS
    texts = {"prompt": request.prompt}
    if is_guided:
        texts["negative prompt"] = request.negative_prompt
    for name, text in texts.items():
        readings = [
            tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True
            ).offset_mapping
            for tokenizer in tokenizers
        ]
        length = measure(readings, limit)
        if length.cut_at is not None:
            yield describe_cut(name, text, length)


def _sample_and_decode(
    run: Run, seeds: Sequence[int], reporter: Reporter
) -> Iterator[Image.Image]:
    """Yield the pictures of a batch, one by one if memory is short for all at once."""
    latents = None
    try:
        latents = run.sample(seeds)
    except Exception as error:
        if not out_of_memory(error) or len(seeds) == 1:
            raise run.with_advice(error) from error
    if latents is not None:
        yield from run.decode(latents)
        return
    # Only here, since the traceback kept the batch's memory.
    free_memory()
    reporter.report(
        Warned(
            "There was not enough memory for the batch, so its pictures are made one "
            "at a time."
        )
    )
    run.expect_batches(len(seeds))
    for seed in seeds:
        try:
            latents = run.sample([seed])
        except Exception as error:
            raise run.with_advice(error) from error
        yield from run.decode(latents)


def _plan(split: Split, num_images: int, *, compiles: bool) -> tuple[StagePlan, ...]:
    stages = [StagePlan(Stage.LOAD, 0, 0)]
    if compiles:
        stages.append(StagePlan(Stage.COMPILE, 0, 0))
    stages.append(StagePlan(Stage.ENCODE, 0, 0))
    base, refiner = split
    stages.append(StagePlan(Stage.BASE_MODEL, base, base * num_images))
    if refiner:
        cost = refiner * _REFINER_STEP_COST * num_images
        stages.append(StagePlan(Stage.REFINER_MODEL, refiner, cost))
    stages.append(StagePlan(Stage.DECODE, 0, _DECODE_COST * num_images))
    stages.append(StagePlan(Stage.SAVE, 0, 0))
    return tuple(stages)


def _size(
    request: GenerationRequest,
    default_size: tuple[int, int],
    image: Image.Image | None,
) -> tuple[int, int]:
    """Return width and height: those asked for, or the default's area.

    A picture to start from gives its proportions to the default's area.
    """
    width, height = default_size
    if image is not None:
        scale = (width * height / (image.width * image.height)) ** 0.5
        width, height = round(image.width * scale), round(image.height * scale)
    return _side(request.width or width), _side(request.height or height)


def _side(pixels: int) -> int:
    nearest = round(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE
    return max(SHORTEST_SIDE, min(nearest, LONGEST_SIDE))
