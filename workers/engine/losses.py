"""The loss of one example, for a batch of them: (B, ...) outputs and targets to (B,) losses.

Written so that gradients do not cancel on confident points in float32: p − 1 is never formed where
p is close to 1, but as minus the sum of the other probabilities. The formulas are plain
differentiable operations, so this holds under vmap, forward mode and double backward alike.
Nothing is ever broadcast: targets of another shape than the outputs are an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.rows import Targets

Reduction = Literal["mean", "sum"]

# Beyond it softplus is taken as the identity; exp(50) is still far from float32's overflow.
SOFTPLUS_LINEAR_FROM = 50.0


class Loss(Protocol):
    """A loss per row; frozen, so that it can be part of a key."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,) losses of a batch. Raises ShapeMismatch, never broadcasts."""
        ...

    def check(self, outputs: Any, targets: Targets) -> None:
        """Refuse values that `__call__` cannot judge under vmap, such as classes out of range."""
        ...


def make_loss(name: str, **parameters: Any) -> Loss:
    """The loss of that name. Raises BadParameter for unknown names, parameters and values."""
    if name in ("l1", "l1_loss"):
        raise BadParameter(
            "loss", name, "its second derivative is zero or undefined; huber is its smooth relative"
        )
    if name not in LOSSES:
        raise BadParameter("loss", name, f"known losses are {', '.join(sorted(LOSSES))}")
    if isinstance(parameters.get("weight"), list):
        parameters["weight"] = tuple(parameters["weight"])
    if isinstance(parameters.get("pos_weight"), list):
        parameters["pos_weight"] = tuple(parameters["pos_weight"])
    try:
        return LOSSES[name](**parameters)
    except TypeError as error:
        known = ", ".join(LOSSES[name].__dataclass_fields__) or "none"
        raise BadParameter(
            f"loss {name}", parameters, f"its parameters are: {known}"
        ) from error


@dataclass(frozen=True)
class _Checked:
    reduction: Reduction = "mean"  # over the positions or outputs of ONE row

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise BadParameter(
                "reduction", self.reduction, "mean or sum, over the positions of one row"
            )

    def check(self, outputs: Any, targets: Targets) -> None:
        self(outputs, targets)  # type: ignore[operator]

    def _rows(self, values: Tensor) -> Tensor:
        flat = values.reshape(values.shape[0], -1)
        return flat.mean(1) if self.reduction == "mean" else flat.sum(1)


@dataclass(frozen=True)
class _Classes(_Checked):
    """Shared by the losses whose targets are classes: outputs (B, C, ...), targets (B, ...)."""

    weight: tuple[float, ...] | None = None  # of each class
    ignore_index: int = -100
    class_axis: int = 1  # -1 for outputs (B, ..., C)

    def _classes_last(self, outputs: Any) -> Tensor:
        scores = _one_tensor(outputs)
        if scores.ndim < 2:
            raise ShapeMismatch("outputs of a classifier", ("B", "C"), scores.shape)  # type: ignore[arg-type]
        return scores.movedim(self.class_axis, -1)

    def _class_weights(self, like: Tensor) -> Tensor | None:
        if self.weight is None:
            return None
        if len(self.weight) != like.shape[-1]:
            raise ShapeMismatch("class weights", (like.shape[-1],), (len(self.weight),))
        return torch.tensor(self.weight, dtype=like.dtype, device=like.device)

    def _reduce(self, values: Tensor, kept: Tensor) -> Tensor:
        values = torch.where(kept, values, torch.zeros_like(values)).reshape(values.shape[0], -1)
        total = values.sum(1)
        if self.reduction == "sum":
            return total
        # A row all of whose positions are ignored has loss 0, not 0/0.
        return total / kept.reshape(kept.shape[0], -1).sum(1).clamp(min=1)

    def _class_targets(self, scores: Tensor, targets: Targets) -> Tensor:
        classes = _one_tensor(targets)
        if classes.shape != scores.shape[:-1]:
            raise ShapeMismatch(
                "class targets",
                scores.shape[:-1],
                classes.shape,
                "a class per row and position; set class_axis = -1 for outputs (B, ..., C)",
            )
        if classes.is_floating_point():
            raise BadParameter("targets", classes.dtype, "classes must be integers")
        return classes

    def check(self, outputs: Any, targets: Targets) -> None:
        """Classes must lie in [0, C) or be ignore_index. Raises BadParameter."""
        super().check(outputs, targets)
        scores, classes = self._classes_last(outputs), _one_tensor(targets)
        if classes.is_floating_point():
            return
        outside = (classes != self.ignore_index) & (
            (classes < 0) | (classes >= scores.shape[-1])
        )
        if bool(outside.any()):
            raise BadParameter(
                "targets", int(classes[outside][0]), f"classes go from 0 to {scores.shape[-1] - 1}"
            )


