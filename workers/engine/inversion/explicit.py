"""H written out where that costs less than the products it saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from workers.engine.inversion.solution import Operator, SampledOperator

AnyOperator = TypeVar("AnyOperator", bound=Operator)


@dataclass(frozen=True)
class Explicit:
    """The operator with its matrix at hand: a product takes 2 p² operations and no pass over rows."""

    hessian: SampledOperator
    matrix: Tensor  # (p, p), λ not included

    @property
    def damping(self) -> float:
        """λ."""
        return self.hessian.damping

    @property
    def passes(self) -> int:
        """Over the training rows: building was one."""
        return self.hessian.passes

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.hessian.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors it multiplies."""
        return self.hessian.dtype

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.hessian.device

    @property
    def row_count(self) -> int:
        """n, the number of training rows."""
        return self.hessian.row_count

    def matmat(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p), λ included."""
        return torch.addmm(vectors, vectors, self.matrix, beta=self.damping)

    def undamped(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p), λ not included."""
        return vectors @ self.matrix

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """With the mean over these rows alone: the matrix is of no use for that."""
        return self.hessian.sampled_matmat(indices, vectors)

    def dense(self) -> Tensor:
        """(p, p), λ not included."""
        return self.matrix.clone()


@runtime_checkable
class Buildable(Protocol):
    """An operator that knows what its matrix would cost."""

    def matrix_if_cheaper(self, vectors: int, width: int) -> Tensor | None:
        """H (p, p), λ not included, if building it saves time on that many products to come,
        `width` vectors at a time; built once."""
        ...


def explicit_where_cheaper(operator: AnyOperator, vectors: float, width: int) -> AnyOperator:
    """The operator, with its matrix at hand if that pays for so many vectors."""
    if isinstance(operator, Buildable):
        matrix = operator.matrix_if_cheaper(int(vectors), width)
        if matrix is not None:
            return cast(AnyOperator, Explicit(cast(SampledOperator, operator), matrix))
    return operator
