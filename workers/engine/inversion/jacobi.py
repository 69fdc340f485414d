"""Division by the diagonal of H + λI: a preconditioner where parameters have very different scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion.method import ApproximateMethod
from workers.engine.operators import Curvature, Damped, Inverse
from workers.engine.progress import Progress, silent

# Probes of Hutchinson's estimate; below this many parameters the diagonal is read off exactly.
PROBES = 64


@dataclass(frozen=True)
class Diagonal(Inverse):
    """Division by the (estimated) diagonal of |H| + λ."""

    diagonal: Tensor  # (p,)

    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        return rhs / self.diagonal

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {"diagonal": self.diagonal}

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "jacobi"}


@dataclass(frozen=True)
class Jacobi(ApproximateMethod, name="jacobi"):
    """The diagonal: exact for few parameters, else Hutchinson's estimate from random signs."""

    seed: int = 0

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Diagonal:
        """One product with a block of probes."""
        progress, operator = progress or silent, Damped(curvature, damping)
        size = operator.shape[0]
        progress("jacobi", 0, 1, "blocks")
        if size <= PROBES:
            diagonal = operator.matmat(
                torch.eye(size, dtype=operator.dtype, device=operator.device)
            ).diagonal()
        else:
            signs = gaussian(PROBES, operator, self.seed).sign()
            diagonal = (signs * operator.matmat(signs)).mean(0)
        progress("jacobi", 1, 1, "blocks")
        # A small or negative estimate would make directions explode: keep it within sight of the rest.
        magnitude = diagonal.abs()
        floor = max(damping, 1e-6 * float(magnitude.mean()))
        floor = floor or 1.0
        return Diagonal(magnitude.clamp(min=floor))


def gaussian(count: int, operator: Damped | Curvature, seed: int) -> Tensor:
    """Standard normal rows (count, p), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, operator.shape[0], generator=generator, dtype=torch.float64)
    return drawn.to(dtype=operator.dtype, device=operator.device)
