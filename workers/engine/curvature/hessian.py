"""The Hessian of the mean training loss."""

from __future__ import annotations

from workers.engine.autodiff.graph.output import HESSIAN
from workers.engine.curvature.of_rows import CurvatureOfRows


class Hessian(CurvatureOfRows):
    """H = (1/n) Σ ∇²θ L(zᵢ, θ) over all n rows."""

    term = HESSIAN
    label = "Hessian"
