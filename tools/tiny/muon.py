"""Muon: momentum whose every matrix is made orthogonal before it is applied.

After K. Jordan et al., https://kellerjordan.github.io/posts/muon/, with the scale of
J. Liu et al., https://arxiv.org/abs/2502.16982, so that one learning rate serves it
and AdamW. A step costs more than AdamW's and achieves more, which pays on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration, from the post above.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Return the nearest orthogonal matrices, roughly, of a batch (n, rows, columns).

    Rows must not be more than columns.
    """
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A
        )
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the weights of layers between the first and the last.

    Convolutions are taken as matrices of a row for each output channel.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients; no closure is taken."""
        del closure
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]]
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                kept = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(kept, group["momentum"]).flatten(1)
                if ahead.shape[0] > ahead.shape[1]:
                    ahead = ahead.mT
                alike[(ahead.shape[0], ahead.shape[1])].append((weight, ahead))
            for (rows, columns), pairs in alike.items():
                rate = group["lr"]
                scale = 0.2 * max(rows, columns) ** 0.5
                updates = orthogonal(torch.stack([ahead for _, ahead in pairs]))
                for (weight, _), made in zip(pairs, updates, strict=True):
                    update = made if weight.shape[0] == rows else made.mT
                    weight.mul_(1 - rate * group["decay"])
                    weight.add_(update.reshape(weight.shape), alpha=-rate * scale)
