"""The Hessian built and factorised: exact, for as many parameters as a (p, p) matrix allows.

Use it below some ten thousand parameters, and whenever many right-hand sides share one Hessian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import SingularHessian
from workers.engine.inversion.extremes import (
    Spectrum,
    all_eigenvalues,
    extreme_eigenvalues,
)
from workers.engine.inversion.solution import (
    Operator,
    Solution,
    Status,
    checked_rhs,
    checked_rows,
)
from workers.engine.progress import Progress, silent

# A damping that works lifts the smallest eigenvalue to this part of the largest.
LIFT = 1e-4
# Up to this many parameters all eigenvalues cost less than a second: 4/3 p³ operations.
FEW = 1000

Wanted = Literal["auto", "all", "extremes"]


@dataclass(frozen=True)
class Factorisation:
    """H, what is known of its spectrum, and the Cholesky factor of H + λI; see `Inverse`.

    Extreme eigenvalues without the others are as good as `extreme_eigenvalues` says.
    """

    hessian: Tensor  # (p, p), λ not included
    factor: Tensor  # (p, p), lower
    damping: float
    spectrum: Spectrum  # of H, λ not included

    def solve(self, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Two triangular solves and one step of refinement for all (k, p) at once."""
        rhs = checked_rows(rhs, self.hessian.shape[0], self.hessian.dtype, self.hessian.device)
        x = torch.cholesky_solve(rhs.T, self.factor).T
        x = x + torch.cholesky_solve(self._residual(rhs, x).T, self.factor).T
        if progress is not None:
            progress("direct", rhs.shape[0], rhs.shape[0], "right-hand sides")
        return Solution(
            x.contiguous(),
            torch.linalg.vector_norm(self._residual(rhs, x), dim=1),
            (Status.CONVERGED,) * rhs.shape[0],
            {"hessian": self.hessian, **self._told()},
        )

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
        every = self.spectrum.eigenvalues
        return tensors if every is None else {**tensors, "eigenvalues": every}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Factorisation:
        """The inverse of `tensors`."""
        damping, smallest, largest = tensors["numbers"].tolist()
        spectrum = Spectrum(smallest, largest, tensors.get("eigenvalues"))
        return cls(tensors["hessian"], tensors["factor"], damping, spectrum)

    def damped(self, damping: float) -> Factorisation:
        """The same Hessian with another λ: no pass over the data. Raises SingularHessian."""
        known = self.spectrum
        close = known.smallest + damping <= LIFT * max(known.largest, damping)
        exact = known.eigenvalues is not None
        return _factorised(self.hessian, damping, known if exact or not close else None)

    def with_all_eigenvalues(self) -> Factorisation:
        """The same with the whole spectrum."""
        if self.spectrum.eigenvalues is not None:
            return self
        return replace(self, spectrum=all_eigenvalues(self.hessian))


@dataclass(frozen=True)
class Direct:
    """(H + λI)⁻¹ by Cholesky. A singular or indefinite H + λI is an error that names a λ.

    `spectrum`: all eigenvalues of H, its extremes, or (`auto`) all up to FEW parameters.
    """

    spectrum: Wanted = "auto"

    def wants_all(self, size: int) -> bool:
        """Whether all eigenvalues of a Hessian (size, size) are to be computed."""
        return self.spectrum == "all" or (self.spectrum == "auto" and size <= FEW)

    def fit(self, hessian: Operator, progress: Progress | None = None) -> Factorisation:
        """What depends on model, training rows and λ alone. Raises SingularHessian."""
        tell = progress or silent
        matrix = hessian.dense()
        tell("factorise", 0, 1, "factorisation")
        known = all_eigenvalues(matrix) if self.wants_all(len(matrix)) else None
        fitted = _factorised(matrix, hessian.damping, known)
        tell("factorise", 1, 1, "factorisation")
        return fitted

    def solve(self, hessian: Operator, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Solve for all rows of rhs (k, p). Raises SingularHessian, ShapeMismatch, NotFinite."""
        rhs = checked_rhs(hessian, rhs)
        return self.fit(hessian, progress).solve(rhs, progress)


def _factorised(matrix: Tensor, damping: float, spectrum: Spectrum | None = None) -> Factorisation:
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
        raise _singular(smallest, damping, scale)
    return Factorisation(matrix, factor, damping, spectrum)


def _singular(smallest: float, damping: float, scale: float) -> SingularHessian:
    needed = max(-1.2 * smallest, 0.0) + LIFT * (scale or 1.0)
    return SingularHessian(smallest + damping, damping, _rounded_up(needed))


def _rounded_up(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
