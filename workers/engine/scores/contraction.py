"""How factors meet training rows: influence of weighting a row up, and of moving its features.

Factors are (H + λI)⁻¹ ∇θ L(z_test), a row a test point. In every result a row is a test point and a
column a training row; POSITIVE means helpful: the training row lowers the test loss. There is no
1/n in it: training without row z changes the test loss by about influence / n, and moving a feature
of z by δ changes it by about −influence · δ / n.

Everything goes through the rows once, in blocks within a byte budget, and yields each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Product
from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.jvp import PROBE_ROWS, Slopes, slopes
from workers.engine.autodiff.locate import locate_nonfinite
from workers.engine.autodiff.mixed import InputVariable, ModuleVariable, Variable, mixed_ways
from workers.engine.autodiff.select import chosen
from workers.engine.errors import NotFinite, ShapeMismatch
from workers.engine.inversion.solution import Solution
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    Block,
    activation_bytes,
    cached_bytes,
    over_rows,
    rows_at_once,
    vectors_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress, silent
from workers.engine.scores.precision import Agreement, Precision, agreement, checked, product

# Buffers of the size of a block's gradients that are alive at once: result, backward's, the copy.
GRADIENT_COPIES = 3
# Up to so many factors a layer's share of a pass forward along each costs less than gradients of so many numbers.
MOST_SLOPES = 128
LONG_GRADIENT = 1 << 15
MANY_GRADIENTS = 1 << 23  # numbers of all rows: fewer cost less than looking for another way
FEWEST_ROWS, FEWEST_AT_ONCE = 128, 8  # of a block that stays in cache
# What low precision is judged by.
SAMPLED_ROWS = 64
SAMPLED_FACTORS = 64


def row_gradients(
    problem: Problem,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L of each row: yields (slice of rows, (b, p)). Raises NotFinite, naming the row."""
    yield from _over_gradients(
        problem, rows, lambda gradients: gradients, "gradients", batch_size, budget_bytes, progress
    )


