"""Shows what a picture will look like while it is made, without holding it up.

A scheduler works out, at each step, the picture without noise that it is heading for;
that is what is shown. The sampling thread hands over the latents of at most one picture
each interval; on a GPU they are turned into colours on a stream of their own. The
thread ``nbgen-preview`` waits for them and makes a JPEG file. A newer picture takes the
place of one that still waits.
"""

from __future__ import annotations

import functools
import io
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nbgen.generation.engine import Reporter
from nbgen.generation.events import PreviewMade
from nbgen.schema import Preview

logger = logging.getLogger(__name__)

_JPEG_QUALITY = 75
_LONGEST_SIDE = 512
"""A TAESD's pictures are as big as the finished ones, which no preview need be."""
_CHART_CELL = 4
"""Latent pixels a side of one colour in the chart; its rim is left out."""

ToPixels = Callable[[Tensor], Tensor]


def expose_clean_latents(scheduler: Any) -> Callable[[], Tensor | None]:
    """Return a function that gives the latents without noise after each step.

    A scheduler's ``step`` either returns them as its second value or keeps them as the
    last of its ``model_outputs`` (DPM++ and UniPC), so nothing is computed here.
    """
    inner = scheduler.step
    latest: Tensor | None = None

    @functools.wraps(inner)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal latest
        output = inner(*args, **kwargs)
        latest = output[1] if len(output) > 1 else scheduler.model_outputs[-1]
        return output

    scheduler.step = step
    return lambda: latest


@torch.no_grad()
def fit_colours(vae: Any) -> ToPixels:
    """Return a function from latents (4, h, w) to colours (h, w, 3) of 0 to 255.

    The colours are a linear function of the latents. It is fitted to the VAE itself,
    by least squares over a chart of 125 flat colours, so it is right for any
    checkpoint.
    """
    levels = torch.linspace(-1, 1, 5)
    colours = torch.cartesian_prod(levels, levels, levels)
    # In an order that no VAE could mistake for a gradient.
    colours = colours[torch.randperm(125, generator=torch.Generator().manual_seed(0))]
    across, down = 25, 5
    grid = colours.view(down, across, 3).permute(2, 0, 1)
    factor = _CHART_CELL * 2 ** (len(vae.config.block_out_channels) - 1)
    chart = grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2)[None]
    latents = vae.encode(chart.to(vae.device, vae.dtype)).latent_dist.mean
    latents = latents[0].float().cpu() * vae.config.scaling_factor
    # The middle of each cell, where its neighbours have least to say.
    cells = latents.view(4, down, _CHART_CELL, across, _CHART_CELL)
    middle = cells[:, :, 1:-1, :, 1:-1].mean((2, 4)).reshape(4, -1).T
    known = torch.cat([middle, torch.ones(len(middle), 1)], 1)
    wanted = (colours + 1) * 127.5
    fitted = torch.linalg.lstsq(known, wanted).solution
    on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def to_pixels(latents: Tensor) -> Tensor:
        if latents.device not in on_device:
            moved = fitted.to(latents.device)
            on_device[latents.device] = (moved[:4], moved[4])
        weights, offset = on_device[latents.device]
        pixels = latents.float().permute(1, 2, 0) @ weights + offset
        return pixels.clamp(0, 255).to(torch.uint8)

    return to_pixels


def tiny_decoder(autoencoder: Any) -> ToPixels:
    """Return the function from latents to colours of a TAESD.

    Args:
        autoencoder: A ``diffusers.AutoencoderTiny`` for SDXL's latents.
    """

    @torch.no_grad()
    def to_pixels(latents: Tensor) -> Tensor:
        autoencoder.to(latents.device)
        batch = latents[None].to(autoencoder.dtype)
        decoded: Tensor = autoencoder.decode(batch).sample[0].float()
        pixels = (decoded.permute(1, 2, 0) + 1) * 127.5
        return pixels.clamp(0, 255).to(torch.uint8)

    return to_pixels


class PreviewMaker:
    """Turns latents into previews; owned by one engine.

    ``offer`` belongs to the sampling thread. The newest offer that waits and the
    thread are guarded by a condition that is held for no longer than an assignment.

    Args:
        to_pixels: From latents (4, h, w) to colours (h, w, 3), uint8.
        interval_s: The least number of seconds between two previews.
    """

    def __init__(self, to_pixels: ToPixels, interval_s: float = 0.25) -> None:
        self._to_pixels = to_pixels
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._waiting: Callable[[], None] | None = None
        self._closed = False
        self._last_at_s = float("-inf")
        self._stream: Any = None
        self._thread = threading.Thread(
            target=self._work, name="nbgen-preview", daemon=True
        )
        self._thread.start()

    def offer(self, latents: Tensor, reporter: Reporter) -> None:
        """Have the latents (4, h, w) shown, unless a preview was made just now."""
        at_s = time.monotonic()
        if at_s - self._last_at_s < self._interval_s:
            return
        self._last_at_s = at_s
        ready = self._start_copy(latents) if latents.is_cuda else None

        def show() -> None:
            pixels = self._to_pixels(latents) if ready is None else ready()
            reporter.report(PreviewMade(_encode(pixels)))

        with self._changed:
            self._waiting = show
            self._changed.notify()

    def close(self) -> None:
        """End the thread; a preview that waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _start_copy(self, latents: Tensor) -> Callable[[], Tensor]:
        """Enqueue the work on a stream of its own; return how to wait for it."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            pixels = self._to_pixels(latents)
            latents.record_stream(self._stream)
            # Into memory that the device can write to by itself.
            host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            host.copy_(pixels, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)

        def wait() -> Tensor:
            copied.synchronize()
            return host

        return wait

    def _work(self) -> None:
        # A new thread may start its first products with a thread for every core, which
        # wait for each other at the cost of a whole step.
        torch.set_num_threads(torch.get_num_threads())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                show, self._waiting = self._waiting, None
            try:
                assert show is not None
                show()
            except Exception:  # a preview is never worth a picture
                logger.exception("A preview could not be made.")


def _encode(pixels: Tensor) -> Preview:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels.cpu().numpy())
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Preview(buffer.getvalue(), *picture.size)
