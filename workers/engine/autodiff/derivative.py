"""Ways to multiply second derivatives of a batch's summed loss with vectors.

All are exact; which one is fastest depends on the model and the device: `choice` has the rule.
A way is prepared once for a batch and then applied to any number of blocks of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class Sums:
    """What comes to `total` (k, p), which has all of it once `settle` was called."""

    def __init__(self, total: Tensor) -> None:
        self._total = total
        self._parts: dict[tuple[int, int], Tensor] = {}

    def of(self, place: ParameterSlice) -> Tensor:
        """What one parameter's entries have come to, (k, *shape), contiguous: to be added to."""
        key = place.offset, place.size
        if key not in self._parts:
            self._parts[key] = self._total.new_zeros(len(self._total), place.size)
        return self._parts[key].view(-1, *place.shape)

    def add(self, products: Tensor) -> None:
        """Of all parameters together, (k, p)."""
        self._total += products

    def settle(self) -> None:
        """Adds the parameters' own sums to the total, and begins them anew."""
        for (offset, size), part in self._parts.items():
            self._total[:, offset : offset + size] += part
        self._parts.clear()


class BlockSums:
    """The sums of blocks of vectors, each of which come to some rows of `total`."""

    def __init__(self, total: Tensor) -> None:
        self._total = total
        self._sums: dict[tuple[int, int], Sums] = {}

    def of(self, first: int, count: int) -> Sums:
        """Of `count` vectors from this one on."""
        key = first, count
        if key not in self._sums:
            self._sums[key] = Sums(self._total[first : first + count])
        return self._sums[key]

    def settle(self) -> None:
        """See `Sums`."""
        for each in self._sums.values():
            each.settle()


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
