"""A structured curvature by its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workers.engine.curvature.structured.columns import Moment, is_wide
from workers.engine.curvature.structured.layout import FACTORED, Structure
from workers.engine.curvature.structured.operator import Options, Structured
from workers.engine.curvature.structured.parts import Parts
from workers.engine.errors import BadParameter
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.operators import Curvature

# The rows with labels drawn, and the problem that takes them.
Drawn = Callable[[], tuple[Problem, Rows]]


def structured(
    kind: str,
    structure: Structure,
    problem: Problem,
    rows: Rows,
    options: dict[str, Any],
    *,
    seed: int,
    exact_outputs: int,
    drawn: Drawn,
    whole: Callable[[], Curvature],
) -> Curvature:
    """What `structure` keeps of the curvature of this kind over the rows. `whole` makes all of it, where it is cut out.

    Of a Gauss-Newton matrix with more than `exact_outputs` outputs a row, labels are drawn.

    Raises BadParameter for Kronecker factors of a Hessian.
    """
    told: dict[str, Any] = {"kind": kind}
    if kind == "hessian" and structure != "identity":
        if structure in FACTORED:
            raise BadParameter(
                "curvature.structure",
                structure,
                "layers or diagonal of a Hessian, which is no sum of squares; or another kind",
            )
        return Parts(whole(), problem, structure, told)
    moment: Moment = "gradients"
    if structure == "identity":
        pass
    elif kind == "fisher":
        problem, rows = drawn()
        told["seed"] = seed
    elif kind == "gauss_newton":
        if problem.loss.no_gauss_newton is not None:
            raise BadParameter("curvature.kind", kind, problem.loss.no_gauss_newton)
        moment = "roots"
        first = problem.placed(next(iter(rows.batches(1)))).at_least_two()
        with torch.no_grad():
            outputs = problem.outputs(problem.theta, first)
        if is_wide(outputs, exact_outputs):
            moment = "sketched"
            problem, rows = drawn()
            told |= {
                "seed": seed,
                "labels": "drawn: a row has too many outputs to go back from each",
            }
    return Structured(problem, rows, moment, structure, Options(told=told, **options))
