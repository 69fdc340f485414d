"""The block Krylov space of H and some right-hand sides, with H's projection on it.

Every step is one product with a block as wide as the right-hand sides (Golub and Underwood, The block
Lanczos method, 1977), orthogonalised against everything before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.inversion.orthonormal import orthonormal
from workers.engine.operators import Curvature


class BlockKrylov:
    """`basis` (s, p) orthonormal, `projected` (s, s) in float64, and what H leads out of it."""

    def __init__(self, curvature: Curvature, rhs: Tensor) -> None:
        self._curvature = curvature
        self.basis = rhs[:0]
        self.projected = torch.zeros(0, 0, dtype=torch.float64, device=rhs.device)
        self._following = rhs

    @property
    def room(self) -> int:
        """Directions that are left."""
        return self.basis.shape[1] - len(self.basis)

    def grow(self) -> None:
        """One product of H with the next block."""
        block = self._orthonormal(self._following)[: self.room]
        image = self._curvature.matmat(block)
        before, self.basis = len(self.basis), torch.cat([self.basis, block])
        part = image @ self.basis.T  # (k, s)
        wider = torch.zeros(len(self.basis), len(self.basis)).to(self.projected)
        wider[:before, :before] = self.projected
        wider[before:] = part
        wider[:, before:] = part.T
        self.projected = wider
        rest = image - part @ self.basis
        self._following = rest - (rest @ self.basis.T) @ self.basis
        self._overlap = (self._following @ self._following.T).double()  # (k, k)

    def leading_out(self, last: Tensor) -> Tensor:
        """Norms (k,) of the part outside the space of H times vectors, given the coordinates (k, w)
        of the vectors in the last block."""
        return ((last @ self._overlap) * last).sum(1).clamp(min=0.0).sqrt()

    @property
    def width(self) -> int:
        """Of the last block."""
        return len(self._overlap)

    def _orthonormal(self, block: Tensor) -> Tensor:
        for _ in range(2):  # twice is enough (Parlett, after Kahan)
            block = orthonormal(block - (block @ self.basis.T) @ self.basis)
        return block
