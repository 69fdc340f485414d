"""A tensor kept as several safetensors objects, each with some of its rows: no size is too large for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.storage.cuts import Cut
from service.storage.objects import Objects
from service.storage.tensors import TensorEntry, read_entry, read_header

Array = np.ndarray[Any, Any]


def layers(name: str, count: int | None) -> list[str]:
    """What a tensor is called that has a first axis λ of so many: a tensor a λ; one name where there is none."""
    return [name] if count is None else [f"{name}.{number}" for number in range(count)]


def block_path(folder: str, number: int) -> str:
    """Where a block of rows lies."""
    return f"{folder}/{number}.safetensors"


@dataclass(frozen=True)
class RowBlocks:
    """Rows of the tensor `name`, block by block below `folder`."""

    objects: Objects
    folder: str
    cut: Cut
    name: str
    _entries: dict[int, TensorEntry] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the tensor. Raises FileNotFoundError, KeyError, BadTensors, as all reading does."""
        return self._entry(0).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return (self.cut.total, *self._entry(0).shape[1:])

    def read(self, rows: Sequence[int], block_bytes: int) -> Iterator[Array]:
        """The chosen rows in their order, consecutive ones together, up to so many bytes at a time."""
        position = 0
        while position < len(rows):
            start = rows[position]
            block = self.cut.holding(slice(start, start + 1))[0]
            entry, bounds = self._entry(block), self.cut.block(block)
            row_bytes = max(1, (entry.stop - entry.start) // max(1, bounds.stop - bounds.start))
            most = min(bounds.stop - start, max(1, block_bytes // row_bytes))
            count = _run(rows, position, most)
            first = start - bounds.start
            yield read_entry(self.objects, self._path(block), entry, first, first + count)
            position += count

    def _path(self, block: int) -> str:
        return block_path(self.folder, block)

    def _entry(self, block: int) -> TensorEntry:
        if block not in self._entries:
            self._entries.clear()  # blocks are read in order: one header at a time is enough
            self._entries[block] = read_header(self.objects, self._path(block))[self.name]
        return self._entries[block]


def _run(rows: Sequence[int], position: int, most: int) -> int:
    """How many rows from `position` on follow each other, at most so many."""
    if isinstance(rows, range) and rows.step == 1:
        return min(most, len(rows) - position)
    count = 1
    while (
        count < most
        and position + count < len(rows)
        and rows[position + count] == rows[position] + count
    ):
        count += 1
    return count
