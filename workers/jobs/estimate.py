"""How long a job will take, roughly: from a short timing of gradients and products, never from a guess of hardware.

It decides how large blocks are and whether they are worth spreading; no number of a result comes from it but through
the plan, which is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from upweight.schema import Arnoldi, ConjugateGradient, Direct, InfluencesJob, Lissa
from workers.engine import per_example_gradients
from workers.jobs.work import AnyJob, Material

FREE_FLOPS = 2e9  # below this nothing is worth timing
PROBED_ROWS = 32
# Products with H until conjugate gradients converge to 1e-5: for one right-hand side, and how they grow.
FIRST_PRODUCTS, SHARING = 43.0, 0.6
LANCZOS_EXTRA = 20
# Of one vector with H: operations a row and parameter, and what a pass takes however little there is to do.
PRODUCT_FLOPS = 12.0
PASS_SECONDS = 1e-3


@dataclass(frozen=True)
class Estimate:
    """Seconds on this worker."""

    fit: float
    right_hand_side: float  # each, solved for in blocks
    train_row: float  # with all test rows

    def total(self, right_hand_sides: int, train_rows: int) -> float:
        """Of the whole job."""
        return self.fit + self.right_hand_side * right_hand_sides + self.train_row * train_rows


NOTHING = Estimate(0.0, 0.0, 0.0)


def estimated(
    request: AnyJob, material: Material, right_hand_sides: int, together: int, entries: int
) -> Estimate:
    """`together` right-hand sides are solved for at a time; `entries` numbers are one influence."""
    problem, hessian_rows = material.problem, len(material.hessian_rows)
    products = _products(request, together, right_hand_sides)
    size, m = problem.size, max(1, right_hand_sides)
    flops = 6.0 * size * (hessian_rows * (products + _fit_products(request, size)))
    flops += 2.0 * size * m * entries * len(material.train)
    if flops < FREE_FLOPS:
        return NOTHING
    gradient, rate = _probed(material)
    contraction = 2.0 * size * m / rate if entries == 1 else gradient * m / 8
    product = PASS_SECONDS / max(1, together) + PRODUCT_FLOPS * hessian_rows * size / rate
    fit = product * _fit_products(request, size)
    if isinstance(request.inversion, Direct):
        fit = 4.0 * hessian_rows * size * size / rate
    return Estimate(
        fit=fit,
        right_hand_side=gradient + product * products / m,
        train_row=gradient + (contraction if isinstance(request, InfluencesJob) else 0.0),
    )


def _products(request: AnyJob, together: int, count: int) -> float:
    """Vectors that H is multiplied with, in all."""
    together = max(1, min(together, count))
    match request.inversion:
        case ConjugateGradient(maxiter=limit):
            one_block = min(FIRST_PRODUCTS * together**SHARING, (limit or 10**9) * together)
            return one_block * count / together
        case Lissa(maxiter=steps):
            return float(steps * count)
        case _:
            return 0.0


def _fit_products(request: AnyJob, size: int) -> float:
    match request.inversion:
        case Arnoldi(rank_estimate=rank):
            return 2.0 * rank + LANCZOS_EXTRA
        case Direct():
            return size / 6.0
        case _:
            return 0.0


def _probed(material: Material) -> tuple[float, float]:
    """Seconds of one row's gradient, and floating-point operations a second of a product."""
    problem = material.problem
    batch = next(iter(material.train.batches(min(PROBED_ROWS, len(material.train)))))
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
