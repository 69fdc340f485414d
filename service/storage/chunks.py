"""Rows of a stored matrix by byte ranges of its chunks.

Chunks are not compressed, so some rows of a chunk are some of its bytes: one row of a matrix a million columns wide
costs megabytes, where reading whole chunks would cost a gigabyte. Nothing of Zarr is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from service.storage.arrays import chunk_path
from service.storage.objects import Objects
from upweight.errors import InternalError

Array = np.ndarray[Any, Any]
Where = Array | slice


@dataclass(frozen=True)
class Chunks:
    """A matrix (rows, columns, …) as `NewMatrix` lays it out: axes after the second are whole in each chunk.

    What reads of it raise InternalError where a chunk was not written, or is lost: no number stands for it.
    """

    objects: Objects
    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    layer: int | None = (
        None  # along a first axis λ, whole in each chunk, which `shape` and `chunk` are without
    )

    @classmethod
    def open(cls, objects: Objects, path: str, layer: int | None = None) -> Chunks:
        """One λ of a matrix that has several. Raises FileNotFoundError, and InternalError for a layout not ours."""
        described = json.loads(objects.get(f"{path}/zarr.json"))
        shape = tuple(described["shape"])
        chunk = tuple(described["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [codec["name"] for codec in described["codecs"]]
        endian = described["codecs"][0].get("configuration", {}).get("endian", "little")
        if layer is not None:
            if shape[0] != chunk[0]:
                raise InternalError("a stored matrix has its λ's in several chunks")
            shape, chunk = shape[1:], chunk[1:]
        if codecs != ["bytes"] or endian != "little" or shape[2:] != chunk[2:]:
            raise InternalError("a stored matrix has another layout than this service writes")
        dtype = np.dtype(described["data_type"]).newbyteorder("<")
        return cls(objects, path, shape, chunk, dtype, layer)

    def blocks(
        self, rows: Sequence[int], columns: Sequence[int], block_bytes: int
    ) -> Iterator[Array]:
        """The chosen rows and columns, in their order, some rows at a time: `block_bytes` each, or one row."""
        # Rows of a chunk are read over its full width, however few columns are asked for.
        row_bytes = max(1, max(len(columns), self.chunk[1]) * self._entry_bytes)
        step = max(1, block_bytes // row_bytes)
        for start in range(0, len(rows), step):
            yield self._block(rows[start : start + step], columns)

    def pieces(
        self, rows: Sequence[int], columns: Sequence[int], block_bytes: int
    ) -> Iterator[Array]:
        """The same numbers in the same order; a row of more than `block_bytes` comes in several parts."""
        width = max(1, block_bytes // max(1, self._entry_bytes))
        if len(columns) <= width:
            yield from self.blocks(rows, columns, block_bytes)
            return
        # Whole chunks, so that each is read once where all columns are asked for.
        width = width - width % self.chunk[1] or width
        for row in range(len(rows)):
            for start in range(0, len(columns), width):
                yield self._block(rows[row : row + 1], columns[start : start + width])

    @property
    def _entry_bytes(self) -> int:
        return prod(self.shape[2:]) * self.dtype.itemsize

    def _block(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        shape = (len(rows), len(columns), *self.shape[2:])
        block = np.empty(shape, self.dtype)
        if block.size == 0:
            return block
        for rows_at, chunk_row, row_inside in _by_chunk(rows, self.chunk[0]):
            for columns_at, chunk_column, column_inside in _by_chunk(columns, self.chunk[1]):
                found = self._rows_of(chunk_row, chunk_column, row_inside)
                block[_rectangle(rows_at, columns_at)] = found[:, column_inside]
        return block

    def _rows_of(self, chunk_row: int, chunk_column: int, inside: Where) -> Array:
        """Rows of one chunk over its full width."""
        layered = self.layer is not None
        axes = len(self.shape) + layered
        path = chunk_path(self.path, chunk_row, chunk_column, axes, layered=layered)
        row_bytes = self.chunk[1] * self._entry_bytes
        before = (self.layer or 0) * self.chunk[0] * row_bytes
        wanted, order = np.unique(np.arange(self.chunk[0])[inside], return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        ranges = [(before + int(run[0]) * row_bytes, len(run) * row_bytes) for run in runs]
        try:
            parts = self.objects.get_ranges(path, ranges)
        except FileNotFoundError:
            raise InternalError(
                "a part of a stored matrix is missing; start its job again"
            ) from None
        found = np.frombuffer(b"".join(parts), self.dtype)
        return found.reshape(len(wanted), *self.chunk[1:])[order]


def _by_chunk(positions: Sequence[int], size: int) -> Iterator[tuple[Where, int, Where]]:
    """Positions by the chunk they fall in: where they stand in the choice, the chunk, where they are inside it."""
    if isinstance(positions, range) and positions.step > 0:
        yield from _ranges_by_chunk(positions, size)
        return
    numbers = np.asarray(positions, dtype=np.int64)
    chunks = numbers // size
    order = np.argsort(chunks, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
        chunk = int(chunks[group[0]])
        yield group, chunk, numbers[group] - chunk * size


def _ranges_by_chunk(positions: range, size: int) -> Iterator[tuple[slice, int, slice]]:
    """By arithmetic: however long a range is, no number of it is held."""
    first = 0
    while first < len(positions):
        chunk, inside = divmod(positions[first], size)
        last = min(len(positions), first + -(-(size - inside) // positions.step))
        stop = inside + (last - first) * positions.step
        yield slice(first, last), chunk, slice(inside, stop, positions.step)
        first = last


def _rectangle(rows: Where, columns: Where) -> Any:
    """An index of a rectangle."""
    if isinstance(rows, slice) or isinstance(columns, slice):
        return rows, columns
    return np.ix_(rows, columns)
