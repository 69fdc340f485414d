"""`python -m benchmarks.peers.phases`: how far each phase of the engine is from the machine's limit.

On the two perceptrons: the least floating-point operations of the phase, the median time of a few
calls, and the share of the rate of large matrix products measured at the start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from benchmarks.peers.flops import product_flops
from benchmarks.peers.machine import described, gemm_rate
from benchmarks.peers.problem import load, prepared
from workers.engine import (
    Direct,
    Hessian,
    Problem,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

DAMPING = 1e-2
CALLS = 7
DENSE = 4000  # up to so many parameters


@dataclass(frozen=True)
class Phase:
    """A piece of work, and its least floating-point operations."""

    name: str
    flops: float
    call: Callable[[], object]


def phases(model: str, vectors: int) -> list[Phase]:
    """Of this model, with so many factors or test rows at once."""
    trained = load(model, prepared(model))
    assert isinstance(trained.model, nn.Sequential)
    train = TensorRows(trained.train.inputs, trained.train.targets)
    rows = trained.test.first(vectors)
    test = TensorRows(rows.inputs, rows.targets)
    problem = Problem(trained.model, make_loss("cross_entropy"))
    hessian = Hessian(problem, train)
    rhs = torch.cat([block for _, block in row_gradients(problem, test)])
    n, p = len(train), problem.size
    product = product_flops(trained.model, n)
    found = [
        Phase(
            f"gradients of {vectors} test rows",
            6 * p * vectors,
            lambda: list(row_gradients(problem, test)),
        ),
        Phase(f"Hessian times {vectors} vectors", vectors * product, lambda: hessian.matmat(rhs)),
        Phase(
            f"contraction with {vectors} factors",
            2 * vectors * n * p,
            lambda: list(up(problem, rhs, train)),
        ),
        Phase(
            f"perturbation by {vectors} factors",
            vectors * product,
            lambda: list(perturbation(problem, rhs, train)),
        ),
    ]
    if p <= DENSE:
        matrix = hessian.dense()
        matrix.diagonal().add_(DAMPING)
        found += [
            Phase("Hessian built", n * p**2, hessian.dense),
            Phase("Cholesky factor", p**3 / 3, lambda: torch.linalg.cholesky_ex(matrix)),
            Phase("direct, all of it", n * p**2 + p**3 / 3, lambda: Direct().fit(hessian, DAMPING)),
        ]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.phases", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    rate = gemm_rate(threads)
    print(f"{described()}; {threads} threads; {rate:.0f} GFLOP/s in float32")
    for model, vectors in (("small", 100), ("wide", 20)):
        print(f"\n{model:36} {'GFLOP':>8} {'ms':>8} {'GFLOP/s':>8} {'of GEMM':>8}")
        for phase in phases(model, vectors):
            seconds = median([_seconds(phase.call) for _ in range(CALLS + 1)][1:])
            reached = phase.flops / seconds / 1e9
            print(
                f"{phase.name:36} {phase.flops / 1e9:8.2f} {1e3 * seconds:8.1f} {reached:8.0f} "
                f"{reached / rate:8.0%}"
            )


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
