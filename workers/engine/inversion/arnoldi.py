"""A low-rank inverse from the largest eigenpairs of H.

Use it when one Hessian serves many right-hand sides and an approximation will do: what b has
outside the kept eigenvectors is dropped, or with `complement` divided by λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.explicit import explicit_where_cheaper
from workers.engine.inversion.indefinite import Unsolved, singular
from workers.engine.inversion.lanczos import block_width, largest_eigenpairs
from workers.engine.inversion.solution import (
    Operator,
    Solution,
    Status,
    checked_rhs,
    checked_rows,
)
from workers.engine.progress import Progress, silent


@dataclass(frozen=True)
class LowRank:
    """x = V (D + λ)⁻¹ Vᵀ b, plus (b − V Vᵀ b) / λ with `complement`; see `Inverse`."""

    eigenvalues: Tensor  # (rank,) of H, λ not included
    eigenvectors: Tensor  # (p, rank)
    residuals: Tensor  # (rank,) ‖Hv − μv‖
    damping: float
    complement: bool
    converged: bool
    images: Tensor | None = None  # (rank, p), H V: not stored
    asked: int | None = None  # rank_estimate: no more than p pairs are found
    unsolved: Unsolved = "fail"

    @property
    def kept(self) -> Tensor:
        """(rank,) booleans: where D + λ is farther from zero than its own error."""
        shifted = self.eigenvalues + self.damping
        return shifted.abs() > self._errors

    @property
    def _errors(self) -> Tensor:
        """(rank,) of D + λ."""
        shifted = self.eigenvalues + self.damping
        eps = torch.finfo(shifted.dtype).eps * self.eigenvectors.shape[0] ** 0.5
        return torch.clamp(self.residuals, min=eps * float(shifted.abs().max()))

    @property
    def _negative(self) -> bool:
        """Whether a negative eigenvalue is left in H + λI, or exactly undone by λ."""
        errors = self._errors
        below = (self.eigenvalues < -errors) & (self.eigenvalues + self.damping <= errors)
        return bool(below.any())

    @property
    def _below_rounding(self) -> bool:
        """Whether λ is lost in an eigenvalue's own error."""
        return self.damping > 0.0 and not bool(self.kept.all())

    def solve(
        self, rhs: Tensor, progress: Progress | None = None, operator: Operator | None = None
    ) -> Solution:
        """Solve for all (k, p) at once. Without `operator`, residual norms are NaN: not measured.

        Raises SingularHessian where a pair is negative with λ, and that is not kept.
        """
        size = self.eigenvectors.shape[0]
        rhs = checked_rows(rhs, size, self.eigenvectors.dtype, self.eigenvectors.device)
        kept, negative = self.kept, self._negative
        if negative and self.unsolved == "fail":
            # What is not among the largest in absolute value is less negative than this.
            scale = max(float(self.eigenvalues.abs().max()), self.damping)
            raise singular(float(self.eigenvalues.min()), self.damping, scale)
        vectors, values = self.eigenvectors[:, kept], self.eigenvalues[kept]
        inside = rhs @ vectors
        parts = inside / (values + self.damping)
        x = parts @ vectors.T
        if self.complement:
            outside = rhs - (rhs @ self.eigenvectors) @ self.eigenvectors.T
            x = x + outside / self.damping
        norms = torch.full_like(rhs[:, 0], float("nan"))
        if operator is not None:
            if self.images is None or self.complement:
                product = operator.matmat(x)
            else:  # x lies in the span of the eigenvectors, whose products are at hand
                product = parts @ self.images[kept] + self.damping * x
            norms = torch.linalg.vector_norm(rhs - product, dim=1)
        if progress is not None:
            progress("arnoldi", rhs.shape[0], rhs.shape[0], "right-hand sides")
        status = self._status(rhs, norms)
        if negative:
            status = (Status.NEGATIVE_CURVATURE,) * len(rhs)
        return Solution(x, norms, status, self._info())

    def _status(self, rhs: Tensor, norms: Tensor) -> tuple[Status, ...]:
        exact = norms <= torch.finfo(rhs.dtype).eps ** 0.5 * torch.linalg.vector_norm(rhs, dim=1)
        if self._below_rounding:
            # λ is below rounding: what was dropped is large in x, though no residual shows it.
            exact = torch.zeros_like(exact)
        return tuple(Status.CONVERGED if each else Status.TRUNCATED for each in exact.tolist())

    def _info(self) -> dict[str, object]:
        size, rank = self.eigenvectors.shape
        clamped = self.asked is not None and self.asked > size
        note = f"rank_estimate {self.asked} is more than the {size} parameters: all {rank} eigenpairs were taken"
        return {
            "eigenvalues": self.eigenvalues,
            "eigenvectors": self.eigenvectors,
            "residuals": self.residuals,
            "dropped": self.eigenvalues[~self.kept],
            "rank": rank,
            "dropped_count": int((~self.kept).sum()),
            "converged": self.converged and not self._below_rounding,
            **({"note": note} if clamped else {}),
        }

    def tensors(self) -> dict[str, Tensor]:
        """For storing; `from_tensors` takes them back."""
        numbers = (self.damping, float(self.complement), float(self.converged))
        return {
            "eigenvalues": self.eigenvalues,
            "eigenvectors": self.eigenvectors,
            "residuals": self.residuals,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> LowRank:
        """The inverse of `tensors`."""
        damping, complement, converged = tensors["numbers"].tolist()
        return cls(
            tensors["eigenvalues"],
            tensors["eigenvectors"],
            tensors["residuals"],
            damping,
            bool(complement),
            bool(converged),
        )


@dataclass(frozen=True)
class Arnoldi:
    """The `rank_estimate` eigenpairs of H largest in absolute value, to `tol`, then x from them; all p of p at most.

    `krylov_dimension` is the largest basis, null for 2 rank + 20; more than the rank, and at most
    p. With `eigen_computation_on_gpu` false the basis is kept in the host's memory; null means
    wherever the Hessian is. info has eigenvalues (rank,), eigenvectors (p, rank), residuals (rank,),
    the eigenvalues `dropped` because D + λ is as good as zero, and `converged`: all pairs are found, and λ is above
    their rounding.
    """

    rank_estimate: int = 10
    tol: float = 1e-6
    krylov_dimension: int | None = None
    eigen_computation_on_gpu: bool | None = None
    complement: bool = False
    seed: int = 0
    unsolved: Unsolved = "fail"

    def __post_init__(self) -> None:
        if self.rank_estimate < 1:
            raise BadParameter("rank_estimate", self.rank_estimate, "at least 1")
        if not self.tol > 0.0:
            raise BadParameter("tol", self.tol, "must be positive")
        if self.krylov_dimension is not None and self.krylov_dimension <= self.rank_estimate:
            raise BadParameter("krylov_dimension", self.krylov_dimension, "more than rank_estimate")

    def fit(self, hessian: Operator, progress: Progress | None = None) -> LowRank:
        """The eigenpairs, which depend on model and training rows alone."""
        size = hessian.shape[0]
        if self.complement and not hessian.damping > 0.0:
            raise BadParameter(
                "hessian_regularization", hessian.damping, "must be positive with complement"
            )
        rank = min(self.rank_estimate, size)
        dimension = min(self.krylov_dimension or 2 * rank + 20, size)
        hessian = explicit_where_cheaper(hessian, dimension, block_width(size))
        away = self.eigen_computation_on_gpu is False
        device = torch.device("cpu") if away else hessian.device
        pairs = largest_eigenpairs(
            hessian,
            rank,
            dimension,
            self.tol,
            self.seed,
            device,
            progress or silent,
        )
        return LowRank(
            pairs.values,
            pairs.vectors,
            pairs.residuals,
            hessian.damping,
            self.complement,
            pairs.converged,
            pairs.images,
            self.rank_estimate,
            self.unsolved,
        )

    def solve(self, hessian: Operator, rhs: Tensor, progress: Progress | None = None) -> Solution:
        """Solve for all rows of rhs (k, p), with their true residuals."""
        rhs = checked_rhs(hessian, rhs)
        return self.fit(hessian, progress).solve(rhs, progress, operator=hessian)
