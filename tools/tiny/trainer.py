"""A training loop that is bounded by time, can be stopped anywhere and goes on."""

from __future__ import annotations

import copy
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.tiny.muon import Muon

_SAVE_EVERY_S = 60.0
_WARM_UP_STEPS = 100
_LONGEST_STEP_S = 4.0


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """Trains one network, keeps a running average of its weights, and saves both.

    The averaged weights (EMA) are what is shipped. Everything that the next step
    depends on is in the state file, so a stopped run goes on where it was. Which
    pictures a step sees depends on the seed and the step alone; how many steps there
    are depends on the minutes.

    Attributes:
        model: The network in training.
        average: A copy of it that holds the averaged weights.
        step: Steps done, over all runs.
        seconds: Time spent in the loop, over all runs.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        folder: Path,
        *,
        rate: float,
        average: float = 0.999,
        trained: list[nn.Parameter] | None = None,
        muon: bool = False,
    ) -> None:
        self.name = name
        self.device = best_device()
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.step = 0
        self.seconds = 0.0
        self._rate = rate
        self._keep = average
        self._path = folder / f"{name}.pt"
        weights = trained if trained is not None else list(model.parameters())
        self._weights = weights
        inner = [p for p in weights if muon and p.ndim > 1 and min(p.shape[:2]) > 4]
        taken = {id(p) for p in inner}
        outer = [p for p in weights if id(p) not in taken]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {"params": [p for p in outer if p.ndim > 1], "weight_decay": 0.01},
                    {"params": [p for p in outer if p.ndim <= 1], "weight_decay": 0.0},
                ],
                lr=rate,
                betas=(0.9, 0.99),
                fused=True,
            )
        ]
        if inner:
            self._optimisers.append(Muon(inner, rate))
        if self._path.is_file():
            state = torch.load(self._path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimiser, its in zip(
                self._optimisers, state["optimisers"], strict=True
            ):
                optimiser.load_state_dict(its)
            self.step, self.seconds = state["step"], state["seconds"]

    def run(
        self,
        minutes: float,
        loss: Callable[[random.Random, float], Tensor],
        *,
        decay: float = 0.2,
    ) -> None:
        """Train for so many minutes, not counting those in which it was paused.

        Args:
            minutes: How long; 0 trains nothing.
            loss: Given the step's random numbers and the share of the time that has
                passed (0 to 1), returns the loss of a fresh batch.
            decay: The last share of the time, over which the learning rate falls.
        """
        budget = minutes * 60
        last = saved = shown = time.monotonic()
        passed = 0.0
        first = self.step
        mean = math.nan
        self.model.train()
        while passed < budget:
            share = passed / budget
            left = min(1.0, (1 - share) / decay) if decay > 0 else 1.0
            warm = min(1.0, (self.step - first + 1) / _WARM_UP_STEPS)
            for optimiser in self._optimisers:
                optimiser.zero_grad(set_to_none=True)
                for group in optimiser.param_groups:
                    group["lr"] = self._rate * warm * max(left, 0.02)
            # By the number of the step, so that a run that goes on draws new ones.
            rng = random.Random(f"{self.name}-{self.step}")
            torch.manual_seed(rng.getrandbits(62))
            value = loss(rng, share)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._weights, 1.0)
            for optimiser in self._optimisers:
                optimiser.step()
            self.step += 1
            self._fold()
            if self.step % 10 == 0:
                now = float(value.detach())
                mean = now if math.isnan(mean) else 0.97 * mean + 0.03 * now
            clock = time.monotonic()
            # A step that took longer stood still: the process had been stopped.
            took = min(clock - last, _LONGEST_STEP_S)
            last = clock
            passed += took
            self.seconds += took
            if clock - shown > 5:
                shown = clock
                self._show(share, mean, (self.step - first) / passed)
            if clock - saved > _SAVE_EVERY_S:
                saved = clock
                self.save()
        self.save()

    def save(self) -> None:
        """Write the state so that a reader finds the old one or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [its.state_dict() for its in self._optimisers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        part.replace(self._path)

    @torch.no_grad()
    def _fold(self) -> None:
        keep = min(self._keep, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        averages, weights = zip(*pairs, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - keep)

    def _show(self, share: float, mean: float, pace: float) -> None:
        done = round(share * 20)
        bar = "#" * done + "." * (20 - done)
        line = (
            f"{self.name:8} [{bar}] {share:4.0%} step {self.step} "
            f"loss {mean:.4f} {pace:.1f} steps/s"
        )
        end = "" if sys.stdout.isatty() else "\n"
        print(("\r" if end == "" else "") + line, end=end, flush=True)
