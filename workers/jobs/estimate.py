"""How long a job will take, roughly: from a short timing of gradients and products, never from a guess of hardware.

It decides how large blocks are and whether they are worth spreading; no number of a result comes from it but through
the plan, which is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from service.jobs.counts import (
    BENT_FLOPS,
    FORMED_OUTPUTS,
    GRADIENT_FLOPS,
    PASS_SECONDS,
    Size,
    Work,
    counted,
)
from upweight.schema import AttributionJob
from workers.engine import Batch, Problem, per_example_gradients
from workers.engine.curvature.structured.layout import LARGE_BLOCK
from workers.engine.model.second_order import twice_differentiable
from workers.jobs.inputs import JobInputs

FREE_FLOPS = 2e9  # below this nothing is worth timing
# What is timed: few rows within a part of the budget, in a second at most. Beyond so many parameters a row's gradient
# is timed as a pass forward and back, and products are counted in those.
PROBED_ROWS, MORE_ROWS = 2, 32
PROBED_PART, PROBED_COPIES = 0.25, 3
PROBED_SECONDS, CHEAP_SECONDS = 1.0, 0.02
MOST_WRITTEN = 1_000_000
PRODUCT_GRADIENTS = 2.0  # of one vector with the Hessian: two passes forward and back
MOST_MULTIPLIED = 1 << 20  # entries of a vector whose products are timed


@dataclass(frozen=True)
class Estimate:
    """Seconds on this worker."""

    fit: float
    right_hand_side: float  # each, solved for in blocks
    train_row: float  # with all test rows
    contraction: float = 0.0  # what of it grows with the number of λ's
    apart: float = 0.0  # what takes C apart

    def total(self, right_hand_sides: int, train_rows: int) -> float:
        """Of the whole job."""
        solving = self.right_hand_side * right_hand_sides
        return self.fit + self.apart + solving + self.train_row * train_rows

    def with_dampings(self, count: int) -> Estimate:
        """With so many λ's: a solution each, and one pass over the training rows that all meet."""
        more = count - 1
        return replace(
            self,
            right_hand_side=self.right_hand_side * count,
            train_row=self.train_row + self.contraction * more,
            contraction=self.contraction * count,
        )


NOTHING = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Speed:
    """Seconds of one row's gradient, and floating-point operations a second of a product.

    `product`: seconds of one row with one vector, where that was counted in passes; None: by the rate.
    """

    gradient: float
    rate: float
    product: float | None = None

    def seconds(self, work: Work, size: Size, a_pass: float = PASS_SECONDS) -> float:
        """Of a part of the job. `a_pass` takes so long however little is in it."""
        product = self.product
        if product is None:
            product = BENT_FLOPS * size.used / self.rate
        by_rows = work.gradients * self.gradient + work.products * product
        return by_rows + work.flops / self.rate + work.passes * a_pass


def estimated(
    request: AttributionJob,
    inputs: JobInputs,
    right_hand_sides: int,
    together: int,
    entries: int,
    budget_bytes: int,
) -> Estimate:
    """`together` right-hand sides are solved for at a time; `entries` numbers are one influence.

    Raises what the progress of `inputs` does.
    """
    size = _size(request, inputs, entries)
    # At a gradient's six operations a row and parameter, is there anything to time?
    at_least = priced(
        request,
        size,
        Speed(GRADIENT_FLOPS * size.used, 1.0),
        right_hand_sides,
        together,
        a_pass=0.0,
    )
    solved = len(inputs.train) if request.is_self else right_hand_sides
    if at_least.total(solved, len(inputs.train)) < FREE_FLOPS:
        return NOTHING
    return priced(request, size, _probed(inputs, budget_bytes), right_hand_sides, together)


def priced(
    request: AttributionJob,
    size: Size,
    speed: Speed,
    right_hand_sides: int,
    together: int,
    *,
    a_pass: float = PASS_SECONDS,
) -> Estimate:
    """Of a job with so many right-hand sides, at this speed."""
    counts = counted(request, size, right_hand_sides, together)

    def seconds(work: Work) -> float:
        return speed.seconds(work, size, a_pass)

    return Estimate(
        fit=seconds(counts.fit),
        right_hand_side=seconds(counts.right_hand_side),
        train_row=seconds(counts.train_row),
        contraction=seconds(counts.contraction),
        apart=seconds(counts.apart),
    )


def _size(request: AttributionJob, inputs: JobInputs, entries: int) -> Size:
    problem = inputs.problem
    modules = dict[str, int]()
    for each in problem.layout:
        modules[each.module] = modules.get(each.module, 0) + each.size
    kept = tuple(size for size in modules.values() if size <= LARGE_BLOCK)
    columns = 1
    if not (request.curvature.differentiates_twice or request.curvature.facts.one_column_a_row):
        first = problem.placed(next(iter(inputs.hessian_rows.batches(1)))).at_least_two()
        with torch.no_grad():
            outputs = problem.outputs(problem.theta, first)
        if isinstance(outputs, torch.Tensor) and outputs[0].numel() <= FORMED_OUTPUTS:
            columns = outputs[0].numel()
    rows = len(inputs.hessian_rows), len(inputs.train)
    return Size(problem.size, kept, *rows, columns, entries, inputs.positions)


def _probed(inputs: JobInputs, budget_bytes: int) -> Speed:
    """Timed on two rows at most, and on more only where these take next to no time."""
    problem = inputs.problem
    vector_bytes = problem.size * problem.dtype.itemsize
    fitting = int(PROBED_PART * budget_bytes / (PROBED_COPIES * vector_bytes))
    written = problem.size <= MOST_WRITTEN and fitting >= PROBED_ROWS
    work = _written if written else _passed
    gradient = _timed(inputs, work, min(PROBED_ROWS, len(inputs.train)))
    more = min(MORE_ROWS, fitting, len(inputs.train))
    if written and more > PROBED_ROWS and gradient < CHEAP_SECONDS:
        # Calls weigh less in a larger batch: what the job has, too.
        gradient = min(gradient, _timed(inputs, work, more))
    rate = _multiplying_rate(problem)
    return Speed(gradient, rate, None if written else PRODUCT_GRADIENTS * gradient)


def _written(problem: Problem, batch: Batch) -> None:
    per_example_gradients(problem, batch)


def _passed(problem: Problem, batch: Batch) -> None:
    theta = problem.theta.clone().requires_grad_()
    with twice_differentiable(), torch.enable_grad():
        torch.autograd.grad(problem.losses(theta, problem.placed(batch)).sum(), theta)


def _timed(inputs: JobInputs, work: Callable[[Problem, Batch], None], rows: int) -> float:
    """Seconds a row: of the second call, unless the first took long."""
    problem, best, spent = inputs.problem, float("inf"), 0.0
    batch = next(iter(inputs.train.batches(max(1, rows))))
    for number in range(2):
        inputs.progress("plan", number, 2, "timings")
        seconds = _seconds(lambda: work(problem, batch), problem.device)
        best, spent = min(best, seconds), spent + seconds
        if spent > PROBED_SECONDS / 2:
            break
    return best / len(batch)


def _multiplying_rate(problem: Problem) -> float:
    """Operations a second of products of few long vectors."""
    width = min(problem.size, MOST_MULTIPLIED)
    count = max(1, min(MORE_ROWS, MOST_MULTIPLIED // width))
    vectors = problem.theta[:width].expand(count, -1).contiguous()
    seconds = min(_seconds(lambda: vectors @ vectors.T, problem.device) for _ in range(2))
    return 2.0 * count**2 * width / max(seconds, 1e-9)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
