"""What computes a derivative of a batch's losses, as its users see it; and sums of its products over batches.

A derivative is prepared once for a batch, and then applied to any number of blocks of vectors. All
are exact; which one is fastest depends on the model and the device, and is for `select` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch

LinearMap = Callable[[Tensor], Tensor]  # k vectors (k, p) to k results (k, ...)


class Derivative(Protocol):
    """A second derivative of a batch's summed loss: ∇²θ L, or a mixed one, in any of several ways."""

    @property
    def name(self) -> str:
        """What a job's info calls it."""
        ...

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Does what depends on the batch alone; `batch` must be `placed`. The result multiplies vectors."""
        ...


class Sums:
    """Products of k vectors, added up batch by batch: `total` (k, p) has all of them once `settle` was called.

    Each parameter has a tensor of its own: a matrix product then adds to it in place, where a slice
    of (k, p) would have to be added to in a pass over memory of its own.
    """

    def __init__(self, total: Tensor) -> None:
        self._total = total
        self._own: dict[tuple[int, int], Tensor] = {}

    def of(self, place: ParameterSlice) -> Tensor:
        """The sums of one parameter's entries, (k, *shape), contiguous: to be added to."""
        key = place.offset, place.size
        if key not in self._own:
            self._own[key] = self._total.new_zeros(len(self._total), place.size)
        return self._own[key].view(-1, *place.shape)

    def add(self, products: Tensor) -> None:
        """Add products of all parameters together, (k, p)."""
        self._total += products

    def settle(self) -> None:
        """Add the parameters' own sums to the total, and begin them anew."""
        for (offset, size), own in self._own.items():
            self._total[:, offset : offset + size] += own
        self._own.clear()


class BlockSums:
    """Sums of several blocks of vectors: each block's are some rows of `total` (k, p)."""

    def __init__(self, total: Tensor) -> None:
        self._total = total
        self._sums: dict[tuple[int, int], Sums] = {}

    def of(self, first: int, count: int) -> Sums:
        """The sums of the block of `count` vectors that begins with this one."""
        key = first, count
        if key not in self._sums:
            self._sums[key] = Sums(self._total[first : first + count])
        return self._sums[key]

    def settle(self) -> None:
        """Add all parameters' own sums to the total, and begin them anew."""
        for each in self._sums.values():
            each.settle()


@runtime_checkable
class AccumulatingMap(Protocol):
    """A `LinearMap` that can add to sums itself, which spares a pass over memory a batch."""

    def add(self, vectors: Tensor, sums: Sums) -> None:
        """Add the products of the vectors to the sums. Out of memory in the middle leaves a part of them there."""
        ...
