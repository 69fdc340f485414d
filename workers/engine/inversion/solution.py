"""What every inversion method returns, and the interfaces they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.engine.errors import NotFinite, ShapeMismatch
from workers.engine.progress import Progress


class Status(StrEnum):
    """How the solution of one right-hand side ended."""

    CONVERGED = "converged"
    MAXITER = "maxiter"  # raise maxiter or λ, or loosen rtol
    NEGATIVE_CURVATURE = "negative_curvature"  # H + λI is indefinite: raise λ, or use direct
    STAGNATED = "stagnated"  # rounding allows no smaller residual: loosen rtol, or use float64
    TRUNCATED = "truncated"  # a low-rank answer: the residual is what lies outside the eigenvectors


class Operator(Protocol):
    """A symmetric H + λI; `Hessian` is one, and so is any matrix in a test."""

    @property
    def damping(self) -> float: ...
    @property
    def passes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def matmat(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p), λ included."""
        ...

    def undamped(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p), λ not included: what (H + λI) v − λ v is but for rounding of λ v."""
        ...

    def dense(self) -> Tensor:
        """(p, p), λ not included."""
        ...


class SampledOperator(Operator, Protocol):
    """An operator that is a mean over rows, any sample of which can stand in for it."""

    @property
    def row_count(self) -> int: ...
    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p) with the mean over these rows alone, λ included."""
        ...


@dataclass(frozen=True)
class Solution:
    """(H + λI) x = b, solved for each row b.

    `residual_norms` (k,) are ‖b − (H + λI) x‖, recomputed from the operator at the end. `info` is
    the method's own: tensors and plain values. The whole unpacks as `x, info = solution`.
    """

    x: Tensor  # (k, p)
    residual_norms: Tensor  # (k,)
    status: tuple[Status, ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def converged(self) -> Tensor:
        """(k,) booleans."""
        return torch.tensor([each is Status.CONVERGED for each in self.status], dtype=torch.bool)

    def __iter__(self) -> Any:
        return iter((self.x, self.info))


class Inverse(Protocol):
    """What a method has found out about H + λI, ready for any right-hand side, and storable."""

    def solve(self, rhs: Tensor, progress: Progress | None = None) -> Solution: ...
    def tensors(self) -> dict[str, Tensor]:
        """All of it, for storing; the class's `from_tensors` makes it again."""
        ...


def checked_rhs(operator: Operator, rhs: Tensor) -> Tensor:
    """The right-hand sides (k, p) in the operator's dtype. Raises ShapeMismatch, NotFinite."""
    return checked_rows(rhs, operator.shape[0], operator.dtype, operator.device)


def checked_rows(rhs: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `checked_rhs`, for what stands in for an operator."""
    if rhs.ndim != 2 or rhs.shape[1] != size:
        raise ShapeMismatch("right-hand sides", (-1, size), rhs.shape, "a row each")
    rhs = rhs.to(dtype=dtype, device=device)
    finite = torch.isfinite(rhs).all(1)
    if not bool(finite.all()):
        raise NotFinite("the right-hand sides", row=int((~finite).nonzero()[0, 0]))
    return rhs
