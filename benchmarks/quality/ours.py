"""Scores of the engine's methods on a bank's model, over λ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality.setups import Setup
from workers import engine

RANK = 100  # of Arnoldi
MOST_DENSE = 5000  # parameters of which a matrix (p, p) is no trouble
CG_STEPS = 300  # at most: below λ of some 1e-5 float64 could go on for thousands


@dataclass(frozen=True)
class Scores:
    """(m, n) of one method at one λ; POSITIVE is helpful. None, and why, where it gave none."""

    method: str
    damping: float
    scores: Tensor | None
    why: str = ""


@dataclass(frozen=True)
class Way:
    """A curvature and a method to invert it."""

    kind: str
    structure: str
    method: engine.Method


def ways() -> dict[str, Way]:
    """By the name that the table has."""
    ekfac = engine.METHODS["structured"](structure="ekfac")  # type: ignore[call-arg]
    direct = engine.Direct(spectrum="extremes", unsolved="keep")
    cg = engine.ConjugateGradients(rtol=1e-4, maxiter=CG_STEPS, preconditioner=ekfac)
    return {
        "exact Hessian": Way("hessian", "full", direct),
        "Gauss-Newton": Way("gauss_newton", "full", direct),
        "Fisher": Way("fisher", "full", direct),
        "empirical Fisher": Way("empirical_fisher", "full", direct),
        "EK-FAC": Way("fisher", "ekfac", engine.Direct()),
        "K-FAC": Way("fisher", "kfac", engine.Direct()),
        "EK-FAC of Gauss-Newton": Way("gauss_newton", "ekfac", engine.Direct()),
        "K-FAC of Gauss-Newton": Way("gauss_newton", "kfac", engine.Direct()),
        "cg + EK-FAC": Way("gauss_newton", "full", cg),
        f"Arnoldi {RANK}": Way("gauss_newton", "full", engine.Arnoldi(rank_estimate=RANK)),
        "LiSSA": Way("gauss_newton", "full", engine.Lissa(maxiter=5000)),
        "identity": Way("hessian", "identity", engine.Direct()),
    }


def scored(
    setup: Setup,
    weights: list[Tensor],
    dampings: Sequence[float],
    names: Sequence[str] | None = None,
) -> Iterator[Scores]:
    """Of each method that is named, at each λ, in float64."""
    module = setup.module([each.double() for each in weights]).double().eval()
    problem = engine.Problem(module, engine.make_loss(setup.loss))
    train, test = (
        engine.TensorRows(x.double(), y.double() if y.is_floating_point() else y)
        for x, y in (setup.train, setup.test)
    )
    over = engine.Over(problem, train)
    rhs, gradients = (
        torch.cat([block for _, block in engine.row_gradients(problem, rows)])
        for rows in (test, train)
    )
    for name, way in ways().items():
        if names is not None and name not in names:
            continue
        dense = way.structure == "full" and isinstance(way.method, engine.Direct)
        if dense and problem.size > MOST_DENSE:
            continue
        curvature = engine.make_curvature(over, way.kind, way.structure)
        fit: engine.Inverse | None = None
        for damping in sorted(dampings, reverse=True):
            try:
                if fit is not None and fit.takes_any_damping:
                    fit = fit.damped(damping)
                else:
                    fit = way.method.fit(curvature, damping)
                solution = way.method.solve(curvature, damping, rhs, fit=fit)
                yield Scores(name, damping, solution.x @ gradients.T)
            except engine.EngineError as error:
                yield Scores(name, damping, None, str(error))


def mean_over(
    setup: Setup, ensemble: Sequence[list[Tensor]], dampings: Sequence[float], names: Sequence[str]
) -> Iterator[Scores]:
    """The means of the scores of several models, where all of them have some."""
    each = [list(scored(setup, weights, dampings, names)) for weights in ensemble]
    for several in zip(*each, strict=True):
        found = [one.scores for one in several if one.scores is not None]
        if len(found) == len(several):
            name = f"{several[0].method}, mean of {len(several)} models"
            yield Scores(name, several[0].damping, torch.stack(found).mean(0))
