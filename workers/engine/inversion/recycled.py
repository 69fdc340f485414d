"""What solving finds out about H on the way: for other right-hand sides, and another λ.

A matrix that was built is kept, with the Cholesky factor of the last λ. Where no matrix is built the
search directions of conjugate gradients, and H times them, are met anyway: their largest Ritz pairs
precondition the next solution (Morgan, GMRES with deflated restarting, 2002; the same idea), beside
the preconditioner that the operator has of its own, if it has; then from two solutions. None of it
changes what a solution promises: residuals are recomputed from the operator every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion.cholesky import cholesky
from workers.engine.inversion.deflated import Deflation
from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.preconditioner import Deflated
from workers.engine.inversion.stationary import Eigenbasis
from workers.engine.operators import Damped, Explicit, Inverse, Metric, explicit_where_cheaper

# That Ritz pairs are taken from, and what they may take.
MOST_DIRECTIONS = 256
MOST_BYTES = 1 << 27
MOST_PAIRS = 128
# Solutions that a deflation learns from: a third one leaves nothing more to gain, and each costs some products' time.
MOST_SOLUTIONS = 2
# A pair below this part of the largest is rounding.
SMALLEST_PAIR = 1e-6
# Directions that are others' combinations up to this part add nothing sound.
LEAST_OVERLAP = 1e-5


class Directions:
    """Blocks (s, p) of directions, as they come, with H's projection on them; H times them is not kept."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.overlaps = torch.zeros(0, 0, dtype=torch.float64)  # of all directions
        self.projected = torch.zeros(0, 0, dtype=torch.float64)  # H on them

    def add(self, block: Tensor, image: Tensor, damping: float) -> None:
        """Take in a block and (H + λI) times it, while there is room."""
        count = len(self.overlaps)
        if count + len(block) > min(MOST_DIRECTIONS, MOST_BYTES // block[0].nbytes):
            return
        self.blocks.append(block)
        inner = torch.cat([block @ each.T for each in self.blocks], 1).double().cpu()
        seen = torch.cat([image @ each.T for each in self.blocks], 1).double().cpu()
        self.overlaps = _bordered(self.overlaps, inner)
        self.projected = _bordered(self.projected, seen - damping * inner)

    @classmethod
    def beside(cls, deflated: Deflated, damping: float) -> Directions:
        """Begun with the vectors of a deflation, on which H + λI is known."""
        found = cls()
        found.blocks = [deflated.vectors]
        found.overlaps = (deflated.vectors @ deflated.vectors.T).double().cpu()
        damped = 1.0 / (deflated.weights.double().cpu() + 1.0)
        found.projected = damped.diag() - damping * found.overlaps
        return found

    def combined(self, weights: Tensor) -> Tensor:
        """Sums of directions, (p, r), with weights (s, r)."""
        parts = torch.split(weights.to(self.blocks[0]), [len(each) for each in self.blocks])
        total = self.blocks[0].T @ parts[0]
        for block, part in zip(self.blocks[1:], parts[1:], strict=True):
            total.addmm_(block.T, part)
        return total


def _bordered(matrix: Tensor, rows: Tensor) -> Tensor:
    """The symmetric matrix with these as its last rows and columns."""
    wider = torch.zeros(rows.shape[1], rows.shape[1], dtype=matrix.dtype)
    wider[: len(matrix), : len(matrix)] = matrix
    wider[:, len(matrix) :] = rows.T
    wider[len(matrix) :] = rows
    return wider


@dataclass
class Recycled:
    """Of one H; empty at first."""

    matrix: Tensor | None = None  # (p, p), λ not included
    factor: Tensor | None = None  # (p, p), lower, of H + `factor_damping` I
    factor_damping: float = 0.0
    spectrum: Eigenbasis | None = None  # of `matrix`, where LiSSA needed it
    deflation: Deflation | None = None  # of `matrix`, likewise
    values: Tensor | None = None  # (r,) Ritz values of H
    vectors: Tensor | None = None  # (p, r)
    own: Metric | None = None  # what the operator knows, for `own_damping`
    own_damping: float | None = None
    deflated: Deflated | None = None  # `own`, and pairs met with it
    solutions: int = 0  # solutions that `deflated` has learned from
    largest: tuple[float, float] | None = None  # eigenvalue of H, of batches; for LiSSA's scale
    vectors_asked: float = 0.0  # products that solutions have taken so far

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        kept = [self.matrix, self.factor, self.values, self.vectors]
        own = self.deflated or self.own
        kept += [] if own is None else own.tensors().values()
        kept += [] if self.spectrum is None else [self.spectrum.values, self.spectrum.vectors]
        return sum(each.nbytes for each in (*kept, self.deflation) if each is not None)

    def operator(self, hessian: Damped, vectors: float, width: int) -> Damped:
        """The operator, with H's matrix at hand if it is kept, or pays for all products so far."""
        if hessian.curvature.matrix is not None:
            return hessian
        if self.matrix is not None:
            return Damped(Explicit(hessian.curvature, self.matrix), hessian.damping)
        self.vectors_asked += vectors
        found = explicit_where_cheaper(hessian.curvature, self.vectors_asked, width)
        self.matrix = found.matrix
        return Damped(found, hessian.damping)

    def cholesky(self, operator: Damped) -> Tensor | None:
        """The lower factor of H + λI, whose matrix is at hand; None where it is not positive definite."""
        if self.factor is None or self.factor_damping != operator.damping:
            assert operator.curvature.matrix is not None
            _, factor = cholesky(operator.curvature.matrix, operator.damping)
            if factor is None:
                return None
            self.factor, self.factor_damping = factor, operator.damping
        return self.factor

    def low_rank(self, damping: float) -> LowRank | None:
        """A preconditioner from the Ritz pairs; None without any that λ leaves positive."""
        if self.values is None or self.vectors is None or not damping > 0.0:
            return None
        return LowRank(self.values, self.vectors, None, damping, True, None, flat=True)

    def preconditioner(self, operator: Damped, products: float) -> Inverse | None:
        """The best that is known, or the operator's own where that pays for so many products."""
        kept = self.low_rank(operator.damping)
        if kept is not None:
            return kept
        damping = operator.damping
        if self.own_damping != damping:
            self.own = operator.curvature.preconditioner_if_cheaper(damping, products)
            self.deflated, self.solutions, self.own_damping = None, 0, damping
        return self.deflated or self.own

    def directions(self, preconditioner: Inverse) -> Directions | None:
        """Where those of a solution with it are wanted, for `learn`; None where enough is known."""
        if not self._learns:
            return None
        if self.deflated is None or self.own_damping is None:
            return Directions()
        if preconditioner is not self.deflated:  # what is met without it is worth less
            return None
        return Directions.beside(self.deflated, self.own_damping)

    @property
    def _learns(self) -> bool:
        return self.vectors is None and self.solutions < MOST_SOLUTIONS

    def row_traces(self, preconditioner: Inverse) -> Tensor | None:
        """(n,) what each training row adds to the trace of H, about; None where that is not known."""
        if self.own is None or not (preconditioner is self.own or preconditioner is self.deflated):
            return None
        return self.own.row_traces

    def learn(self, directions: Directions, preconditioner: Inverse) -> None:
        """Ritz pairs of the space that these directions span."""
        if not directions.blocks or not self._learns:
            return
        # By identity: equality would be that of their tensors.
        if self.own is not None and (preconditioner is self.own or preconditioner is self.deflated):
            self._deflate(directions, self.own)
            self.solutions += 1
            return
        weights = _orthonormal(directions.overlaps)
        values, inner = torch.linalg.eigh(weights.T @ directions.projected @ weights)
        top = values.argsort(descending=True)[:MOST_PAIRS]
        top = top[values[top] > SMALLEST_PAIR * float(values.abs().max())]
        if len(top):
            self.vectors = directions.combined(weights @ inner[:, top])
            self.values = values[top].to(self.vectors)

    def _deflate(self, directions: Directions, own: Metric) -> None:
        assert self.own_damping is not None
        weights = _orthonormal(own.products(directions.blocks).cpu())
        damped = directions.projected + self.own_damping * directions.overlaps
        values, inner = torch.linalg.eigh(weights.T @ damped @ weights)
        sound = (values > SMALLEST_PAIR * float(values.abs().max())).nonzero()[:, 0]
        far = values[sound].log().abs().argsort(descending=True)[:MOST_PAIRS]
        vectors = directions.combined(weights @ inner[:, sound[far]]).T.contiguous()
        self.deflated = Deflated(own, vectors, (1.0 / values[sound[far]] - 1.0).to(vectors))


def _orthonormal(overlaps: Tensor) -> Tensor:
    """Weights (s, r) that make orthonormal vectors of s that overlap so."""
    spread, turn = torch.linalg.eigh(overlaps)
    sound = spread > LEAST_OVERLAP * spread[-1]
    return turn[:, sound] / spread[sound].sqrt()
