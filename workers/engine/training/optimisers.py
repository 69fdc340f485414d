"""How a model is trained, and torch's optimisers on many flat vectors at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_PRIME = 1_000_003  # of a seed and an epoch; part of what a recipe says


@dataclass(frozen=True)
class Plan:
    """A recipe as the engine takes it. `rate(step, rows)`: the learning rate of a step, counted over all epochs; how
    many rows there are matters by the number of their batches alone."""

    optimizer: Literal["sgd", "adam", "adamw", "lbfgs"]
    rate: Callable[[int, int], float]
    epochs: int
    batch_size: int | None = None  # None: all rows
    seed: int = 0
    shuffle: bool = True
    weight_decay: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def batches(self, rows: int) -> int:
        """Of an epoch, the last and smaller one as well; L-BFGS takes all rows at once."""
        if self.batch_size is None or self.optimizer == "lbfgs":
            return 1
        return -(-rows // self.batch_size)

    def order(self, epoch: int, rows: int) -> Tensor:
        """In which order an epoch, counted from 0, takes the chosen rows: int64 (rows,)."""
        if not self.shuffle or self.optimizer == "lbfgs":
            return torch.arange(rows)
        generator = torch.Generator().manual_seed((self.seed * _PRIME + epoch) % 2**63)
        return torch.randperm(rows, generator=generator)


def fresh_moments(plan: Plan, theta: Tensor) -> dict[str, Tensor]:
    """What a plan's steps remember, before the first; none of L-BFGS, which remembers for itself."""
    if plan.optimizer == "sgd":
        return {"momentum": torch.zeros_like(theta)} if plan.momentum else {}
    if plan.optimizer == "lbfgs":
        return {}
    return {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta)}


def step(
    plan: Plan, rate: float, theta: Tensor, gradient: Tensor, moments: dict[str, Tensor], t: int
) -> None:
    """One step of `sgd`, `adam` or `adamw` in place; theta, gradient and `moments` (K, p). `t`: of the step, from 1.

    The operations and their order are those of torch.optim's own loops over parameters.
    """
    decay = plan.weight_decay
    if plan.optimizer == "adamw":
        theta.mul_(1.0 - rate * decay)
    elif decay:
        gradient = gradient.add(theta, alpha=decay)
    if plan.optimizer == "sgd":
        _sgd(plan, rate, theta, gradient, moments)
    else:
        _adam(plan, rate, theta, gradient, moments, t)


def _sgd(
    plan: Plan, rate: float, theta: Tensor, gradient: Tensor, moments: dict[str, Tensor]
) -> None:
    if plan.momentum:
        velocity = moments["momentum"].mul_(plan.momentum).add_(gradient)
        gradient = gradient.add(velocity, alpha=plan.momentum) if plan.nesterov else velocity
    theta.add_(gradient, alpha=-rate)


def _adam(
    plan: Plan, rate: float, theta: Tensor, gradient: Tensor, moments: dict[str, Tensor], t: int
) -> None:
    first, second = plan.betas
    mean, square = moments["mean"], moments["square"]
    mean.lerp_(gradient, 1.0 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
    scale = square.sqrt().div_((1.0 - second**t) ** 0.5).add_(plan.eps)
    theta.addcdiv_(mean, scale, value=-rate / (1.0 - first**t))
