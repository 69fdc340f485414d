"""A structured relative of the curvature in closed form: a preconditioner, by its Kronecker factors or its diagonal."""

from __future__ import annotations

from dataclasses import dataclass

from workers.engine.errors import BadParameter
from workers.engine.inversion.method import ApproximateMethod
from workers.engine.operators import Curvature, Inverse
from workers.engine.progress import Progress


@dataclass(frozen=True)
class Structured(ApproximateMethod, name="structured"):
    """(R + λI)⁻¹ of what `structure` keeps of R: the Gauss-Newton matrix of a Hessian, or the curvature itself."""

    structure: str = "ekfac"

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Inverse:
        """Two passes over the rows at most. Raises BadParameter where the curvature has no such relative."""
        found = curvature.of_structure(self.structure).closed_form()
        if found is None:
            raise BadParameter("preconditioner.structure", self.structure, "one in closed form")
        return found.preconditioner().damped(damping)
