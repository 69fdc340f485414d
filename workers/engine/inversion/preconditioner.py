"""What conjugate gradients precondition themselves with, where nothing is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.engine.operators import Inverse


@dataclass(frozen=True)
class Identity(Inverse):
    """No preconditioning."""

    def apply(self, rhs: Tensor) -> Tensor:
        """Unchanged."""
        return rhs

    def tensors(self) -> dict[str, Tensor]:
        """Nothing to store."""
        return {}

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "none"}


IDENTITY = Identity()


@dataclass(frozen=True)
class Deflated(Inverse):
    """M⁻¹ + Zᵀ (Θ⁻¹ − I) Z, where Z M Zᵀ = I and Z (H + λI) Zᵀ = Θ > 0.

    Where Z are eigenvectors of M⁻¹ (H + λI), it has 1 for their eigenvalues Θ and leaves the others.
    """

    base: Inverse  # M⁻¹
    vectors: Tensor  # Z, (r, p)
    weights: Tensor  # (r,), 1/Θ − 1

    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        along = (rhs @ self.vectors.T) * self.weights
        return self.base.apply(rhs).addmm_(along, self.vectors)

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {**self.base.tensors(), "vectors": self.vectors, "weights": self.weights}

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {**self.base.info, "preconditioner_pairs": len(self.weights)}
