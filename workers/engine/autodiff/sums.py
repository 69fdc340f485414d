"""Products of a block of vectors with a sum over rows, added up batch by batch.

What every batch adds to is a tensor of its own for each parameter: a matrix product then adds to it
in place, where a slice of (k, p) would have to be added to in a pass over memory of its own.
"""

from __future__ import annotations

from torch import Tensor

from workers.engine.model.parameters import ParameterSlice


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
