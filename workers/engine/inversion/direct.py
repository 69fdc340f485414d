"""The Hessian built and factorised: exact, for as many parameters as a (p, p) matrix allows.

Use it below some ten thousand parameters, and whenever many right-hand sides share one Hessian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.errors import SingularHessian
from workers.engine.inversion.extremes import all_eigenvalues, extreme_eigenvalues
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


@dataclass(frozen=True)
class Factorisation:
    """H, its extreme eigenvalues, and the Cholesky factor of H + λI; see `Inverse`.

    The eigenvalues are exact below 256 parameters, else as good as `extreme_eigenvalues` says.
    """

    hessian: Tensor  # (p, p), λ not included
    factor: Tensor  # (p, p), lower
    damping: float
    smallest_eigenvalue: float  # of H, λ not included
    largest_eigenvalue: float

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
            {
                "hessian": self.hessian,
                "smallest_eigenvalue": self.smallest_eigenvalue,
                "largest_eigenvalue": self.largest_eigenvalue,
            },
        )

    def _residual(self, rhs: Tensor, x: Tensor) -> Tensor:
        return rhs - x @ self.hessian - self.damping * x

    def tensors(self) -> dict[str, Tensor]:
        """For storing; `from_tensors` takes them back."""
        numbers = (self.damping, self.smallest_eigenvalue, self.largest_eigenvalue)
        return {
            "hessian": self.hessian,
            "factor": self.factor,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Factorisation:
        """The inverse of `tensors`."""
        return cls(tensors["hessian"], tensors["factor"], *tensors["numbers"].tolist())

    def damped(self, damping: float) -> Factorisation:
        """The same Hessian with another λ: no pass over the data. Raises SingularHessian."""
        extremes = (self.smallest_eigenvalue, self.largest_eigenvalue)
        close = self.smallest_eigenvalue + damping <= LIFT * max(extremes[1], damping)
        return _factorised(self.hessian, damping, None if close else extremes)


@dataclass(frozen=True)
class Direct:
    """(H + λI)⁻¹ by Cholesky. A singular or indefinite H + λI is an error that names a λ."""

    def fit(self, hessian: Operator, progress: Progress | None = None) -> Factorisation:
        """What depends on model, training rows and λ alone. Raises SingularHessian."""
        tell = progress or silent
        matrix = hessian.dense()
        tell("factorise", 0, 1, "factorisation")
        fitted = _factorised(matrix, hessian.damping)
        tell("factorise", 1, 1, "factorisation")
        return fitted

    def solve(self, hessian: Operator, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Solve for all rows of rhs (k, p). Raises SingularHessian, ShapeMismatch, NotFinite."""
        rhs = checked_rhs(hessian, rhs)
        return self.fit(hessian, progress).solve(rhs, progress)


def _factorised(
    matrix: Tensor, damping: float, extremes: tuple[float, float] | None = None
) -> Factorisation:
    """`extremes` are the smallest and largest eigenvalue of H, where they are known."""
    shifted = matrix.clone()
    shifted.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if extremes is None:
        known = not int(failed)
        extremes = (
            extreme_eigenvalues(matrix, factor, damping) if known else all_eigenvalues(matrix)
        )
    smallest, largest = extremes
    scale = max(abs(smallest), abs(largest), damping)
    # Eigenvalues below this are rounding: the solution would be, too.
    floor = matrix.shape[0] ** 0.5 * torch.finfo(matrix.dtype).eps * scale
    if int(failed) or smallest + damping <= floor:
        raise _singular(smallest, damping, scale)
    return Factorisation(matrix, factor, damping, smallest, largest)


def _singular(smallest: float, damping: float, scale: float) -> SingularHessian:
    needed = max(-1.2 * smallest, 0.0) + LIFT * (scale or 1.0)
    return SingularHessian(smallest + damping, damping, _rounded_up(needed))


def _rounded_up(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
