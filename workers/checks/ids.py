"""The check of a dataset's ids: each row has one, and each another. A hash a row is held, not the ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from service.datasets.ids import ids_in, plain
from service.datasets.sources import Source
from upweight.errors import Rejected
from workers.datasets.arrays import Array
from workers.datasets.shards import ColumnShape, Shard

BLOCK_ROWS = 1 << 16
_LONGEST = 256  # bytes of one id
_LARGEST = 2**53  # that JSON has as a whole number everywhere
_FACTOR = np.uint64(0x100000001B3)


class Ids:
    """The ids of all shards, as they come by."""

    def __init__(self, name: str, opened: Callable[[Source], Shard]) -> None:
        self._name, self._opened = name, opened
        self._kind: str | None = None
        self._hashes: list[Array] = []
        self._sources: list[tuple[int, Source]] = []  # each with its first row
        self._rows = 0

    def read(self, shard: Shard, source: Source, rows: int, checkpoint: Callable[[], None]) -> None:
        """Those of one shard. Raises Rejected, naming the first row that is wrong."""
        kind = self._kind_in(shard, source, rows)
        if self._kind not in (None, kind):
            raise self._rejected(
                f"column {self._name!r} has ids that are {kind}s from row {self._rows} on, and {self._kind}s before"
            )
        self._kind = kind
        self._sources.append((self._rows, source))
        for start in range(0, rows, BLOCK_ROWS):
            checkpoint()
            block = plain(shard.read(self._name, start, min(start + BLOCK_ROWS, rows)))
            self._refuse_bad(block, self._rows + start)
            self._hashes.append(_hashed(block))
        self._rows += rows

    def concluded(self) -> str | None:
        """`number` or `text`. Raises Rejected for two rows with one id."""
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        for first, row in self._pairs(order, hashes, np.sort(order[alike + 1])):
            here, there = self._id(row), self._id(first)
            if here == there:
                raise self._rejected(
                    f"rows {first} and {row} have the same id {here!r}; ids name one row each"
                )
        return self._kind

    def _pairs(self, order: Array, hashes: Array, later: Array) -> Iterator[tuple[int, int]]:
        """Rows, ascending, whose hash an earlier row has, each with all of those before it."""
        ordered = hashes[order]
        for row in later.tolist():
            start = int(np.searchsorted(ordered, hashes[row], side="left"))
            while start < len(order) and order[start] < row and ordered[start] == hashes[row]:
                yield int(order[start]), row
                start += 1

    def _id(self, row: int) -> int | str:
        begin, source = next(each for each in reversed(self._sources) if each[0] <= row)
        shard = self._opened(source)
        return ids_in(shard.read(self._name, row - begin, row - begin + 1))[0]

    def _kind_in(self, shard: Shard, source: Source, rows: int) -> str:
        found = shape_beside(shard, source, self._name, rows, self._rejected)
        if len(found.shape) == 1 and found.dtype.kind in "iu":
            return "number"
        if len(found.shape) == 1 and text_bytes(found.dtype) in range(1, _LONGEST + 1):
            return "text"
        if len(found.shape) == 2 and found.dtype == np.uint8 and 0 < found.shape[1] <= _LONGEST:
            return "text"
        raise self._rejected(
            f"column {self._name!r} is {found.dtype} {list(found.shape[1:])} a row; ids are whole numbers, or UTF-8 "
            f"text as uint8 of at most {_LONGEST} bytes a row"
        )

    def _refuse_bad(self, block: Array, before: int) -> None:
        """Raises Rejected for texts that are empty or no UTF-8, and numbers that are too large."""
        if block.ndim == 1:
            large = np.flatnonzero(too_large(block))
            if len(large):
                raise self._rejected(
                    f"row {before + int(large[0])} has the id {int(block[large[0]])}; numbers as ids go up to 2**53"
                )
            return
        there = block != 0
        holes = ~there.any(1) | has_hole(block)
        if holes.any():
            raise self._rejected(
                f"row {before + int(np.argmax(holes))} has an id that is empty, or has a byte 0 inside"
            )
        try:
            ids_in(block)
        except UnicodeDecodeError:
            bad = next(at for at in range(len(block)) if not _is_text(block[at : at + 1]))
            raise self._rejected(f"row {before + bad} has an id that is no UTF-8") from None

    def _rejected(self, detail: str) -> Exception:
        return Rejected.field("/ids", detail, self._name)


def shape_beside(
    shard: Shard, source: Source, name: str, rows: int, rejected: Callable[[str], Exception]
) -> ColumnShape:
    """Of a column beside those of a model. Raises what `rejected` makes where it is not there, or has other rows."""
    where = source.pointer if source.file is None else repr(source.label)
    if name not in shard.names:
        raise rejected(f"there is no column {name!r} in {where}")
    found = shard.shape(name)
    if not found.shape or found.shape[0] != rows:
        raise rejected(f"column {name!r} does not have the {rows} rows of the others in {where}")
    return found


def too_large(block: Array) -> Array:
    """(rows,) whether a whole number is beyond what JSON has everywhere."""
    below = block < -_LARGEST if block.dtype.kind == "i" else np.zeros(len(block), bool)
    return (block > _LARGEST) | below


def has_hole(block: Array) -> Array:
    """(rows,) whether a text (rows, bytes) has a byte 0 inside."""
    there = block != 0
    return (there[:, 1:] & ~there[:, :-1]).any(1)


def text_bytes(dtype: np.dtype[Any]) -> int:
    """The most bytes of a text of such a dtype, one for each of its characters; 0 for what is none."""
    if dtype.kind not in "US":
        return 0
    return max(1, dtype.itemsize // (4 if dtype.kind == "U" else 1))


def _is_text(row: Array) -> bool:
    try:
        ids_in(row)
    except UnicodeDecodeError:
        return False
    return True


def _hashed(block: Array) -> Array:
    """64 bits a row: of numbers they themselves; of texts FNV-1a over their bytes, without the filling."""
    if block.ndim == 1:
        return block.astype(np.int64).view(np.uint64)
    found = np.full(len(block), 0xCBF29CE484222325, np.uint64)
    for column in block.T:
        there = column != 0
        found[there] = (found[there] ^ column[there].astype(np.uint64)) * _FACTOR
    return found
