"""Our engine, by the calls that the workers make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.contenders import Answer, Work
from service.malloc import keep_what_a_pass_frees
from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    Problem,
    Recycled,
    Solution,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

Method = Direct | ConjugateGradients | Lissa | Arnoldi

NEVER = 1e-30  # a tolerance that stops nothing

keep_what_a_pass_frees()  # as every worker does when it starts


def answer(work: Work) -> Answer:
    """See `Answer`."""
    train = TensorRows(work.train.inputs, work.train.targets)
    test = TensorRows(work.test.inputs, work.test.targets)
    if "problem" not in work.kept or not work.contestant.kept:
        work.kept["problem"] = Problem(work.trained.model, make_loss("cross_entropy"))
    problem = work.kept["problem"]
    hessian, damping = Hessian(problem, train), work.case.damping
    rhs = torch.cat([block for _, block in row_gradients(problem, test)])
    if work.contestant.kept:
        solution = _with_what_is_kept(_method(work), hessian, damping, rhs, work.kept)
    else:
        solution = _method(work).solve(hessian, damping, rhs)
    meet = perturbation if work.case.kind == "perturbation" else up
    influence = torch.cat([block for _, block in meet(problem, solution.x, train)], 1)
    return Answer(influence, solution.x, hessian.products, _notes(solution, hessian))


def _with_what_is_kept(
    method: Method, hessian: Hessian, damping: float, rhs: Tensor, kept: dict[str, Any]
) -> Solution:
    """As `workers.fits.fits` does it, with what earlier calls have found out about H."""
    if "fitted" not in kept:
        kept["fitted"] = method.fit(hessian, damping)
    recycled = kept.setdefault("recycled", Recycled())
    return method.solve(hessian, damping, rhs, fit=kept["fitted"], recycled=recycled)


def _method(work: Work) -> Method:
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
