"""Ways to multiply second derivatives of a batch's summed loss with vectors.

All are exact; which one is fastest depends on the model and the device: `choice` has the rule.
A way is prepared once for a batch and then applied to any number of blocks of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from workers.engine.autodiff.sums import Sums
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch

Apply = Callable[[Tensor], Tensor]  # (k, p) -> (k, p)


@runtime_checkable
class Adding(Protocol):
    """An `Apply` that spares a pass over memory where many batches are added up."""

    def add(self, vectors: Tensor, sums: Sums) -> None:
        """What it would answer, to the sums. Out of memory in the middle leaves a part of it there."""
        ...


class Product(Protocol):
    """Σ over the batch of ∇²θ L, ready to be applied."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """What depends on the batch alone, done once; `batch` must be `placed`."""
        ...
