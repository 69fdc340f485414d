"""Losses on classes, in a form whose gradients do not cancel on confident points in float32.

1 − p is never formed where p is close to 1, but as the sum of the other probabilities. These are
plain differentiable operations, so it holds under vmap, forward mode and double backward alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.losses.chance import Chance
from workers.engine.model.losses.per_row import Loss, PerRow, one_tensor, same_shape
from workers.engine.model.rows import Targets

# Beyond it softplus is taken as the identity; exp(50) is still far from float32's overflow.
SOFTPLUS_LINEAR_FROM = 50.0
IGNORED = -100  # no class of any model


@dataclass(frozen=True)
class ClassLoss(PerRow):
    """Shared by the losses whose targets are classes: outputs (B, C, ...), targets (B, ...)."""

    weight: tuple[float, ...] | None = None  # of each class
    ignore_index: int = -100
    class_axis: int = 1  # -1 for outputs (B, ..., C)

    def classes_last(self, outputs: Any) -> Tensor:
        scores = one_tensor(outputs)
        if scores.ndim < 2:
            raise ShapeMismatch("outputs of a classifier", ("B", "C"), scores.shape)
        return scores.movedim(self.class_axis, -1)

    def _class_weights(self, like: Tensor) -> Tensor | None:
        if self.weight is None:
            return None
        if len(self.weight) != like.shape[-1]:
            raise ShapeMismatch("class weights", (like.shape[-1],), (len(self.weight),))
        return torch.tensor(self.weight, dtype=like.dtype, device=like.device)

    def reduce(self, values: Tensor, kept: Tensor) -> Tensor:
        values = torch.where(kept, values, torch.zeros_like(values)).reshape(values.shape[0], -1)
        total = values.sum(1)
        if self.reduction == "sum":
            return total
        # A row all of whose positions are ignored has loss 0, not 0/0.
        return total / kept.reshape(kept.shape[0], -1).sum(1).clamp(min=1)

    def positions(self, outputs: Any, targets: Targets) -> Tensor:
        """(B, ...): what each position adds to its row's loss; 0 where it is ignored. They add up to the loss."""
        values, kept = self.terms(outputs, targets)
        values = torch.where(kept, values, torch.zeros_like(values))
        if self.reduction == "sum":
            return values
        count = kept.reshape(kept.shape[0], -1).sum(1).clamp(min=1)
        return values / count.view(-1, *(1,) * (values.ndim - 1))

    def counted(self, outputs: Any, targets: Targets) -> Tensor | None:
        """Of the outputs those of positions that are not ignored; None where all are, or rows have no positions."""
        goal = one_tensor(targets)
        if goal.is_floating_point() or goal.ndim < 2:
            return None
        scores = self.classes_last(outputs)
        kept = self.class_targets(scores, targets) != self.ignore_index
        if bool(kept.all()):
            return None
        return kept.unsqueeze(-1).expand(scores.shape).movedim(-1, self.class_axis)

    def terms(self, outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """The loss of each position (B, ...), and which of them count."""
        raise NotImplementedError

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,), reduced over the positions that count."""
        return self.reduce(*self.terms(outputs, targets))

    def class_targets(self, scores: Tensor, targets: Targets) -> Tensor:
        classes = one_tensor(targets)
        if classes.shape != scores.shape[:-1]:
            raise ShapeMismatch(
                "class targets",
                scores.shape[:-1],
                classes.shape,
                "a class per row and position; set class_axis = -1 for outputs (B, ..., C)",
            )
        if classes.is_floating_point():
            raise BadParameter("targets", classes.dtype, "classes must be integers")
        return classes.long()  # ignore_index is negative, which an unsigned class is not

    def of_drawn_labels(self) -> Loss:
        """With an `ignore_index` that is no class: every class may be drawn, and then counts."""
        return replace(self, ignore_index=IGNORED)

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """By the softmax of each position's outputs; what is ignored stays so."""
        scores = self.classes_last(outputs)
        # Of log-probabilities the softmax is what they are the logarithms of.
        below = scores.double().softmax(-1).cumsum(-1)
        level = chance.uniform(scores.shape[1:-1]).to(scores.device).unsqueeze(-1)
        classes = (below <= level * below[..., -1:]).sum(-1).clamp(max=scores.shape[-1] - 1)
        if targets.is_floating_point() and targets.ndim == scores.ndim:
            return one_hot(classes, scores).movedim(-1, self.class_axis).to(targets.dtype)
        ignored = targets.long() == self.ignore_index
        return torch.where(ignored, torch.full_like(classes, IGNORED), classes)

    def check(self, outputs: Any, targets: Targets) -> None:
        """Classes must lie in [0, C) or be ignore_index. Raises BadParameter."""
        super().check(outputs, targets)
        scores, classes = self.classes_last(outputs), one_tensor(targets)
        if classes.is_floating_point():
            return
        classes = classes.long()
        outside = (classes != self.ignore_index) & ((classes < 0) | (classes >= scores.shape[-1]))
        if bool(outside.any()):
            raise BadParameter(
                "targets", int(classes[outside][0]), f"classes go from 0 to {scores.shape[-1] - 1}"
            )


