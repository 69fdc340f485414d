"""The generalised Gauss-Newton matrix of the mean training loss."""

from __future__ import annotations

from typing import Any

from workers.engine.autodiff.graph.output import GAUSS_NEWTON
from workers.engine.curvature.of_rows import CurvatureOfRows
from workers.engine.errors import BadParameter
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows


class GaussNewton(CurvatureOfRows):
    """G = (1/n) Σ Jᵢᵀ Sᵢ Jᵢ with J the derivative of the model's outputs in θ, and S the loss's Hessian in them.

    The outputs are what the loss takes first. With a loss that is convex in them G has no negative eigenvalue.
    Raises BadParameter for a loss that is not known to be, or has no Hessian in its outputs.
    """

    term = GAUSS_NEWTON
    label = "Gauss-Newton matrix"

    def __init__(self, problem: Problem, rows: Rows, **options: Any) -> None:
        reason = problem.loss.no_gauss_newton
        if reason is not None:
            raise BadParameter("curvature.kind", "gauss_newton", reason)
        super().__init__(problem, rows, **options)