@dataclass(frozen=True)
class CrossEntropy(_Classes):
    """Softmax cross-entropy as torch.nn.functional.cross_entropy(reduction="none") has it.

    Targets are classes (B, ...) or probabilities of the outputs' shape. With `reduction` mean a
    row's loss is the plain mean over its positions that are not ignored.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadParameter("label_smoothing", self.label_smoothing, "from 0 to below 1")

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        scores = self._classes_last(outputs)
        goal = _one_tensor(targets)
        if goal.is_floating_point() and goal.ndim == scores.ndim:
            return self._from_probabilities(scores, goal)
        classes = self._class_targets(scores, targets)
        kept = classes != self.ignore_index
        chosen = _one_hot(torch.where(kept, classes, torch.zeros_like(classes)), scores)
        margins, excess = _against(scores, chosen)
        weights = self._class_weights(scores)
        own = 1.0 if weights is None else torch.where(chosen, weights, 0.0).sum(-1)
        losses = (1.0 - self.label_smoothing) * own * excess
        if self.label_smoothing:
            every = torch.ones_like(margins) if weights is None else weights.expand_as(margins)
            smoothed = (every * (excess.unsqueeze(-1) - margins)).mean(-1)
            losses = losses + self.label_smoothing * smoothed
        return self._reduce(losses, kept)

    def _from_probabilities(self, scores: Tensor, goal: Tensor) -> Tensor:
        goal = goal.movedim(self.class_axis, -1)
        if goal.shape != scores.shape:
            raise ShapeMismatch("probabilities as targets", scores.shape, goal.shape)
        chosen = _one_hot(goal.argmax(-1), scores)
        margins, excess = _against(scores, chosen)
        smoothing = self.label_smoothing
        goal = goal * (1.0 - smoothing) + smoothing / scores.shape[-1]
        weights = self._class_weights(scores)
        goal = goal if weights is None else goal * weights
        losses = (goal * (excess.unsqueeze(-1) - margins)).sum(-1)
        return self._reduce(losses, torch.ones_like(losses, dtype=torch.bool))


@dataclass(frozen=True)
class NegativeLogLikelihood(_Classes):
    """Outputs are log-probabilities already. Prefer cross_entropy on logits: a log-softmax inside
    the model makes its gradient cancel on confident points in float32."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        log_probabilities = self._classes_last(outputs)
        classes = self._class_targets(log_probabilities, targets)
        kept = classes != self.ignore_index
        chosen = _one_hot(torch.where(kept, classes, torch.zeros_like(classes)), log_probabilities)
        weights = self._class_weights(log_probabilities)
        picked = log_probabilities if weights is None else log_probabilities * weights
        losses = -torch.where(chosen, picked, torch.zeros_like(picked)).sum(-1)
        return self._reduce(losses, kept)


@dataclass(frozen=True)
class BinaryCrossEntropy(_Checked):
    """On logits; targets in [0, 1] of the outputs' shape; the mean or sum over a row's outputs."""

    pos_weight: tuple[float, ...] | float | None = None

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        logits, goal = _same_shape(outputs, targets)
        positive = goal * F.softplus(-logits, threshold=SOFTPLUS_LINEAR_FROM)
        if self.pos_weight is not None:
            positive = positive * torch.as_tensor(
                self.pos_weight, dtype=logits.dtype, device=logits.device
            )
        negative = (1.0 - goal) * F.softplus(logits, threshold=SOFTPLUS_LINEAR_FROM)
        return self._rows(positive + negative)


