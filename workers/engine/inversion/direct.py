"""The curvature built and factorised: exact, for as many parameters as a (p, p) matrix allows.

Use it below some ten thousand parameters, and whenever many right-hand sides share one curvature. Of a
curvature whose eigenvectors are known, a structured one, the inverse is a closed form of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.cholesky import cholesky, divided
from workers.engine.inversion.extremes import (
    FEW,
    Spectrum,
    all_eigenvalues,
    extreme_eigenvalues,
)
from workers.engine.inversion.indefinite import LIFT, ROUNDING, Unsolved, singular
from workers.engine.inversion.method import FitOf, Method
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import (
    Solution,
    Status,
    checked_rhs,
    checked_rows,
)
from workers.engine.inversion.verdict import (
    Verdict,
    of_factorisation,
    of_right_hand_sides,
    unsolved_statuses,
)
from workers.engine.operators import ClosedForm, Curvature, Damped, Inverse
from workers.engine.progress import Progress, silent

Wanted = Literal["auto", "all", "extremes"]


@dataclass(frozen=True)
class Factorisation(Inverse):
    """H, what is known of its spectrum, and the Cholesky factor of H + λI.

    Where an indefinite H + λI is kept, it is the LU factors, with their `pivots`.

    Extreme eigenvalues without the others are as good as `extreme_eigenvalues` says.
    """

    hessian: Tensor  # (p, p), λ not included
    factor: Tensor  # (p, p), lower; LU with pivots
    damping: float
    spectrum: Spectrum  # of H, λ not included
    pivots: Tensor | None = None  # (p,)
    unsolved: Unsolved = "fail"  # where another λ leaves H + λI indefinite

    is_exact = True

    def solve(self, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Two triangular solves and one step of refinement for all (k, p) at once."""
        rhs = checked_rows(rhs, self.hessian.shape[0], self.hessian.dtype, self.hessian.device)
        x = self._divided(rhs)
        x = x + self._divided(self._residual(rhs, x))
        if progress is not None:
            progress("direct", rhs.shape[0], rhs.shape[0], "right-hand sides")
        return Solution(
            x.contiguous(),
            torch.linalg.vector_norm(self._residual(rhs, x), dim=1),
            (Status.NEGATIVE_CURVATURE if self.pivots is not None else Status.CONVERGED,)
            * rhs.shape[0],
            {"hessian": self.hessian, **self._summary()},
        )

    def apply(self, rhs: Tensor) -> Tensor:
        """Two triangular solves for all (k, p) at once."""
        return self._divided(rhs).contiguous()

    def positive(self) -> Inverse:
        """Itself; an indefinite H + λI is no preconditioner."""
        if self.pivots is not None:
            raise BadParameter(
                "hessian_regularization", self.damping, "larger: H + λI is not positive definite"
            )
        return self

    def _divided(self, rhs: Tensor) -> Tensor:
        if self.pivots is not None:
            return torch.linalg.lu_solve(self.factor, self.pivots, rhs.T).T
        return divided(rhs, self.factor)

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "cholesky"}

    def _summary(self) -> dict[str, float | Tensor]:
        known = self.spectrum
        info: dict[str, float | Tensor] = {
            "smallest_eigenvalue": known.smallest,
            "largest_eigenvalue": known.largest,
        }
        if known.eigenvalues is not None:
            info["eigenvalues"] = known.eigenvalues
        return info

    def _residual(self, rhs: Tensor, x: Tensor) -> Tensor:
        return rhs - x @ self.hessian - self.damping * x

    def tensors(self) -> dict[str, Tensor]:
        """For storing; `from_tensors` takes them back."""
        numbers = (self.damping, self.spectrum.smallest, self.spectrum.largest)
        tensors = {
            "hessian": self.hessian,
            "factor": self.factor,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        more = {"eigenvalues": self.spectrum.eigenvalues, "pivots": self.pivots}
        return tensors | {name: each for name, each in more.items() if each is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Factorisation:
        """The inverse of `tensors`."""
        damping, smallest, largest = tensors["numbers"].tolist()
        spectrum = Spectrum(smallest, largest, tensors.get("eigenvalues"))
        return cls(tensors["hessian"], tensors["factor"], damping, spectrum, tensors.get("pivots"))

    def damped(self, damping: float) -> Factorisation:
        """The same Hessian with another λ: no pass over the data. Raises SingularHessian."""
        if damping == self.damping:
            return self
        known = self.spectrum
        close = known.smallest + damping <= LIFT * max(known.largest, damping)
        exact = known.eigenvalues is not None
        kept = known if exact or not close else None
        return _factorised(self.hessian, damping, kept, self.unsolved)

    def with_all_eigenvalues(self) -> Factorisation:
        """The same with the whole spectrum."""
        if self.spectrum.eigenvalues is not None:
            return self
        return replace(self, spectrum=all_eigenvalues(self.hessian))


@dataclass(frozen=True)
class Direct(Method, name="direct"):
    """(H + λI)⁻¹ by Cholesky. A singular or indefinite H + λI is an error that names a λ.

    `spectrum`: all eigenvalues of H, its extremes, or (`auto`) all up to FEW parameters. With
    `unsolved` "keep" an indefinite one that is not singular is solved all the same.
    """

    spectrum: Wanted = "auto"
    unsolved: Unsolved = "fail"

    def wants_all(self, size: int) -> bool:
        """Whether all eigenvalues of a Hessian (size, size) are to be computed."""
        return self.spectrum == "all" or (self.spectrum == "auto" and size <= FEW)

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Factorisation | ClosedForm:
        """H, and its factorisation with λ; or its closed form. Raises SingularHessian."""
        progress = progress or silent
        known_form = curvature.closed_form()
        if known_form is not None:
            return known_form.damped(damping)
        matrix = curvature.dense()
        progress("factorise", 0, 1, "factorisation")
        known = all_eigenvalues(matrix) if self.wants_all(len(matrix)) else None
        fitted = _factorised(matrix, Damped(curvature, damping).damping, known, self.unsolved)
        progress("factorise", 1, 1, "factorisation")
        return fitted

    def lacks(self, fit: Inverse) -> bool:
        """All eigenvalues, where they are wanted now and were not then."""
        if not isinstance(fit, Factorisation):
            return False
        return fit.spectrum.eigenvalues is None and self.wants_all(len(fit.hessian))

    def completed(self, fit: Inverse) -> Inverse:
        """With all eigenvalues, where they are wanted."""
        if not isinstance(fit, Factorisation):
            return fit
        found = fit.with_all_eigenvalues() if self.lacks(fit) else fit
        return found if found.unsolved == self.unsolved else replace(found, unsolved=self.unsolved)

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p). Raises SingularHessian, ShapeMismatch, NotFinite."""
        if fit is None:
            rhs = checked_rhs(Damped(curvature, damping), rhs)
            fit = self.fit(curvature, damping, progress)
        if isinstance(fit, ClosedForm):
            return in_closed_form([fit], rhs, progress)[0]
        assert isinstance(fit, Factorisation)
        return fit.solve(rhs, progress)

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
        fit_of: FitOf | None = None,
    ) -> list[Solution]:
        """As `Method.solve_each`; by a closed form, right-hand sides are turned into its eigenvectors once."""
        fit_of = fit_of or self._from_one_fit(curvature, dampings, progress)
        first, *others = dampings
        fit = fit_of(first)
        if isinstance(fit, ClosedForm):
            rest = [fit_of(each) for each in others]
            forms = [fit, *(each for each in rest if isinstance(each, ClosedForm))]
            return in_closed_form(forms, rhs, progress)
        solved = [self.solve(curvature, first, rhs, progress, fit)]
        return solved + [
            self.solve(curvature, each, rhs, progress, fit_of(each)) for each in others
        ]

    def verdict(self, summary: Mapping[str, Any], damping: float, dtype: torch.dtype) -> Verdict:
        """By the condition number, where the spectrum is known and positive."""
        if "smallest_eigenvalue" in summary and "negative_curvature" not in unsolved_statuses(
            summary
        ):
            return of_factorisation(summary, damping, dtype)
        return of_right_hand_sides(summary)


def in_closed_form(
    fits: Sequence[ClosedForm], rhs: Tensor, progress: Progress | None = None
) -> list[Solution]:
    """By each of these of one C, with true residuals: of C in its closed form."""
    first, *others = fits
    rhs = checked_rows(rhs, first.size, rhs.dtype, rhs.device)
    found = first.solved_each(others, rhs)
    if progress is not None:
        progress("direct", rhs.shape[0], rhs.shape[0], "right-hand sides")
    sizes = torch.linalg.vector_norm(rhs, dim=1)
    some = sizes > 0
    solutions = []
    for fit, each in zip(fits, found, strict=True):
        # ‖Cx‖ / ‖b‖, which ‖b − λx‖ / ‖b‖ is only where λ is one.
        share = float((each.image_norms[some] / sizes[some]).mean()) if bool(some.any()) else 0.0
        info = {**fit.described, "curvature_share": share}
        status = (Status.CONVERGED,) * rhs.shape[0]
        solutions.append(Solution(each.x, each.residual_norms, status, info))
    return solutions


def _factorised(
    matrix: Tensor, damping: float, spectrum: Spectrum | None, unsolved: Unsolved
) -> Factorisation:
    """`spectrum` is that of H, where it is known."""
    shifted, factor = cholesky(matrix, damping)
    if spectrum is None and factor is not None:
        spectrum = extreme_eigenvalues(matrix, factor, damping)
    spectrum = spectrum or all_eigenvalues(matrix)
    smallest, largest = spectrum.smallest, spectrum.largest
    scale = max(abs(smallest), abs(largest), damping)
    # Eigenvalues below this are rounding: the solution would be, too.
    floor = matrix.shape[0] ** 0.5 * torch.finfo(matrix.dtype).eps * scale
    if factor is None or smallest + damping <= floor:
        if unsolved == "keep" and smallest + damping < -floor:
            known = spectrum if spectrum.eigenvalues is not None else all_eigenvalues(matrix)
            assert known.eigenvalues is not None
            if float((known.eigenvalues + damping).abs().min()) > floor:
                lu, pivots = torch.linalg.lu_factor(shifted)
                return Factorisation(matrix, lu, damping, known, pivots, unsolved)
        hidden = matrix.dtype == torch.float32 and abs(smallest + damping) <= ROUNDING * floor
        raise singular(smallest, damping, scale, rounding="float32" if hidden else "")
    return Factorisation(matrix, factor, damping, spectrum, unsolved=unsolved)
