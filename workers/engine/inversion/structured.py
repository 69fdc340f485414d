"""A structured relative of the curvature in closed form: a preconditioner, by its Kronecker factors or its diagonal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.method import Method
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import Solution, approximate
from workers.engine.operators import Curvature, Damped, Inverse
from workers.engine.progress import Progress


@dataclass(frozen=True)
class Structured(Method, name="structured"):
    """(R + λI)⁻¹ of what `structure` keeps of R: the Gauss-Newton matrix of a Hessian, or the curvature itself."""

    structure: str = "ekfac"

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Inverse:
        """Two passes over the rows at most. Raises BadParameter where the curvature has no such relative."""
        found = curvature.of_structure(self.structure).closed_form(progress)
        if found is None:
            raise BadParameter("preconditioner.structure", self.structure, "one in closed form")
        return found.preconditioner().damped(damping)

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p), with their true residuals."""
        fit = fit or self.fit(curvature, damping, progress)
        return approximate(fit.apply, Damped(curvature, damping), rhs)
