"""A Hessian from partial sums over blocks of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workers.engine import Hessian


@dataclass(frozen=True)
class SummedHessian:
    """A Hessian whose partial sums are there: to be built, never to be multiplied with."""

    hessian: Hessian
    partial: Iterator[Tensor]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hessian, name)

    def dense(self) -> Tensor:
        """(p, p), λ not included: the sums added up in the plan's order."""
        total = next(self.partial).clone()
        for each in self.partial:
            total += each
        return total / len(self.hessian.rows)