@dataclass(frozen=True)
class CrossEntropy(ClassLoss):
    """Softmax cross-entropy as torch.nn.functional.cross_entropy(reduction="none") has it.

    Targets are classes (B, ...) or probabilities of the outputs' shape. With `reduction` mean a
    row's loss is the plain mean over its positions that are not ignored.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadParameter("label_smoothing", self.label_smoothing, "from 0 to below 1")

    def terms(self, outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """Of classes or of probabilities."""
        scores = self.classes_last(outputs)
        goal = one_tensor(targets)
        if goal.is_floating_point() and goal.ndim == scores.ndim:
            return self._from_probabilities(scores, goal)
        classes = self.class_targets(scores, targets)
        kept = classes != self.ignore_index
        chosen = one_hot(torch.where(kept, classes, torch.zeros_like(classes)), scores)
        margins, excess = _against(scores, chosen)
        weights = self._class_weights(scores)
        own = 1.0 if weights is None else torch.where(chosen, weights, 0.0).sum(-1)
        losses = (1.0 - self.label_smoothing) * own * excess
        if self.label_smoothing:
            every = torch.ones_like(margins) if weights is None else weights.expand_as(margins)
            smoothed = (every * (excess.unsqueeze(-1) - margins)).mean(-1)
            losses = losses + self.label_smoothing * smoothed
        return losses, kept

    def _from_probabilities(self, scores: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        goal = goal.movedim(self.class_axis, -1)
        if goal.shape != scores.shape:
            raise ShapeMismatch("probabilities as targets", scores.shape, goal.shape)
        chosen = one_hot(goal.argmax(-1), scores)
        margins, excess = _against(scores, chosen)
        smoothing = self.label_smoothing
        goal = goal * (1.0 - smoothing) + smoothing / scores.shape[-1]
        weights = self._class_weights(scores)
        goal = goal if weights is None else goal * weights
        losses = (goal * (excess.unsqueeze(-1) - margins)).sum(-1)
        return losses, torch.ones_like(losses, dtype=torch.bool)


@dataclass(frozen=True)
class NegativeLogLikelihood(ClassLoss):
    """Outputs are log-probabilities already. Prefer cross_entropy on logits: a log-softmax inside
    the model makes its gradient cancel on confident points in float32."""

    no_gauss_newton: ClassVar[str | None] = (
        "nll is linear in the log-probabilities, so that its Gauss-Newton matrix is 0; take fisher, or cross_entropy "
        "on logits"
    )

    def terms(self, outputs: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """Of classes alone."""
        log_probabilities = self.classes_last(outputs)
        classes = self.class_targets(log_probabilities, targets)
        kept = classes != self.ignore_index
        chosen = one_hot(torch.where(kept, classes, torch.zeros_like(classes)), log_probabilities)
        weights = self._class_weights(log_probabilities)
        picked = log_probabilities if weights is None else log_probabilities * weights
        return -torch.where(chosen, picked, torch.zeros_like(picked)).sum(-1), kept


@dataclass(frozen=True)
class BinaryCrossEntropy(PerRow):
    """On logits; targets in [0, 1] of the outputs' shape; the mean or sum over a row's outputs."""

    pos_weight: tuple[float, ...] | float | None = None
    output_weights: tuple[float, ...] | None = None

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        logits, goal = same_shape(outputs, targets)
        positive = goal * F.softplus(-logits, threshold=SOFTPLUS_LINEAR_FROM)
        if self.pos_weight is not None:
            positive = positive * self._of_positives(logits)
        negative = (1.0 - goal) * F.softplus(logits, threshold=SOFTPLUS_LINEAR_FROM)
        if self.output_weights is None:
            return self.reduced(positive + negative)
        return self.reduced((positive + negative) * self._of_outputs(logits))

    def _of_outputs(self, logits: Tensor) -> Tensor:
        """One for each entry of the last axis: never broadcast over the rows."""
        found = torch.tensor(self.output_weights, dtype=logits.dtype, device=logits.device)
        outputs = logits.shape[-1] if logits.ndim > 1 else 1
        if found.numel() != outputs:
            way = "one number for each output"
            raise ShapeMismatch("output_weights", (outputs,), (found.numel(),), way)
        return found if logits.ndim > 1 else found.reshape(())

    def _of_positives(self, logits: Tensor) -> Tensor:
        """One number, or one for each entry of the last axis: never broadcast over the rows."""
        weights = torch.as_tensor(self.pos_weight, dtype=logits.dtype, device=logits.device)
        outputs = logits.shape[-1] if logits.ndim > 1 else 1
        if weights.numel() not in (1, outputs):
            raise ShapeMismatch(
                "pos_weight", (outputs,), (weights.numel(),), "one number, or one for each output"
            )
        return weights.reshape(()) if weights.numel() == 1 else weights

    def drawn(self, outputs: Any, targets: Tensor, chance: Chance) -> Tensor:
        """Each output's 0 or 1."""
        logits, _ = same_shape(outputs, targets)
        level = chance.uniform(logits.shape[1:]).to(logits.device)
        return (level < logits.double().sigmoid()).to(targets.dtype)


def _against(scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Margins z − z_y, and −log p_y as their log-sum-exp with the entry y held at a constant 0.

    That constant is what keeps the gradient whole: ∂/∂z_y = −Σ_{k≠y} p_k, a sum of like signs.
    """
    own = torch.where(chosen, scores, torch.zeros_like(scores)).sum(-1, keepdim=True)
    margins = torch.where(chosen, torch.zeros_like(scores), scores - own)
    return margins, torch.logsumexp(margins, -1)


def one_hot(classes: Tensor, scores: Tensor) -> Tensor:
    every = torch.arange(scores.shape[-1], device=scores.device)
    return classes.unsqueeze(-1) == every
