"""One request on its way through the pipelines. Belongs to the sampling thread.

Importing this module imports torch, which takes seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from nbgen.errors import BrokenPicture, OutOfMemory
from nbgen.generation.device_steps import DoneSteps
from nbgen.generation.engine import CancelToken, Reporter
from nbgen.generation.events import EngineEvent, StageStarted, StepFinished, Warned
from nbgen.generation.loading import Pipelines
from nbgen.generation.preview import PreviewMaker, expose_clean_latents
from nbgen.generation.schedule import Split, make_scheduler
from nbgen.schema import GenerationRequest, Stage
from nbgen.schema.checks import SIZE_MULTIPLE

_GUIDANCE_INPUTS = ("prompt_embeds", "add_text_embeds", "add_time_ids")
"""The tensors of a step that hold a part without the prompt for guidance."""

_ENCODED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
"""What ``encode_prompt`` returns, in its order."""


class _FirstStepDone(Exception):
    """Ends a warm-up after its first step."""


class Run:
    """Samples and decodes the pictures of one request.

    Args:
        pipelines: What is loaded.
        request: What to make.
        split: The steps of base and refiner.
        size: Width and height in pixels.
        reporter: Told of stages, steps and previews.
        cancel: Set to end it.
        image: The picture to start from, or None.
        mask: White where ``image`` is drawn anew, or None for everywhere.
        preview_maker: Called when a preview is wanted.
    """

    def __init__(
        self,
        pipelines: Pipelines,
        request: GenerationRequest,
        split: Split,
        size: tuple[int, int],
        *,
        reporter: Reporter,
        cancel: CancelToken,
        image: Image.Image | None,
        mask: Image.Image | None,
        preview_maker: Callable[[], PreviewMaker],
    ) -> None:
        self._pipelines = pipelines
        self._request = request
        self._size = size
        self._reporter = reporter
        self._cancel = cancel
        self._image = None if image is None else image.convert("RGB").resize(size)
        self._mask = None if mask is None else mask.convert("L").resize(size)
        self._preview_maker = preview_maker
        self.split = split
        # What a compiled model would have to be compiled again for.
        self.shape = (*size, request.num_images, request.guidance_scale > 1)

    @property
    def is_guided(self) -> bool:
        """Whether any step is guided; if none is, no negative prompt is read."""
        return self._guided_steps(Stage.BASE_MODEL) > 0

    def expect_batches(self, count: int) -> None:
        """Report the steps of so many runs as those of one, from now on."""
        self._reporter = _BatchAsOneRun(self._reporter, count)

    def warm_up(self, seeds: Sequence[int]) -> None:
        """Take one step of each model that nobody sees, so that it is compiled."""

        def stop(*_args: object) -> dict[str, Any]:
            raise _FirstStepDone

        width, height = self._size
        sides = (height // SIZE_MULTIPLE, width // SIZE_MULTIPLE)
        latents = torch.zeros(len(seeds), 4, *sides)
        for stage in self._stages():
            pipeline, options = self._prepare(stage, seeds, latents)
            try:
                pipeline(**options, callback_on_step_end=stop)
            except _FirstStepDone:
                pipeline.maybe_free_model_hooks()
            self._cancel.raise_if_cancelled()

    def sample(self, seeds: Sequence[int]) -> torch.Tensor:
        """Return finished latents (n, 4, height / 8, width / 8), one for each seed."""
        self._reporter.report(StageStarted(Stage.ENCODE))
        latents = torch.empty(0)
        prepared = {}
        for stage in self._stages():
            prepared[stage] = self._prepare(stage, seeds, None)
            self._cancel.raise_if_cancelled()
        on_cuda = self._pipelines.device.kind == "cuda"
        with DoneSteps(self._reporter, torch.cuda.Event if on_cuda else None) as done:
            for stage, (pipeline, options) in prepared.items():
                done.start_stage(stage)
                if stage is Stage.REFINER_MODEL:
                    options["image"] = latents
                on_step_end = self._step_callback(done, stage, pipeline)
                try:
                    latents = pipeline(
                        **options, callback_on_step_end=on_step_end
                    ).images
                finally:
                    # What a pipeline does at its end, and leaves undone when left
                    # early.
                    pipeline.maybe_free_model_hooks()
                self._cancel.raise_if_cancelled()
        return latents

    def decode(self, latents: torch.Tensor) -> Iterator[Image.Image]:
        """Yield the pictures of latents, one by one."""
        self._reporter.report(StageStarted(Stage.DECODE))
        for one in torch.split(latents, 1):
            self._cancel.raise_if_cancelled()
            try:
                picture = self._decode(one)
            except Exception as error:
                raise self.with_advice(error) from error
            if self._image is not None and self._mask is not None:
                # Where nothing was to be drawn, not even the VAE's blur.
                picture = Image.composite(picture, self._image, self._mask)
            yield picture

    def with_advice(self, error: Exception) -> Exception:
        """Return the error to raise: one that says what to do, where memory is out."""
        if not out_of_memory(error):
            return error
        width, height = self._size
        return OutOfMemory(
            f"There is not enough memory on {self._pipelines.device.name} for a "
            f"picture of {width}x{height}. Make it smaller, end other programs that "
            "use the device, or load the model with MemoryPlan(offload='group')."
        )

    def _stages(self) -> list[Stage]:
        stages = [Stage.BASE_MODEL]
        return [*stages, Stage.REFINER_MODEL] if self.split.refiner_steps else stages

    def _guided_steps(self, stage: Stage) -> int:
        """Return after how many steps of a stage its guidance ends; 0 for none."""
        base_steps, refiner_steps = self.split
        if self._request.guidance_scale <= 1:
            return 0
        cut = round((base_steps + refiner_steps) * self._request.guidance_cutoff)
        if stage is Stage.BASE_MODEL:
            return min(cut, base_steps)
        return max(cut - base_steps, 0)

    def _pipeline(self, stage: Stage) -> Any:
        if stage is Stage.REFINER_MODEL:
            return self._pipelines.refiner
        if self._mask is not None:
            return self._pipelines.derived("StableDiffusionXLInpaintPipeline")
        if self._image is not None:
            return self._pipelines.derived("StableDiffusionXLImg2ImgPipeline")
        return self._pipelines.base

    @torch.no_grad()
    def _prepare(
        self, stage: Stage, seeds: Sequence[int], latents: torch.Tensor | None
    ) -> tuple[Any, dict[str, Any]]:
        """Return the pipeline of a stage, with a new scheduler, and its arguments."""
        request = self._request
        pipeline = self._pipeline(stage)
        pipeline.scheduler = make_scheduler(
            request.scheduler, self._pipelines.scheduler_config
        )
        guided = self._guided_steps(stage) > 0
        options: dict[str, Any] = {}
        if stage is Stage.BASE_MODEL:
            self._embeddings = self._encode(self._pipelines.base, len(seeds), guided)
            options |= self._embeddings
        elif self._reads_alike():
            options |= self._refiner_embeddings(guided)
        else:
            options |= self._encode(pipeline, len(seeds), guided)
        options["num_inference_steps"] = request.num_inference_steps
        options["guidance_scale"] = request.guidance_scale if guided else 1.0
        options["output_type"] = "latent"
        options["callback_on_step_end_tensor_inputs"] = self._callback_inputs(stage)
        if stage is Stage.REFINER_MODEL:
            options["denoising_start"] = request.denoising_end
            options["image"] = latents
        else:
            options |= self._start()
            # On the CPU, so that a seed means the same picture on every device.
            self._generators = [
                torch.Generator("cpu").manual_seed(seed) for seed in seeds
            ]
            if self.split.refiner_steps:
                options["denoising_end"] = request.denoising_end
        options["generator"] = self._generators
        return pipeline, options

    def _encode(self, pipeline: Any, count: int, guided: bool) -> dict[str, Any]:
        """Return the prompt embeddings for a pipeline."""
        negative = self._request.negative_prompt
        encoded = pipeline.encode_prompt(
            prompt=[self._request.prompt],
            # SDXL was trained with zeros for none, not with an empty text.
            negative_prompt=[negative] if negative else None,
            device=self._pipelines.execution_device,
            num_images_per_prompt=count,
            do_classifier_free_guidance=guided,
        )
        return dict(zip(_ENCODED, encoded, strict=True))

    def _reads_alike(self) -> bool:
        """Return whether the refiner's reading of the prompts is a part of the base's.

        It reads with the base's second text encoder. Only what stands for no negative
        prompt may differ: with SDXL's refiner it is an empty text.
        """
        base, refiner = self._pipelines.base, self._pipelines.refiner
        name = "force_zeros_for_empty_prompt"
        return bool(self._request.negative_prompt) or (
            getattr(base.config, name) == getattr(refiner.config, name)
        )

    def _refiner_embeddings(self, guided: bool) -> dict[str, Any]:
        """Return the slice of the base's embeddings that text_encoder_2 produced."""
        width = self._pipelines.refiner.text_encoder_2.config.hidden_size
        embeddings = {
            name: read if read is None or "pooled" in name else read[..., -width:]
            for name, read in self._embeddings.items()
        }
        if not guided:
            embeddings["negative_prompt_embeds"] = None
            embeddings["negative_pooled_prompt_embeds"] = None
        return embeddings

    def _start(self) -> dict[str, Any]:
        """Return what the base starts from."""
        width, height = self._size
        if self._image is None:
            return {"width": width, "height": height}
        start = {"image": self._image, "strength": self._request.strength}
        if self._mask is None:
            return start
        return {**start, "mask_image": self._mask, "width": width, "height": height}

    def _callback_inputs(self, stage: Stage) -> list[str]:
        """Return the tensors that change when the guidance of a stage ends."""
        steps = self.split[stage is Stage.REFINER_MODEL]
        if not 0 < self._guided_steps(stage) < steps:
            return []
        inpaints = stage is Stage.BASE_MODEL and self._mask is not None
        return [*_GUIDANCE_INPUTS, "mask"] if inpaints else list(_GUIDANCE_INPUTS)

    def _step_callback(
        self, done: DoneSteps, stage: Stage, pipeline: Any
    ) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
        """Return the callback of a stage, which reads no tensor."""
        guided_steps = self._guided_steps(stage)
        clean_latents: Callable[[], torch.Tensor | None] | None = None

        def on_step_end(
            _pipeline: Any, step: int, _timestep: Any, kwargs: dict[str, Any]
        ) -> dict[str, Any]:
            nonlocal clean_latents
            done.finish_step()
            self._cancel.raise_if_cancelled()
            if kwargs and step + 1 == guided_steps:
                # diffusers' own SDXLCFGCutoffCallback keeps one row of a batch.
                pipeline._guidance_scale = 1.0
                kwargs = {name: both.chunk(2)[1] for name, both in kwargs.items()}
            if self._reporter.wants_preview():
                if clean_latents is None:
                    clean_latents = expose_clean_latents(pipeline.scheduler)
                elif (latents := clean_latents()) is not None:
                    self._preview_maker().offer(latents[0], self._reporter)
            return kwargs

        return on_step_end

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> Image.Image:
        if not bool(torch.isfinite(latents).all()):
            raise _broken("The model answered with something that is not a number")
        vae = self._pipelines.base.vae
        dtype = getattr(torch, self._pipelines.plan.vae_dtype)
        if vae.dtype != dtype:
            # Pipelines that encode a picture leave the VAE in another type.
            vae.to(dtype)
        scaled = latents.to(dtype) / vae.config.scaling_factor
        decoded = None
        try:
            decoded = vae.decode(scaled, return_dict=False)[0]
        except Exception as error:
            if not out_of_memory(error) or vae.use_tiling:
                raise
        if decoded is None:
            # Only here, since the traceback kept the decoder's memory.
            free_memory()
            self._reporter.report(
                Warned(
                    "There was not enough memory to decode the picture in one piece, "
                    "so it is decoded in tiles."
                )
            )
            vae.enable_tiling()
            decoded = vae.decode(scaled, return_dict=False)[0]
        if not bool(torch.isfinite(decoded).all()):
            raise _broken("The VAE answered with something that is not a number")
        processor = self._pipelines.base.image_processor
        picture: Image.Image = processor.postprocess(decoded, output_type="pil")[0]
        if picture.getextrema() == ((0, 0), (0, 0), (0, 0)):
            raise _broken("The picture is black all over")
        return picture


class _BatchAsOneRun:
    """Reports the steps of several runs one after the other as those of one."""

    def __init__(self, reporter: Reporter, runs: int) -> None:
        self._reporter = reporter
        self._runs = runs
        self._steps = 0

    def report(self, event: EngineEvent) -> None:
        if isinstance(event, StepFinished):
            self._steps += 1
            if self._steps % self._runs:
                return
        self._reporter.report(event)

    def wants_preview(self) -> bool:
        return self._reporter.wants_preview()


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is out, the device's or the host's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _broken(what: str) -> BrokenPicture:
    return BrokenPicture(
        f"{what}. In float16 SDXL's own VAE does this: use the checkpoint 'sdxl', "
        "which brings the fp16-safe VAE (sdxl-vae-fp16-fix), or load with "
        "MemoryPlan(vae_dtype='float32'). Otherwise the weights are damaged: pull them "
        "again."
    )
