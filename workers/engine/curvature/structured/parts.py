"""Blocks and diagonal of a curvature that is no sum of squares: cut out of its matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.curvature.structured.blocks import Block, Spectral, told_of_diagonal
from workers.engine.curvature.structured.layout import Layout, Structure
from workers.engine.model.problem import Problem
from workers.engine.operators import ClosedForm, Curvature, OfAnother


@dataclass(frozen=True)
class Parts(OfAnother):
    """What `structure` keeps of another curvature, which is built for it."""

    problem: Problem
    structure: Structure
    told: Mapping[str, str]
    _made: list[Spectral] = field(default_factory=list)  # one at most

    def matmat(self, vectors: Tensor) -> Tensor:
        """C v for each row v of (k, p)."""
        return self.closed_form().matmat(vectors)

    def dense(self) -> Tensor:
        """C, (p, p)."""
        return self.closed_form().dense()

    def in_double(self) -> Parts | None:
        """The same in float64."""
        whole = self.original.in_double()
        if whole is None:
            return None
        return Parts(whole, self.problem.in_double(), self.structure, self.told)

    def partial_sums(self) -> dict[str, Tensor]:
        """Those of the whole."""
        return self.original.partial_sums()

    def of_sums(self, total: Mapping[str, Tensor]) -> Parts:
        """Cut out of these."""
        return Parts(self.original.of_sums(total), self.problem, self.structure, self.told)

    def known_by(self, closed: ClosedForm) -> Curvature:
        """With a closed form that was made before."""
        assert isinstance(closed, Spectral)
        self._made[:] = [closed]
        return self

    def closed_form(self) -> Spectral:
        """C by its eigenvectors: made once."""
        if not self._made:
            matrix = self.original.dense()
            if self.problem.penalty is not None:  # the Hessian of the L2 term
                matrix.diagonal().add_(self.problem.penalty)
            blocks = []
            for layout in Layout.by_module(self.problem, self.structure).blocks:
                numbers = torch.cat(
                    [
                        torch.arange(offset, offset + size, device=matrix.device)
                        for offset, size in zip(layout.offsets, layout.sizes, strict=True)
                    ]
                )
                if layout.form == "diagonal":
                    blocks.append(Block(layout, matrix.diagonal()[numbers].double()))
                else:
                    here = matrix[numbers][:, numbers].double()
                    values, vectors = torch.linalg.eigh((here + here.mT) / 2)
                    blocks.append(Block(layout, values, vectors.to(self.dtype).contiguous()))
            told = {**self.told, **told_of_diagonal(blocks, self.problem.penalty)}
            self._made.append(Spectral.of(self, blocks, self.structure, told))
        return self._made[0]
