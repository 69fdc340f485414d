"""Influences in parts that add up: by the layers whose parameters they go through, by the positions of a training row.

Of a factor f and a training row's gradient g the influence is ⟨f, g⟩. Its part of a layer is the inner product over the
parameters of that layer alone. Its part of a position t is ⟨f, ∇ℓ_t⟩, where the row's loss is Σ_t ℓ_t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, EngineError
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    rows_at_once,
)
from workers.engine.model.losses.classification import ClassLoss
from workers.engine.model.losses.weighted import Weighted
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import explained, is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress
from workers.engine.scores.contraction import (
    fitting_factors,
    over_columns,
    over_gradients,
)
from workers.engine.scores.up import layers_for, over_layers

# Of a row, as often as what autograd keeps of the pass forward: a pass back is kept, too, and gone back through.
PASSES_ALIVE = 4


@dataclass(frozen=True)
class LayerGroups:
    """The selected parameters by the modules that they are of, in the order of θ."""

    layout: Sequence[ParameterSlice]

    @cached_property
    def names(self) -> list[str]:
        """Of the modules: what is before a parameter's last dot; of one without, its own name."""
        return list(dict.fromkeys(each.module for each in self.layout))

    @cached_property
    def place(self) -> dict[str, int]:
        """Which of them a parameter is in, by its name."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return {each.name: numbers[each.module] for each in self.layout}


def up_by_layer(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """As `up`, of each layer: yields (slice of columns, (m, b, layers)), in the order of `LayerGroups.names`."""
    factors = fitting_factors(problem, factors)
    groups = LayerGroups(problem.layout)
    place, count = groups.place, len(groups.names)
    layers = layers_for(problem, factors, rows)
    if layers is not None:
        yield from over_layers(
            problem,
            layers,
            factors,
            rows,
            batch_size,
            budget_bytes,
            progress,
            groups=(place, count),
        )
        return

    def scores(gradients: Tensor) -> Tensor:
        found = gradients.new_zeros(len(factors), len(gradients), count)
        for each in problem.layout:
            here = slice(each.offset, each.offset + each.size)
            found[..., place[each.name]] += factors[:, here] @ gradients[:, here].T
        return found

    yield from over_gradients(
        problem,
        rows,
        scores,
        "up",
        batch_size,
        budget_bytes,
        progress,
        result_width=len(factors) * count,
    )


def up_by_token(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """As `up`, of each position of the training row's loss: yields (slice of columns, (m, b, …)), … its positions.

    Positions that the loss ignores have 0. Raises BadParameter where the loss has no positions.
    """
    factors = fitting_factors(problem, factors)
    positions = position_shape(problem, rows)
    width = len(factors) * max(1, positions.numel())
    row_bytes = PASSES_ALIVE * activation_bytes(problem, rows) + (
        2 * width * problem.theta.element_size()
    )
    size = rows_at_once(batch_size, len(rows), row_bytes, budget_bytes, problem.device.type)

    def work(batch: Batch) -> Tensor:
        return _along(problem, factors, problem.placed(batch))

    yield from over_columns(problem, rows, RowBlock(size), work, "up", progress)


def position_shape(problem: Problem, rows: Rows) -> torch.Size:
    """Of the positions of a row's loss. Raises BadParameter where it has none."""
    loss = problem.loss
    if not isinstance(loss.loss if isinstance(loss, Weighted) else loss, ClassLoss):
        raise BadParameter(
            "scores_by",
            "token",
            "the model's loss has no positions; those of cross_entropy and nll have, for outputs with a class a "
            "position: take 'layer' or 'row'",
        )
    first = problem.placed(next(iter(rows.batches(1)))).at_least_two()
    assert isinstance(loss, ClassLoss | Weighted)
    with torch.no_grad():
        shape = loss.positions(problem.outputs(problem.theta, first), first.targets).shape[1:]
    if not shape:
        raise BadParameter(
            "scores_by", "token", "a row has one label, and no positions: take 'layer' or 'row'"
        )
    return shape


def _along(problem: Problem, factors: Tensor, batch: Batch) -> Tensor:
    """(m, B, …): the derivative of each position's loss along each factor.

    Gradients Σ u_t ∇ℓ_t are linear in u, so that ⟨f, that⟩ has the derivative ⟨f, ∇ℓ_t⟩ in u_t: forward mode by two
    passes back, which all operators with a second derivative have.
    """
    loss, given = problem.loss, batch.at_least_two()
    assert isinstance(loss, ClassLoss | Weighted)
    theta = problem.theta.clone().requires_grad_()
    try:
        with twice_differentiable(), torch.enable_grad():
            losses = loss.positions(problem.outputs(theta, given), given.targets)
            weights = torch.zeros_like(losses, requires_grad=True)
            (gradient,) = torch.autograd.grad(losses, theta, weights, create_graph=True)
            found = [
                torch.autograd.grad(gradient, weights, each, retain_graph=True)[0]
                for each in factors
            ]
    except Exception as error:
        if isinstance(error, EngineError) or is_out_of_memory(error):
            raise
        raise explained(error, "differentiating the loss of each position") from error
    if not found:
        return losses.new_zeros(0, len(batch), *losses.shape[1:])
    return torch.stack(found)[:, : len(batch)]
