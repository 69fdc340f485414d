"""What every inversion method returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from workers.engine.errors import NotFinite, ShapeMismatch
from workers.engine.operators import Damped


class Status(StrEnum):
    """How the solution of one right-hand side ended."""

    CONVERGED = "converged"
    MAXITER = "maxiter"  # raise maxiter or λ, or loosen rtol
    NEGATIVE_CURVATURE = "negative_curvature"  # H + λI is indefinite: raise λ, or use direct
    STAGNATED = "stagnated"  # rounding allows no smaller residual: loosen rtol, or use float64
    TRUNCATED = "truncated"  # a low-rank answer: the residual is what lies outside the eigenvectors


@dataclass(frozen=True)
class Solution:
    """(H + λI) x = b, solved for each row b.

    `residual_norms` (k,) are ‖b − (H + λI) x‖, recomputed from the operator at the end. `info` is
    the method's own: tensors and plain values. Of its tensors those in `rowwise` have a row for each
    right-hand side, the others are about H. The whole unpacks as `x, info = solution`.
    """

    x: Tensor  # (k, p)
    residual_norms: Tensor  # (k,)
    status: tuple[Status, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    rowwise: frozenset[str] = frozenset({"residual_norms"})

    @property
    def converged(self) -> Tensor:
        """(k,) booleans."""
        return torch.tensor([each is Status.CONVERGED for each in self.status], dtype=torch.bool)

    @property
    def arrays(self) -> dict[str, Tensor]:
        """The tensors of the info, to be stored, and the residual norms."""
        tensors = {
            name: value
            for name, value in self.info.items()
            if isinstance(value, Tensor) and value.ndim > 0
        }
        return {"residual_norms": self.residual_norms} | tensors

    @property
    def summary(self) -> dict[str, Any]:
        """The info as plain values, with how many right-hand sides ended in which status."""
        found: dict[str, Any] = {}
        for name, value in self.info.items():
            if isinstance(value, Tensor) and value.ndim == 0:
                found[name] = value.item()
            elif isinstance(value, str | int | float | bool | dict):
                found[name] = value
        found["right_hand_sides"] = len(self.status)
        found["statuses"] = {status.value: self.status.count(status) for status in set(self.status)}
        found["worst_residual_norm"] = self.residual_norms.max().item() if len(self.status) else 0.0
        iterations = self.arrays.get("iterations")
        if iterations is not None and iterations.numel():
            found["iterations"] = int(iterations.max())
        return found

    def curvature_share(self, rhs: Tensor, damping: float) -> float:
        """What H, and not λ, makes of the right-hand sides b (k, p): the mean of ‖b − λx‖ / ‖b‖ of those beside 0."""
        norms = torch.linalg.vector_norm(rhs, dim=1)
        rest = torch.linalg.vector_norm(rhs - damping * self.x, dim=1)
        some = norms > 0
        return float((rest[some] / norms[some]).mean()) if bool(some.any()) else 0.0

    def __iter__(self) -> Any:
        return iter((self.x, self.info))


def checked_rhs(operator: Damped, rhs: Tensor) -> Tensor:
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


def approximate(apply: Callable[[Tensor], Tensor], operator: Damped, rhs: Tensor) -> Solution:
    """What an approximate inverse answers, with its true residuals: truncated, but where these are rounding."""
    rhs = checked_rhs(operator, rhs)
    x = apply(rhs)
    norms = torch.linalg.vector_norm(rhs - operator.matmat(x), dim=1)
    exact = norms <= torch.finfo(rhs.dtype).eps ** 0.5 * torch.linalg.vector_norm(rhs, dim=1)
    status = tuple(Status.CONVERGED if each else Status.TRUNCATED for each in exact.tolist())
    return Solution(x, norms, status)