def up(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    precision: Precision = "full",
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L(z_test)ᵀ (H + λI)⁻¹ ∇θ L(z_train): yields (slice of columns, (m, b)).

    `factors` (m, p). `precision` is that of the product alone, for problems in float32; see
    `low_precision_agreement`. Few factors meet the rows layer by layer where the model's graph is
    known; else, gradients are multiplied. Raises ShapeMismatch, NotFinite.
    """
    factors, precision = _fitting(problem, factors), checked(precision)
    many = problem.size >= LONG_GRADIENT and len(rows) * problem.size >= MANY_GRADIENTS
    if precision == "full" and many and 0 < len(factors) <= MOST_SLOPES:
        way = slopes(problem, next(iter(rows.batches(PROBE_ROWS))))
        if way is not None:
            yield from _along(problem, way, factors, rows, batch_size, budget_bytes, progress)
            return

    def scores(gradients: Tensor) -> Tensor:
        return product(factors, gradients, precision)

    yield from _over_gradients(
        problem, rows, scores, "up", batch_size, budget_bytes, progress, result_width=len(factors)
    )


def _along(
    problem: Problem,
    way: Slopes,
    factors: Tensor,
    rows: Rows,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
) -> Iterator[tuple[slice, Tensor]]:
    kind = problem.device.type
    row_bytes = activation_bytes(problem, rows)
    most = max(FEWEST_AT_ONCE, cached_bytes(kind) // (row_bytes * FEWEST_ROWS))
    vectors = min(len(factors), vectors_at_once(kind), most)
    cost = row_bytes * (1 + vectors)
    budget = min(budget, max(FEWEST_ROWS * cost, cached_bytes(kind)))
    block = Block(rows_at_once(batch_size, len(rows), cost, budget, kind), vectors)

    def work(batch: Batch) -> Tensor:
        with twice_differentiable():
            apply = way.prepare(problem, problem.placed(batch))
            return torch.cat([apply(part) for part in torch.split(factors, block.vectors)])

    for batch, result in over_rows(rows, block, work, what="up", progress=progress or silent):
        yield _columns(batch), _located(problem, batch, result, "up")


def low_precision_agreement(
    problem: Problem, factors: Tensor, rows: Rows, precision: Precision
) -> Agreement:
    """Whether `up` in this precision can be trusted, judged by a sample of rows and factors."""
    factors = _fitting(problem, factors)[:SAMPLED_FACTORS]
    stride = max(1, len(rows) // SAMPLED_ROWS)
    picked = torch.arange(0, len(rows), stride, device=problem.device)[:SAMPLED_ROWS]
    sample = rows.take(picked)
    return agreement(factors, per_example_gradients(problem, sample), checked(precision))


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

    `input` is the position of the input x. `product` fixes the way of differentiating by its name,
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
    """As `perturbation`, of the output of an inner module: (slice, (m, b, *output_shape)).

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
    factors = _fitting(problem, factors)
    if len(rows) == 0 or len(factors) == 0:
        return
    first = problem.placed(next(iter(rows.batches(1))))
    kind = problem.device.type
    vectors = min(len(factors), vectors_at_once(kind))
    value_bytes = variable.initial(problem, first).numel() * problem.theta.element_size()
    activations = activation_bytes(problem, rows)
    row_bytes = activations * (1 + vectors) + len(factors) * value_bytes
    block = Block(rows_at_once(batch_size, len(rows), row_bytes, budget, kind), vectors)
    way: list[Product] = []
    tell = progress or silent

    def tell_of(batch: Batch) -> None:
        tell("perturbation", batch.start, len(rows), "rows")

    def work(batch: Batch) -> Tensor:
        batch = problem.placed(batch)
        if not way:
            way.append(
                chosen(
                    problem,
                    batch,
                    mixed_ways(problem, variable),
                    several=len(factors) > 1,
                    row_bytes=activations,
                    named=product,
                    between=lambda: tell_of(batch),
                )
            )
        with twice_differentiable():
            apply = way[0].prepare(problem, batch)
            parts: list[Tensor] = []
            for part in torch.split(factors, block.vectors):
                if parts:
                    tell_of(batch)
                parts.append(apply(part))
            return torch.cat(parts)

    for batch, result in over_rows(rows, block, work, what="perturbation", progress=tell):
        yield _columns(batch), _located(problem, batch, result, "perturbation")


def self_influence(
    problem: Problem,
    solve: Callable[[Tensor], Solution],
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """The diagonal of `up` with test = train: yields (slice of rows, (b,)).

    `solve` takes right-hand sides (b, p) to their solution, such as `fitted.solve`.
    """

    def of_block(gradients: Tensor) -> Tensor:
        return (solve(gradients).x * gradients).sum(1)

    yield from _over_gradients(
        problem, rows, of_block, "self-influence", batch_size, budget_bytes, progress
    )


def _over_gradients(
    problem: Problem,
    rows: Rows,
    use: Callable[[Tensor], Tensor],
    what: str,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
    result_width: int = 0,
) -> Iterator[tuple[slice, Tensor]]:
    entries = GRADIENT_COPIES * problem.size + result_width
    row_bytes = entries * problem.theta.element_size() + activation_bytes(problem, rows)
    size = rows_at_once(batch_size, len(rows), row_bytes, budget, problem.device.type)

    def work(batch: Batch) -> Tensor:
        return use(per_example_gradients(problem, batch))

    for batch, result in over_rows(rows, Block(size), work, what=what, progress=progress or silent):
        yield _columns(batch), _located(problem, batch, result, what)


def _columns(batch: Batch) -> slice:
    return slice(batch.start, batch.start + len(batch))


def _located(problem: Problem, batch: Batch, result: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(result).all()):
        locate_nonfinite(problem, batch)
        raise NotFinite(f"the result of {what}")
    return result


def _fitting(problem: Problem, factors: Tensor) -> Tensor:
    if factors.ndim != 2 or factors.shape[1] != problem.size:
        raise ShapeMismatch("factors", (-1, problem.size), factors.shape, "a row a test point")
    return factors.to(dtype=problem.dtype, device=problem.device)
