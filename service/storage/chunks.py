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

from service.storage.objects import Objects
from upweight.errors import InternalError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chunks:
    """A matrix (rows, columns, …) as `NewMatrix` lays it out: axes after the second are whole in each chunk."""

    objects: Objects
    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, objects: Objects, path: str) -> Chunks:
        """Raises FileNotFoundError, and InternalError for a layout that is not ours."""
        described = json.loads(objects.get(f"{path}/zarr.json"))
        shape = tuple(described["shape"])
        chunk = tuple(described["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [codec["name"] for codec in described["codecs"]]
        endian = described["codecs"][0].get("configuration", {}).get("endian", "little")
        if codecs != ["bytes"] or endian != "little" or shape[2:] != chunk[2:]:
            raise InternalError("a stored matrix has another layout than this service writes")
        dtype = np.dtype(described["data_type"]).newbyteorder("<")
        return cls(objects, path, shape, chunk, dtype)

    def blocks(
        self, rows: Sequence[int], columns: Sequence[int], block_bytes: int
    ) -> Iterator[Array]:
        """The chosen rows and columns, in their order, some rows at a time: `block_bytes` each, or one row."""
        # Rows of a chunk are read over its full width, however few columns are asked for.
        row_bytes = max(1, max(len(columns), self.chunk[1]) * self._entry_bytes)
        step = max(1, block_bytes // row_bytes)
        for start in range(0, len(rows), step):
            yield self._block(rows[start : start + step], columns)

    @property
    def _entry_bytes(self) -> int:
        return prod(self.shape[2:]) * self.dtype.itemsize

    def _block(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        block = np.full((len(rows), len(columns), *self.shape[2:]), np.nan, self.dtype)
        if block.size == 0:
            return block
        for rows_at, chunk_row, row_inside in _by_chunk(rows, self.chunk[0]):
            for columns_at, chunk_column, column_inside in _by_chunk(columns, self.chunk[1]):
                found = self._rows_of(chunk_row, chunk_column, row_inside)
                if found is not None:
                    block[_grid(rows_at, columns_at)] = found[:, column_inside]
        return block

    def _rows_of(self, chunk_row: int, chunk_column: int, inside: Array) -> Array | None:
        """Rows of one chunk over its full width; None where the chunk was never written."""
        trailing = "/0" * len(self.shape[2:])
        path = f"{self.path}/c/{chunk_row}/{chunk_column}{trailing}"
        row_bytes = self.chunk[1] * self._entry_bytes
        wanted, order = np.unique(inside, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        ranges = [(int(run[0]) * row_bytes, len(run) * row_bytes) for run in runs]
        try:
            parts = self.objects.get_ranges(path, ranges)
        except FileNotFoundError:
            return None
        found = np.frombuffer(b"".join(parts), self.dtype)
        return found.reshape(len(wanted), *self.chunk[1:])[order]


def _by_chunk(positions: Sequence[int], size: int) -> Iterator[tuple[Array, int, Array]]:
    """Positions by the chunk they fall in: where they stand in the choice, the chunk, where they are inside it."""
    numbers = np.asarray(positions, dtype=np.int64)
    chunks = numbers // size
    order = np.argsort(chunks, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
        chunk = int(chunks[group[0]])
        yield group, chunk, numbers[group] - chunk * size


def _grid(rows: Array, columns: Array) -> Any:
    """An index of a rectangle: by slices where the positions are consecutive, which copies many times faster."""
    if len(columns) == columns[-1] - columns[0] + 1 and len(rows) == rows[-1] - rows[0] + 1:
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ix_(rows, columns)
