"""Upweight's engine: a fit and pairwise scores."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from benchmarks.structures.models import Case
from service.malloc import keep_what_a_pass_frees
from workers import engine

BUDGET = 1 << 27  # bytes: as fast as with more, and within them


def measured(case: Case, drawn: bool, budget: int = BUDGET) -> tuple[float, float, Tensor]:
    """Seconds of the fit, of the scores, and the scores (m, n)."""
    keep_what_a_pass_frees()  # as a worker does
    options = {"reduction": "sum", "class_axis": -1} if case.name == "decoder" else {}
    loss = engine.make_loss("cross_entropy", **options)
    problem = engine.Problem(case.module, loss, case.names)
    train, test = (engine.TensorRows(*rows) for rows in (case.train, case.test))
    began = time.perf_counter()
    over = engine.Over(problem, train, budget_bytes=budget)
    kind = "fisher" if drawn else "empirical_fisher"
    fit = engine.make_curvature(over, kind, "ekfac").closed_form()
    assert fit is not None
    fit = fit.damped(case.damping)
    fitted = time.perf_counter()
    factors = fit.apply(_right_hand_sides(problem, test, budget))
    scores = torch.cat(
        [block for _, block in engine.up(problem, factors, train, budget_bytes=budget)], 1
    )
    return fitted - began, time.perf_counter() - fitted, scores


def _right_hand_sides(problem: engine.Problem, test: engine.Rows, budget: int) -> Tensor:
    """As a job has them: in one tensor that is there beforehand."""
    found = torch.empty((len(test), problem.size), dtype=problem.dtype)
    for here, block in engine.row_gradients(problem, test, budget_bytes=budget):
        found[here] = block
    return found