@dataclass(frozen=True)
class MeanSquaredError(_Checked):
    """The mean (or sum) over the outputs of one row of the squared error."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        predicted, goal = _same_shape(outputs, targets)
        return self._rows((predicted - goal).square())


@dataclass(frozen=True)
class Huber(_Checked):
    """Quadratic within `delta` of the target, linear beyond; mean or sum over a row's outputs."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 0.0:
            raise BadParameter("delta", self.delta, "must be positive")

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        predicted, goal = _same_shape(outputs, targets)
        # Odd and linear in the clamped error, so that both branches carry finite derivatives.
        error = predicted - goal
        near = error.clamp(-self.delta, self.delta)
        return self._rows(near * (error - 0.5 * near))


@dataclass(frozen=True)
class Poisson(_Checked):
    """torch.nn.PoissonNLLLoss per row."""

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        rate, goal = _same_shape(outputs, targets)
        return self._rows(
            F.poisson_nll_loss(
                rate, goal, self.log_input, full=self.full, eps=self.eps, reduction="none"
            )
        )


@dataclass(frozen=True)
class Gaussian(_Checked):
    """The model returns (mean, variance), both of the target's shape; variance is floored at eps."""

    full: bool = False
    eps: float = 1e-6

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise BadParameter("outputs", type(outputs).__name__, "must be (mean, variance)")
        mean, goal = _same_shape(outputs[0], targets)
        variance, _ = _same_shape(outputs[1], targets)
        variance = variance.clamp(min=self.eps)
        losses = 0.5 * (variance.log() + (mean - goal).square() / variance)
        return self._rows(losses + (0.5 * math.log(2 * math.pi) if self.full else 0.0))


@dataclass(frozen=True)
class Program:
    """The model takes inputs and targets and returns the loss of each row itself."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        losses = _one_tensor(outputs)
        if losses.ndim != 1:
            raise ShapeMismatch(
                "losses that the program returns", ("B",), losses.shape, "one number per row"  # type: ignore[arg-type]
            )
        return losses

    def check(self, outputs: Any, targets: Targets) -> None:
        """One loss per row of the first target, where there is one."""
        losses = self(outputs, targets)
        first = targets[0] if isinstance(targets, tuple) else targets
        if first is not None and losses.shape[0] != first.shape[0]:
            raise ShapeMismatch("losses that the program returns", first.shape[:1], losses.shape)


LOSSES: dict[str, Any] = {
    "bce_with_logits": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "gaussian_nll": Gaussian,
    "huber": Huber,
    "mse": MeanSquaredError,
    "nll": NegativeLogLikelihood,
    "poisson_nll": Poisson,
    "program": Program,
}


def _against(scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Margins z − z_y, and −log p_y as their log-sum-exp with the entry y held at a constant 0.

    That constant is what keeps the gradient whole: ∂/∂z_y = −Σ_{k≠y} p_k, a sum of like signs.
    """
    own = torch.where(chosen, scores, torch.zeros_like(scores)).sum(-1, keepdim=True)
    margins = torch.where(chosen, torch.zeros_like(scores), scores - own)
    return margins, torch.logsumexp(margins, -1)


def _one_hot(classes: Tensor, scores: Tensor) -> Tensor:
    every = torch.arange(scores.shape[-1], device=scores.device)
    return classes.unsqueeze(-1) == every


def _one_tensor(value: Any) -> Tensor:
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor):
        raise BadParameter(
            "outputs or targets", type(value).__name__, "this loss takes exactly one tensor of each"
        )
    return value


def _same_shape(outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
    predicted, goal = _one_tensor(outputs), _one_tensor(targets)
    if predicted.shape != goal.shape:
        raise ShapeMismatch(
            "targets against outputs",
            predicted.shape,
            goal.shape,
            "they are never broadcast; reshape the targets",
        )
    return predicted, goal.to(predicted.dtype)
