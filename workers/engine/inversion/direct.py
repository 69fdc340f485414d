"""The Hessian built and factorised: exact, for as many parameters as a (p, p) matrix allows.

Use it below some ten thousand parameters, and whenever many right-hand sides share one Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from workers.engine.inversion.extremes import (
    Spectrum,
    all_eigenvalues,
    extreme_eigenvalues,
)
from workers.engine.inversion.indefinite import LIFT, ROUNDING, Unsolved, singular
from workers.engine.inversion.solution import (
    Operator,
    Solution,
    Status,
    checked_rhs,
    checked_rows,
)
from workers.engine.progress import Progress, silent

# Up to this many parameters all eigenvalues cost less than a second: 4/3 p³ operations.
FEW = 1000

Wanted = Literal["auto", "all", "extremes"]


@dataclass(frozen=True)
class Factorisation:
    """H, what is known of its spectrum, and the Cholesky factor of H + λI; see `Inverse`.

    Where an indefinite H + λI is kept, it is the LU factors, with their `pivots`.

    Extreme eigenvalues without the others are as good as `extreme_eigenvalues` says.
    """

    hessian: Tensor  # (p, p), λ not included
    factor: Tensor  # (p, p), lower; LU with pivots
    damping: float
    spectrum: Spectrum  # of H, λ not included
    pivots: Tensor | None = None  # (p,)

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
            {"hessian": self.hessian, **self._told()},
        )

    def _divided(self, rhs: Tensor) -> Tensor:
        if self.pivots is not None:
            return torch.linalg.lu_solve(self.factor, self.pivots, rhs.T).T
        return torch.cholesky_solve(rhs.T, self.factor).T

    def _told(self) -> dict[str, float | Tensor]:
        known = self.spectrum
        told: dict[str, float | Tensor] = {
            "smallest_eigenvalue": known.smallest,
            "largest_eigenvalue": known.largest,
        }
        if known.eigenvalues is not None:
            told["eigenvalues"] = known.eigenvalues
        return told

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
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Factorisation:
        """The inverse of `tensors`."""
        damping, smallest, largest = tensors["numbers"].tolist()
        spectrum = Spectrum(smallest, largest, tensors.get("eigenvalues"))
        return cls(tensors["hessian"], tensors["factor"], damping, spectrum, tensors.get("pivots"))

    def damped(self, damping: float, unsolved: Unsolved = "fail") -> Factorisation:
        """The same Hessian with another λ: no pass over the data. Raises SingularHessian."""
        known = self.spectrum
        close = known.smallest + damping <= LIFT * max(known.largest, damping)
        exact = known.eigenvalues is not None
        kept = known if exact or not close else None
        return _factorised(self.hessian, damping, kept, unsolved)

    def with_all_eigenvalues(self) -> Factorisation:
        """The same with the whole spectrum."""
        if self.spectrum.eigenvalues is not None:
            return self
        return replace(self, spectrum=all_eigenvalues(self.hessian))


@dataclass(frozen=True)
class Direct:
    """(H + λI)⁻¹ by Cholesky. A singular or indefinite H + λI is an error that names a λ.

    `spectrum`: all eigenvalues of H, its extremes, or (`auto`) all up to FEW parameters. With
    `unsolved` "keep" an indefinite one that is not singular is solved all the same.
    """

    spectrum: Wanted = "auto"
    unsolved: Unsolved = "fail"

    def wants_all(self, size: int) -> bool:
        """Whether all eigenvalues of a Hessian (size, size) are to be computed."""
        return self.spectrum == "all" or (self.spectrum == "auto" and size <= FEW)

    def fit(self, hessian: Operator, progress: Progress | None = None) -> Factorisation:
        """What depends on model, training rows and λ alone. Raises SingularHessian."""
        tell = progress or silent
        matrix = hessian.dense()
        tell("factorise", 0, 1, "factorisation")
        known = all_eigenvalues(matrix) if self.wants_all(len(matrix)) else None
        fitted = _factorised(matrix, hessian.damping, known, self.unsolved)
        tell("factorise", 1, 1, "factorisation")
        return fitted

    def solve(self, hessian: Operator, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Solve for all rows of rhs (k, p). Raises SingularHessian, ShapeMismatch, NotFinite."""
        rhs = checked_rhs(hessian, rhs)
        return self.fit(hessian, progress).solve(rhs, progress)


def _factorised(
    matrix: Tensor, damping: float, spectrum: Spectrum | None, unsolved: Unsolved
) -> Factorisation:
    """`spectrum` is that of H, where it is known."""
    shifted = matrix.clone()
    shifted.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if spectrum is None:
        definite = not int(failed)
        spectrum = (
            extreme_eigenvalues(matrix, factor, damping) if definite else all_eigenvalues(matrix)
        )
    smallest, largest = spectrum.smallest, spectrum.largest
    scale = max(abs(smallest), abs(largest), damping)
    # Eigenvalues below this are rounding: the solution would be, too.
    floor = matrix.shape[0] ** 0.5 * torch.finfo(matrix.dtype).eps * scale
    if int(failed) or smallest + damping <= floor:
        if unsolved == "keep" and smallest + damping < -floor:
            known = spectrum if spectrum.eigenvalues is not None else all_eigenvalues(matrix)
            assert known.eigenvalues is not None
            if float((known.eigenvalues + damping).abs().min()) > floor:
                lu, pivots = torch.linalg.lu_factor(shifted)
                return Factorisation(matrix, lu, damping, known, pivots)
        hidden = matrix.dtype == torch.float32 and abs(smallest + damping) <= ROUNDING * floor
        raise singular(smallest, damping, scale, rounding="float32" if hidden else "")
    return Factorisation(matrix, factor, damping, spectrum)
