"""Numbered rows cut into blocks of one size, the last one shorter where it must be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """`total` rows in blocks of `step`."""

    total: int
    step: int

    @classmethod
    def evenly(cls, total: int, most: int) -> Cut:
        """As few blocks of at most so many rows as can be, as even as can be."""
        count = -(-max(1, total) // max(1, most))
        return cls(total, -(-max(1, total) // count))

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.total // self.step)

    def block(self, number: int) -> slice:
        """The rows of a block."""
        return slice(number * self.step, min((number + 1) * self.step, self.total))

    def blocks(self) -> Iterator[slice]:
        """All blocks in order."""
        return map(self.block, range(self.count))

    def holding(self, rows: slice) -> range:
        """The numbers of the blocks that some of these consecutive rows lie in."""
        if rows.stop <= rows.start:
            return range(0)
        return range(rows.start // self.step, (rows.stop - 1) // self.step + 1)
