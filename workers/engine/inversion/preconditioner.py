"""Preconditioners for conjugate gradients: symmetric, positive, fitted once per Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.solution import Operator
from workers.engine.progress import Progress

# Probes of Hutchinson's estimate; below this many parameters the diagonal is read off exactly.
PROBES = 64


class Preconditioner(Protocol):
    """An approximation of (H + λI)⁻¹ that is positive definite."""

    def apply(self, residuals: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        ...

    @property
    def info(self) -> dict[str, str | int]:
        """What a solution says of it: its name and, where it has one, its rank."""
        ...


@runtime_checkable
class Preconditionable(Protocol):
    """An operator that knows a preconditioner of its own, and what that would cost."""

    def preconditioner_if_cheaper(self, products: float) -> Metric | None:
        """One, if it makes a solution by so many products cheaper."""
        ...


class Metric(Preconditioner, Protocol):
    """One that can be multiplied with as well as divided by, and knows which rows it owes most."""

    @property
    def row_traces(self) -> Tensor:
        """(n,) what each training row adds to the trace of the Gauss-Newton matrix."""
        ...

    def products(self, blocks: Sequence[Tensor]) -> Tensor:
        """M times these vectors with each other: blocks (s_i, p) to (Σ s, Σ s), float64."""
        ...


@dataclass(frozen=True)
class Identity:
    """No preconditioning."""

    def apply(self, residuals: Tensor) -> Tensor:
        """Unchanged."""
        return residuals

    def tensors(self) -> dict[str, Tensor]:
        """Nothing to store."""
        return {}

    @property
    def info(self) -> dict[str, str | int]:
        """See `Preconditioner`."""
        return {"preconditioner": "none"}


IDENTITY = Identity()


@dataclass(frozen=True)
class Diagonal:
    """Division by the (estimated) diagonal of |H| + λ."""

    diagonal: Tensor  # (p,)

    def apply(self, residuals: Tensor) -> Tensor:
        """See `Preconditioner`."""
        return residuals / self.diagonal

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {"diagonal": self.diagonal}

    @property
    def info(self) -> dict[str, str | int]:
        """See `Preconditioner`."""
        return {"preconditioner": "jacobi"}


@dataclass(frozen=True)
class Factored:
    """(H + λI)⁻¹ itself, by a Cholesky factor."""

    factor: Tensor  # (p, p), lower

    def apply(self, residuals: Tensor) -> Tensor:
        """See `Preconditioner`."""
        return torch.cholesky_solve(residuals.T, self.factor).T.contiguous()

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {"factor": self.factor}

    @property
    def info(self) -> dict[str, str | int]:
        """See `Preconditioner`."""
        return {"preconditioner": "cholesky"}


@dataclass(frozen=True)
class LowRankPlusIdentity:
    """(d + λ) V (D + λ)⁻¹ Vᵀ + (I − V Vᵀ), d the smallest eigenvalue of the sketch.

    Frangella, Tropp and Udell, Randomized Nyström preconditioning (2021), equation 5.3.
    """

    eigenvectors: Tensor  # (p, rank)
    weights: Tensor  # (rank,), (d + λ)/(D + λ) − 1

    @classmethod
    def of(cls, values: Tensor, vectors: Tensor, damping: float) -> LowRankPlusIdentity:
        """With D = `values` (rank,) by falling size, positive with λ."""
        return cls(vectors, (values[-1] + damping) / (values + damping) - 1.0)

    def apply(self, residuals: Tensor) -> Tensor:
        """See `Preconditioner`."""
        return residuals + ((residuals @ self.eigenvectors) * self.weights) @ self.eigenvectors.T

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {"eigenvectors": self.eigenvectors, "weights": self.weights}

    @property
    def info(self) -> dict[str, str | int]:
        """See `Preconditioner`."""
        return {"preconditioner": "low_rank", "preconditioner_rank": len(self.weights)}


@dataclass(frozen=True)
class Deflated:
    """M⁻¹ + Zᵀ (Θ⁻¹ − I) Z, where Z M Zᵀ = I and Z (H + λI) Zᵀ = Θ > 0.

    Where Z are eigenvectors of M⁻¹ (H + λI), it has 1 for their eigenvalues Θ and leaves the others.
    """

    base: Preconditioner  # M⁻¹
    vectors: Tensor  # Z, (r, p)
    weights: Tensor  # (r,), 1/Θ − 1

    def apply(self, residuals: Tensor) -> Tensor:
        """See `Preconditioner`."""
        along = (residuals @ self.vectors.T) * self.weights
        return self.base.apply(residuals).addmm_(along, self.vectors)

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {**self.base.tensors(), "vectors": self.vectors, "weights": self.weights}

    @property
    def info(self) -> dict[str, str | int]:
        """See `Preconditioner`."""
        return {**self.base.info, "preconditioner_pairs": len(self.weights)}


def jacobi(operator: Operator, seed: int, progress: Progress) -> Diagonal:
    """The diagonal: exact for few parameters, else Hutchinson's estimate from random signs."""
    size = operator.shape[0]
    progress("jacobi", 0, 1, "blocks")
    if size <= PROBES:
        diagonal = operator.matmat(
            torch.eye(size, dtype=operator.dtype, device=operator.device)
        ).diagonal()
    else:
        signs = _gaussian(PROBES, operator, seed).sign()
        diagonal = (signs * operator.matmat(signs)).mean(0)
    progress("jacobi", 1, 1, "blocks")
    # A small or negative estimate would make directions explode: keep it within sight of the rest.
    magnitude = diagonal.abs()
    floor = max(operator.damping, 1e-6 * float(magnitude.mean()))
    floor = floor or 1.0
    return Diagonal(magnitude.clamp(min=floor))


def nystroem(operator: Operator, rank: int, seed: int, progress: Progress) -> LowRankPlusIdentity:
    """From a sketch of H with `rank` random vectors, one pass. Needs λ > 0."""
    if not operator.damping > 0.0:
        raise BadParameter(
            "hessian_regularization",
            operator.damping,
            "must be positive for preconditioner nystroem",
        )
    rank = min(rank, operator.shape[0])
    progress("nystroem", 0, 1, "blocks")
    probes = torch.linalg.qr(_gaussian(rank, operator, seed).T).Q  # (p, r)
    sketch = operator.undamped(probes.T.contiguous()).T
    values, vectors = _eigenpairs(probes, sketch)
    progress("nystroem", 1, 1, "blocks")
    return LowRankPlusIdentity.of(values, vectors, operator.damping)


def _eigenpairs(probes: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor]:
    # H may be indefinite: eigenvalues of the projection that are not positive carry no curvature
    # that a positive preconditioner could use, and Nyström's formula would divide by them.
    values, turn = torch.linalg.eigh(probes.T @ sketch)
    positive = values > 10 * torch.finfo(values.dtype).eps * values.abs().max()
    if not bool(positive.any()):
        return torch.zeros_like(values[:1]), probes[:, :1]
    half = sketch @ (turn[:, positive] / values[positive].sqrt())  # (p, s): H ≈ half halfᵀ
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    return singular.square(), vectors


def _gaussian(count: int, operator: Operator, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, operator.shape[0], generator=generator, dtype=torch.float64)
    return drawn.to(dtype=operator.dtype, device=operator.device)
