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
    """A recipe as the engine takes it. `rate(step, rows)`: the learning rate of a step, counted over all epochs."""

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

    def order(self, epoch: int, rows: int) -> Tensor:
        """In which order an epoch, counted from 0, takes the chosen rows: int64 (rows,)."""
        if not self.shuffle or self.optimizer == "lbfgs":
            return torch.arange(rows)
        generator = torch.Generator().manual_seed((self.seed * _PRIME + epoch) % 2**63)
        return torch.randperm(rows, generator=generator)


def step(
    plan: Plan, rate: float, theta: Tensor, gradient: Tensor, moments: dict[str, Tensor], t: int
) -> None:
    """One step of `sgd`, `adam` or `adamw` in place; theta and gradient (K, p). `t`: of the step, from 1.

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
        if "momentum" in moments:
            moments["momentum"].mul_(plan.momentum).add_(gradient)
        else:
            moments["momentum"] = gradient.clone()
        velocity = moments["momentum"]
        gradient = gradient.add(velocity, alpha=plan.momentum) if plan.nesterov else velocity
    theta.add_(gradient, alpha=-rate)


def _adam(
    plan: Plan, rate: float, theta: Tensor, gradient: Tensor, moments: dict[str, Tensor], t: int
) -> None:
    first, second = plan.betas
    if "mean" not in moments:
        moments["mean"], moments["square"] = torch.zeros_like(theta), torch.zeros_like(theta)
    mean, square = moments["mean"], moments["square"]
    mean.lerp_(gradient, 1.0 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
    scale = square.sqrt().div_((1.0 - second**t) ** 0.5).add_(plan.eps)
    theta.addcdiv_(mean, scale, value=-rate / (1.0 - first**t))
