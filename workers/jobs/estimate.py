"""How long a job will take, roughly: from a short timing of gradients and products, never from a guess of hardware.

It decides how large blocks are and whether they are worth spreading; no number of a result comes from it but through
the plan, which is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from upweight.schema import AttributionJob, InfluencesJob
from workers.engine import per_example_gradients
from workers.jobs.inputs import JobInputs

FREE_FLOPS = 2e9  # below this nothing is worth timing
PROBED_ROWS = 32
# Of one vector with H: operations a row and parameter, and what a pass takes however little there is to do.
PRODUCT_FLOPS = 12.0
BUILDING_FLOPS = 4.0  # of H itself, a row and entry
PASS_SECONDS = 1e-3
# Of a structured curvature, in gradients of a row: two passes with a product a layer for each factor and rotation.
CLOSED_FORM_GRADIENTS = 6.0


@dataclass(frozen=True)
class Estimate:
    """Seconds on this worker."""

    fit: float
    right_hand_side: float  # each, solved for in blocks
    train_row: float  # with all test rows
    contraction: float = 0.0  # what of it grows with the number of λ's

    def total(self, right_hand_sides: int, train_rows: int) -> float:
        """Of the whole job."""
        return self.fit + self.right_hand_side * right_hand_sides + self.train_row * train_rows

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


def estimated(
    request: AttributionJob, inputs: JobInputs, right_hand_sides: int, together: int, entries: int
) -> Estimate:
    """`together` right-hand sides are solved for at a time; `entries` numbers are one influence."""
    problem, hessian_rows = inputs.problem, len(inputs.hessian_rows)
    size, m, inversion = problem.size, max(1, right_hand_sides), request.inversion
    at_once, together = max(1, together), max(1, min(together, right_hand_sides))
    in_closed_form = request.curvature.closed_form and inversion.builds_matrix
    products, fit_products = (
        inversion.products(right_hand_sides, together),
        CLOSED_FORM_GRADIENTS if in_closed_form else inversion.fit_products(size),
    )
    flops = 6.0 * size * (hessian_rows * (products + fit_products))
    flops += 2.0 * size * m * entries * len(inputs.train)
    if flops < FREE_FLOPS:
        return NOTHING
    gradient, rate = _probed(inputs)
    contraction = 2.0 * size * m / rate if entries == 1 else gradient * m / 8
    product = PASS_SECONDS / at_once + PRODUCT_FLOPS * hessian_rows * size / rate
    fit = product * fit_products
    if in_closed_form:
        fit = CLOSED_FORM_GRADIENTS * gradient * hessian_rows
    elif request.building is inversion:
        fit = BUILDING_FLOPS * hessian_rows * size * size / rate
    return Estimate(
        fit=fit,
        right_hand_side=gradient + product * products / m,
        train_row=gradient + (contraction if isinstance(request, InfluencesJob) else 0.0),
        contraction=contraction if isinstance(request, InfluencesJob) else 0.0,
    )


def _probed(inputs: JobInputs) -> tuple[float, float]:
    """Seconds of one row's gradient, and floating-point operations a second of a product."""
    problem = inputs.problem
    batch = next(iter(inputs.train.batches(min(PROBED_ROWS, len(inputs.train)))))
    gradients = per_example_gradients(problem, batch)
    gradient = _seconds(lambda: per_example_gradients(problem, batch), problem.device) / len(batch)
    product = _seconds(lambda: gradients @ gradients.T, problem.device)
    return gradient, 2.0 * len(batch) ** 2 * problem.size / max(product, 1e-9)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
