"""Losses on real targets of the outputs' shape: the mean or sum over the outputs of one row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.losses.chance import Chance
from workers.engine.model.losses.per_row import PerRow, same_shape
from workers.engine.model.rows import Targets


@dataclass(frozen=True)
class MeanSquaredError(PerRow):
    """The mean (or sum) over the outputs of one row of the squared error."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        predicted, goal = same_shape(outputs, targets)
        return self.reduced((predicted - goal).square())

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """exp(−loss) is a Gaussian of variance 1/2, or of half as many as the mean is over."""
        predicted, _ = same_shape(outputs, targets)
        count = predicted[0].numel() if self.reduction == "mean" else 1
        noise = chance.normal(predicted.shape[1:]).to(predicted.device)
        return (predicted.double() + noise * math.sqrt(count / 2)).to(targets.dtype)


@dataclass(frozen=True)
class Huber(PerRow):
    """Quadratic within `delta` of the target, linear beyond; mean or sum over a row's outputs."""

    no_labels: ClassVar[str | None] = (
        "huber is no likelihood that labels could be drawn from; take gauss_newton, or empirical_fisher"
    )

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 0.0:
            raise BadParameter("delta", self.delta, "must be positive")

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        predicted, goal = same_shape(outputs, targets)
        # Odd and linear in the clamped error, so that both branches carry finite derivatives.
        error = predicted - goal
        near = error.clamp(-self.delta, self.delta)
        return self.reduced(near * (error - 0.5 * near))


@dataclass(frozen=True)
class Poisson(PerRow):
    """torch.nn.PoissonNLLLoss per row."""

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        rate, goal = same_shape(outputs, targets)
        return self.reduced(
            F.poisson_nll_loss(
                rate, goal, self.log_input, full=self.full, eps=self.eps, reduction="none"
            )
        )

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """Counts with the rates that the outputs are, or are the logarithms of."""
        outputs, _ = same_shape(outputs, targets)
        rates = outputs.double().exp() if self.log_input else outputs.double()
        if not bool(((rates >= 0.0) & rates.isfinite()).all()):
            wrong = "a rate that labels are drawn with must be a number of at least 0"
            raise BadParameter("outputs", float(rates.min()), wrong)
        return chance.poisson(rates).to(targets.device, targets.dtype)


@dataclass(frozen=True)
class Gaussian(PerRow):
    """The model returns (mean, variance), both of the target's shape, as torch.nn.GaussianNLLLoss takes them.

    A variance below eps counts as eps, and its derivatives are those at eps, as torch's are; one below 0 makes the
    loss NaN, which is refused. Or one tensor with mean and log-variance side by side in its last axis.
    """

    no_gauss_newton: ClassVar[str | None] = (
        "gaussian_nll is not convex in mean and variance together, so that its Gauss-Newton matrix has negative "
        "eigenvalues; take fisher"
    )

    full: bool = False
    eps: float = 1e-6

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        mean, variance = self._predicted(outputs, targets)
        _, goal = same_shape(mean, targets)
        losses = 0.5 * (variance.log() + (mean - goal).square() / variance)
        return self.reduced(losses + (0.5 * math.log(2 * math.pi) if self.full else 0.0))

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """Values with the mean and the variance that the outputs are."""
        mean, variance = self._predicted(outputs, targets)
        noise = chance.normal(mean.shape[1:]).to(mean.device)
        return (mean.double() + noise * variance.double().sqrt()).to(targets.dtype)

    def _predicted(self, outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """Mean and variance, both of the targets' shape."""
        if isinstance(outputs, Tensor):
            outputs = _halves(outputs, targets)
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise BadParameter("outputs", type(outputs).__name__, "must be (mean, variance)")
        mean, _ = same_shape(outputs[0], targets)
        variance, _ = same_shape(outputs[1], targets)
        return mean, _floored(variance, self.eps)

    def check(self, outputs: Any, targets: Targets) -> None:
        """A variance must not be negative. Raises BadParameter."""
        super().check(outputs, targets)
        if not isinstance(outputs, Tensor) and bool((outputs[1] < 0).any()):
            raise BadParameter(
                "outputs",
                float(outputs[1].min()),
                "the second is the variance, which can't be negative: return log_variance.exp() where it is a "
                "logarithm, or softplus of it",
            )


def _floored(variance: Tensor, eps: float) -> Tensor:
    floored = torch.where(variance < eps, variance - variance.detach() + eps, variance)
    return torch.where(variance < 0, torch.full_like(variance, math.nan), floored)


def _halves(outputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Mean and variance of (B, ..., 2 k) outputs; k = 1 may be left out of the targets' shape."""
    if outputs.shape[-1] % 2:
        raise ShapeMismatch(
            "outputs of gaussian_nll",
            (*outputs.shape[:-1], -1),
            outputs.shape,
            "mean and log-variance side by side: an even number",
        )
    mean, log_variance = outputs.chunk(2, dim=-1)
    if isinstance(targets, Tensor) and targets.ndim == outputs.ndim - 1 and outputs.shape[-1] == 2:
        mean, log_variance = mean.squeeze(-1), log_variance.squeeze(-1)
    return mean, log_variance.exp()
