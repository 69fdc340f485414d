"""What C is the second moment of: gradients of which losses, a column or several a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.autodiff.graph.output import (
    FORMED_OUTPUTS,
    formed_curvature,
    output_cotangents,
)
from workers.engine.autodiff.graph.roots import roots
from workers.engine.autodiff.layer_io import LayerIO
from workers.engine.errors import BadParameter
from workers.engine.model.losses import Loss
from workers.engine.model.losses.classification import BinaryCrossEntropy, CrossEntropy
from workers.engine.model.losses.per_row import PerRow
from workers.engine.model.losses.regression import MeanSquaredError, Poisson
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Targets

# Of gradients of the losses; of the columns of each loss's Hessian's root; or of one column whose
# expectation over labels that are drawn is that Hessian.
Moment = Literal["gradients", "roots", "sketched"]


@dataclass(frozen=True)
class Along(PerRow):
    """⟨f, r⟩ of each row: its gradient is Jᵀ r. The targets are r."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,)."""
        return (outputs * targets).reshape(len(outputs), -1).sum(1)


def is_wide(outputs: object, most: int) -> bool:
    """Whether a row has too many outputs to go back from each column of a root."""
    return isinstance(outputs, Tensor) and outputs[0].numel() > most


def can_be_sketched(loss: Loss) -> bool:
    """Whether the second moment of its gradients with drawn labels is a multiple of its Hessian's."""
    if isinstance(loss, CrossEntropy):
        return loss.weight is None and not loss.label_smoothing
    if isinstance(loss, BinaryCrossEntropy):
        return loss.pos_weight is None and loss.output_weights is None
    return isinstance(loss, MeanSquaredError | Poisson)


def columns(problem: Problem, moment: Moment, io: LayerIO) -> Iterator[tuple[Loss, Targets]]:
    """Losses and targets whose gradients g have Σ g gᵀ as what each row adds to C."""
    if moment == "gradients":
        yield problem.loss, io.batch.targets
        return
    if not isinstance(io.outputs, Tensor):
        raise BadParameter("curvature.kind", "gauss_newton", "one output tensor; choose fisher")
    at = io.outputs.detach()
    if moment == "sketched":
        yield Along(), _sketched(problem, at, io.batch.targets)
        return
    found = roots(formed_curvature(problem.loss, at, io.batch.targets)[1])
    for number in range(found.shape[1]):
        yield Along(), found[:, number].reshape(at.shape)


def _sketched(problem: Problem, at: Tensor, drawn: Targets) -> Tensor:
    """r with E[r rᵀ] the Hessian of each row's loss in its outputs, (B, ...); the targets are drawn."""
    if not can_be_sketched(problem.loss):
        raise BadParameter(
            "curvature.kind",
            "gauss_newton",
            f"at most {FORMED_OUTPUTS} outputs a row for this structure and loss, and there are "
            f"{at[0].numel():,}; choose kind fisher or empirical_fisher",
        )
    found = output_cotangents(problem.loss, at, drawn)
    count = _labels_of_mean(problem.loss, at, drawn)
    return found * count.sqrt().view(-1, *(1,) * (found.ndim - 1))


def _labels_of_mean(loss: Loss, at: Tensor, drawn: Targets) -> Tensor:
    """T (B,): the squares of a loss's gradients that is a mean over T labels are T times too small."""
    ones = torch.ones(len(at), dtype=at.dtype, device=at.device)
    # Labels of the mean squared error are drawn as wide as the mean makes them.
    if isinstance(loss, MeanSquaredError) or getattr(loss, "reduction", "sum") == "sum":
        return ones
    if not isinstance(loss, CrossEntropy):
        return ones * at[0].numel()
    assert isinstance(drawn, Tensor)
    if drawn.is_floating_point():
        return ones * (at[0].numel() // at.shape[loss.class_axis])
    return (drawn != loss.ignore_index).reshape(len(at), -1).sum(1).clamp(min=1).to(at)
