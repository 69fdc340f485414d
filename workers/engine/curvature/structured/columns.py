"""What C is the second moment of: gradients of which losses, a column or several a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from workers.engine.model.losses.regression import Huber, MeanSquaredError, Poisson
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets

Kind = Literal["gauss_newton", "fisher", "empirical_fisher"]
# Labels from the model's prediction for the rows of a batch, which knows their numbers: outputs, batch, seed.
Draw = Callable[[Problem, object, Batch, int], Targets]


@dataclass(frozen=True)
class Along(PerRow):
    """⟨f, r⟩ of each row: its gradient is Jᵀ r. The targets are r."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        """(B,)."""
        return (outputs * targets).flatten(1).sum(1)

    def check(self, outputs: Any, targets: Targets) -> None:
        """Nothing can be wrong with them."""


def columns(
    problem: Problem, kind: Kind, io: LayerIO, draw: Draw | None, seed: int
) -> Iterator[tuple[Loss, Targets]]:
    """Losses and targets whose gradients g have Σ g gᵀ as what each row adds to C.

    `gauss_newton` has one for each column of a root R of the loss's Hessian in the outputs, so that the
    sum is exact; where a row has more than FORMED_OUTPUTS outputs, one whose expectation over a draw is R Rᵀ.
    """
    if kind == "empirical_fisher":
        yield problem.loss, io.batch.targets
    elif kind == "fisher":
        yield problem.loss, _drawn(problem, io, draw, seed)
    else:
        yield from _roots(problem, io, draw, seed)


def _drawn(problem: Problem, io: LayerIO, draw: Draw | None, seed: int) -> Targets:
    if draw is None:
        raise BadParameter("curvature.kind", "fisher", "empirical_fisher: no labels can be drawn")
    rows = io.rows
    given = io.batch.narrow(0, rows)
    outputs: Any = io.outputs
    if isinstance(outputs, Tensor):
        outputs = outputs.detach()[:rows]
    else:
        outputs = type(outputs)(each.detach()[:rows] for each in outputs)
    found = replace(given, targets=draw(problem, outputs, given, seed))
    return found.targets if rows == len(io.batch) else found.doubled().targets


def _roots(
    problem: Problem, io: LayerIO, draw: Draw | None, seed: int
) -> Iterator[tuple[Loss, Targets]]:
    if not isinstance(io.outputs, Tensor):
        raise BadParameter("curvature.kind", "gauss_newton", "one output tensor; choose fisher")
    at = io.outputs.detach()
    width = at[0].numel()
    if width <= FORMED_OUTPUTS:
        found = roots(formed_curvature(problem.loss, at, io.batch.targets)[1])
        for number in range(width):
            yield Along(), found[:, number].reshape(at.shape)
    else:
        yield Along(), _sketched(problem, io, at, draw, seed)


def _sketched(problem: Problem, io: LayerIO, at: Tensor, draw: Draw | None, seed: int) -> Tensor:
    """r with E[r rᵀ] the Hessian of each row's loss in its outputs, (B, ...)."""
    loss = problem.loss
    if isinstance(loss, CrossEntropy) and loss.weight is None and not loss.label_smoothing:
        targets = _drawn(problem, io, draw, seed)
        own = io.batch.targets
        if isinstance(own, Tensor) and isinstance(targets, Tensor) and not own.is_floating_point():
            kept = own != loss.ignore_index
            targets = torch.where(kept, targets, own)
            found = output_cotangents(replace(loss, reduction="sum"), at, targets)
            if loss.reduction == "sum":
                return found
            count = kept.flatten(1).sum(1).clamp(min=1).to(found.dtype)
            return found / count.sqrt().view(-1, *(1,) * (found.ndim - 1))
    if isinstance(loss, BinaryCrossEntropy | MeanSquaredError | Huber | Poisson):
        # Each output for itself: the Hessian is diagonal, and what it makes of ones is its diagonal.
        inside = at.clone().requires_grad_()
        with torch.enable_grad():
            total = loss(inside, io.batch.targets).sum()
            (first,) = torch.autograd.grad(total, inside, create_graph=True)
        (diagonal,) = torch.autograd.grad(first.sum(), inside)
        return diagonal.clamp(min=0.0).sqrt() * _signs(io, at, seed)
    raise BadParameter(
        "curvature.structure",
        f"of kind gauss_newton with {at[0].numel():,} outputs a row and this loss",
        f"at most {FORMED_OUTPUTS} outputs a row; choose kind fisher or empirical_fisher",
    )


def _signs(io: LayerIO, like: Tensor, seed: int) -> Tensor:
    """±1 of each output, which depend on seed and number of the row alone."""
    rows = []
    for number in range(io.rows):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + io.batch.start + number)
        rows.append(torch.randint(0, 2, like.shape[1:], generator=generator) * 2 - 1)
    found = torch.stack(rows).to(like)
    return found if io.rows == len(like) else torch.cat([found, found])
