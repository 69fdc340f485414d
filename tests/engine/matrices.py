"""A Hessian that is a given matrix: solvers know nothing of models, so this is all they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.engine import Curvature, Damped


class Symmetric(Curvature):
    """The mean of symmetric matrices, one a row of data; remembers every block it saw."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows if rows.ndim == 3 else rows[None]
        self.mean = self.rows.mean(0)
        self.passes = 0
        self.widths: list[int] = []

    @property
    def shape(self) -> tuple[int, int]:
        return (self.mean.shape[0], self.mean.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def matmat(self, vectors: Tensor) -> Tensor:
        self.passes += 1
        self.widths.append(len(vectors))
        return vectors @ self.mean

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        return vectors @ self.rows[indices].mean(0)

    def dense(self) -> Tensor:
        return self.mean.clone()


class Both(Damped):
    """H + λI, which unpacks into the two that a method takes."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.curvature, self.damping))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.curvature, name)


def with_damping(curvature: Curvature, damping: float) -> Both:
    return Both(curvature, damping)


class Matrix(Both):
    """A matrix, or the mean of some, plus λ."""

    def __init__(
        self, rows: Tensor, damping: float = 0.0, kind: Callable[[Tensor], Curvature] = Symmetric
    ) -> None:
        super().__init__(kind(rows), damping)

    def inverse(self, rhs: Tensor, extra: float = 0.0) -> Tensor:
        damped = self.mean.double() + (self.damping + extra) * torch.eye(len(self.mean)).double()
        return torch.linalg.solve(damped, rhs.double().T).T


def with_eigenvalues(values: Sequence[float], seed: int = 0) -> Tensor:
    """A dense symmetric matrix (p, p) in float64 with exactly this spectrum."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(drawn).Q
    matrix = (turn * torch.tensor(values, dtype=torch.float64)) @ turn.T
    return (matrix + matrix.T) / 2


def decaying(size: int, smallest: float = 1e-4) -> Tensor:
    """Condition number 1/smallest, eigenvalues evenly spread over its decades."""
    return with_eigenvalues(torch.logspace(0, torch.tensor(smallest).log10(), size).tolist())
