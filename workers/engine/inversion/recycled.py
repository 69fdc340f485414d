"""What solving finds out about H on the way: for other right-hand sides, and another λ.

A matrix that was built is kept, with the Cholesky factor of the last λ. Where no matrix is built the
search directions of conjugate gradients, and H times them, are met anyway: their largest Ritz pairs
precondition the next solution (Morgan, GMRES with deflated restarting, 2002; the same idea). None of
it changes what a solution promises: residuals are recomputed from the operator every time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from workers.engine.inversion.explicit import AnyOperator, Explicit, explicit_where_cheaper
from workers.engine.inversion.preconditioner import LowRankPlusIdentity
from workers.engine.inversion.solution import SampledOperator

# That Ritz pairs are taken from, and what they may take.
MOST_DIRECTIONS = 256
MOST_BYTES = 1 << 28
MOST_PAIRS = 128
# A pair below this part of the largest is rounding.
SMALLEST_PAIR = 1e-6


@dataclass
class Directions:
    """Blocks (s, p) of orthonormal directions with their products, λ not included, as they come."""

    blocks: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)

    def add(self, block: Tensor, image: Tensor, damping: float) -> None:
        """Take them in while there is room."""
        room = min(MOST_DIRECTIONS, MOST_BYTES // (2 * block[0].nbytes))
        if sum(map(len, self.blocks)) + len(block) <= room:
            self.blocks.append(block)
            self.images.append(image - damping * block)


@dataclass
class Recycled:
    """Of one H; empty at first."""

    matrix: Tensor | None = None  # (p, p), λ not included
    factor: Tensor | None = None  # (p, p), lower, of H + `factor_damping` I
    factor_damping: float = 0.0
    values: Tensor | None = None  # (r,) Ritz values of H
    vectors: Tensor | None = None  # (p, r)
    vectors_asked: float = 0.0  # products that solutions have taken so far

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        kept = (self.matrix, self.factor, self.values, self.vectors)
        return sum(each.nbytes for each in kept if each is not None)

    def operator(self, hessian: AnyOperator, vectors: float, width: int) -> AnyOperator:
        """The operator, with its matrix at hand if it is kept, or pays for all products so far."""
        if isinstance(hessian, Explicit):
            return hessian
        if self.matrix is not None:
            return cast(AnyOperator, Explicit(cast(SampledOperator, hessian), self.matrix))
        self.vectors_asked += vectors
        found = explicit_where_cheaper(hessian, self.vectors_asked, width)
        if isinstance(found, Explicit):
            self.matrix = found.matrix
        return found

    def cholesky(self, operator: Explicit) -> Tensor | None:
        """The lower factor of H + λI; None where it is not positive definite."""
        if self.factor is None or self.factor_damping != operator.damping:
            shifted = operator.matrix.clone()
            shifted.diagonal().add_(operator.damping)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if int(failed):
                return None
            self.factor, self.factor_damping = factor, operator.damping
        return self.factor

    def low_rank(self, damping: float) -> LowRankPlusIdentity | None:
        """A preconditioner from the Ritz pairs; None without any that λ leaves positive."""
        if self.values is None or self.vectors is None or not damping > 0.0:
            return None
        return LowRankPlusIdentity.of(self.values, self.vectors, damping)

    def learn(self, directions: Directions) -> None:
        """Ritz pairs of the space that these directions span, if there are none yet."""
        if not directions.blocks or self.vectors is not None:
            return
        basis, images = torch.cat(directions.blocks), torch.cat(directions.images)
        spread, turn = torch.linalg.eigh((basis @ basis.T).double())
        sound = spread > 1e-5 * spread[-1]
        weights = turn[:, sound] / spread[sound].sqrt()  # orthonormal: weightsᵀ basis
        projected = weights.T @ (basis @ images.T).double() @ weights
        values, inner = torch.linalg.eigh((projected + projected.T) / 2)
        top = values.argsort(descending=True)[:MOST_PAIRS]
        top = top[values[top] > SMALLEST_PAIR * float(values.abs().max())]
        if len(top):
            self.values = values[top].to(basis)
            self.vectors = basis.T @ (weights @ inner[:, top]).to(basis)
