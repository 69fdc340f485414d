"""H + λI by its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.operators import Inverse


def cholesky(matrix: Tensor, damping: float) -> tuple[Tensor, Tensor | None]:
    """H + λI of H (p, p), and its lower Cholesky factor; None where it is not positive definite."""
    shifted = matrix.clone()
    shifted.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    return shifted, None if int(failed) else factor


def divided(rhs: Tensor, factor: Tensor) -> Tensor:
    """(H + λI)⁻¹ b for each row b of (k, p), by the Cholesky factor of H + λI."""
    return torch.cholesky_solve(rhs.T, factor).T


@dataclass(frozen=True)
class Cholesky(Inverse):
    """(H + λI)⁻¹ by a Cholesky factor alone."""

    factor: Tensor  # (p, p), lower

    is_exact = True

    def apply(self, rhs: Tensor) -> Tensor:
        """Two triangular solves for all (k, p) at once."""
        return divided(rhs, self.factor).contiguous()

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {"factor": self.factor}

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "cholesky"}
