"""A curvature with the Hessian of an L2 term of the training objective: C + D, with D diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.operators import Curvature, Metric, OfAnother


@dataclass(frozen=True)
class Penalised(OfAnother):
    """C + D. Sums over rows are those of C; D belongs to no row, and is added to what is made of them."""

    diagonal: Tensor = field()  # (p,) the factor of each parameter, 0 where the term has none

    @property
    def is_sum_of_rows(self) -> bool:  # type: ignore[override]
        return self.original.is_sum_of_rows

    def matmat(self, vectors: Tensor) -> Tensor:
        """(C + D) v for each row v of (k, p): (k, p)."""
        return torch.addcmul(self.original.matmat(vectors), vectors, self.diagonal)

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """With the mean over these rows alone."""
        return self.original.sampled_matmat(indices, vectors) + vectors * self.diagonal

    def partial_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """The sum over these rows by the number of all, and D once, as λ is added once."""
        return self.original.partial_matmat(indices, vectors) + vectors * self.diagonal

    def dense(self) -> Tensor:
        """(p, p)."""
        return self._with_diagonal(self.original.dense())

    def in_double(self) -> Curvature | None:
        """The same in float64."""
        double = self.original.in_double()
        return None if double is None else Penalised(double, self.diagonal.double())

    def matrix_if_cheaper(self, vectors: int, width: int) -> Tensor | None:
        """C + D, if building it saves time."""
        found = self.original.matrix_if_cheaper(vectors, width)
        return None if found is None else self._with_diagonal(found.clone())

    def preconditioner_if_cheaper(self, damping: float, products: float) -> Metric | None:
        """That of C + λI, which decides how soon a solution is found and not which."""
        return self.original.preconditioner_if_cheaper(damping, products)

    def partial_sums(self) -> dict[str, Tensor]:
        """Of C."""
        return self.original.partial_sums()

    def of_sums(self, total: Mapping[str, Tensor]) -> Curvature:
        """C of its sums, and D."""
        return Penalised(self.original.of_sums(total), self.diagonal)

    def _with_diagonal(self, matrix: Tensor) -> Tensor:
        matrix.diagonal().add_(self.diagonal)
        return matrix
