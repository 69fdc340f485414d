"""The influence of moving a training row's features: factors times ∇ₓ∇θ L of the training rows.

Factors are (H + λI)⁻¹ ∇θ L(z_test), a row a test point. Moving a feature of z by δ changes the test
loss by about −influence · δ / n; POSITIVE means that a larger feature lowers the test loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Derivative
from workers.engine.autodiff.mixed import InputVariable, ModuleVariable, Variable, mixed_derivatives
from workers.engine.autodiff.select import select
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    rows_at_once,
    vectors_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress, silent
from workers.engine.scores.contraction import fitting_factors, over_columns


def perturbation(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    input: int = 0,
    product: str | None = None,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L(z_test)ᵀ (H + λI)⁻¹ ∇ₓ∇θ L(z_train): yields (slice of columns, (m, b, *input_shape)).

    `input` is the position of the input x. `product` fixes what differentiates by its name,
    as in `Hessian`. Raises BadParameter, naming it, if it is integer.
    """
    yield from _mixed(
        problem, factors, rows, InputVariable(input), product, batch_size, budget_bytes, progress
    )


def perturb_at(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    module: str,
    product: str | None = None,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """The influence of moving an inner module's output: yields (slice of columns, (m, b, *output_shape)).

    Raises NoSuchParameter for an unknown module, BadParameter for one whose output cannot be moved.
    """
    yield from _mixed(
        problem, factors, rows, ModuleVariable(module), product, batch_size, budget_bytes, progress
    )


def _mixed(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    variable: Variable,
    product: str | None,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
) -> Iterator[tuple[slice, Tensor]]:
    factors = fitting_factors(problem, factors)
    if len(rows) == 0 or len(factors) == 0:
        return
    first = problem.placed(next(iter(rows.batches(1))))
    kind = problem.device.type
    vectors = min(len(factors), vectors_at_once(kind))
    value_bytes = variable.initial(problem, first).numel() * problem.theta.element_size()
    activations = activation_bytes(problem, rows)
    row_bytes = activations * (1 + vectors) + len(factors) * value_bytes
    block = RowBlock(rows_at_once(batch_size, len(rows), row_bytes, budget, kind), vectors)
    selected: list[Derivative] = []
    report = progress or silent

    def report_of(batch: Batch) -> None:
        report("perturbation", batch.start, len(rows), "rows")

    def work(batch: Batch) -> Tensor:
        batch = problem.placed(batch)
        if not selected:
            selected.append(
                select(
                    problem,
                    batch,
                    mixed_derivatives(problem, variable),
                    several=len(factors) > 1,
                    row_bytes=activations,
                    named=product,
                    between=lambda: report_of(batch),
                )
            )
        with twice_differentiable():
            apply = selected[0].prepare(problem, batch)
            parts: list[Tensor] = []
            for part in torch.split(factors, block.vectors):
                if parts:
                    report_of(batch)
                parts.append(apply(part))
            return torch.cat(parts)

    yield from over_columns(problem, rows, block, work, "perturbation", report)
