"""Our engine, by the calls that the workers make."""

from __future__ import annotations

import torch

from benchmarks.peers.contenders import Answer, Work
from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    Problem,
    Solution,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

NEVER = 1e-30  # a tolerance that stops nothing


def answer(work: Work) -> Answer:
    """See `Answer`."""
    train = TensorRows(work.train.inputs, work.train.targets)
    test = TensorRows(work.test.inputs, work.test.targets)
    problem = Problem(work.trained.model, make_loss("cross_entropy"))
    hessian = Hessian(problem, train, work.case.damping)
    rhs = torch.cat([block for _, block in row_gradients(problem, test)])
    solution = _method(work).solve(hessian, rhs)
    meet = perturbation if work.case.kind == "perturbation" else up
    influence = torch.cat([block for _, block in meet(problem, solution.x, train)], 1)
    return Answer(influence, solution.x, hessian.products, _notes(solution, hessian))


def _method(work: Work) -> Direct | ConjugateGradients | Lissa | Arnoldi:
    case, settings = work.case, work.settings
    if work.method == "direct":
        return Direct()
    if work.method == "cg":
        return ConjugateGradients(rtol=float(settings["rtol"]), atol=NEVER)
    if work.method == "lissa":
        return Lissa(maxiter=case.steps, scale=work.scale, rtol=NEVER)
    return Arnoldi(rank_estimate=case.rank, tol=float(settings["tol"]))


def _notes(solution: Solution, hessian: Hessian) -> str:
    states = sorted({str(each) for each in solution.status})
    return f"{', '.join(states)}; {hessian.product_name}"
