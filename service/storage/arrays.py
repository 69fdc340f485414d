"""Matrices of results: Zarr 3 arrays over the objects, so that users can open them with a library they have.

A block is a whole chunk and has one writer, which writes it once. Chunks are not compressed (scores are noise to a
compressor). What is not written reads as NaN with Zarr's libraries; `chunks`, which reads them here, refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.storage.objects import Objects

Array = np.ndarray[Any, Any]


def chunk_path(path: str, row: int, column: int, axes: int, *, layered: bool) -> str:
    """The object of one chunk of a matrix with so many axes."""
    first, last = ("/0", axes - 3) if layered else ("", axes - 2)
    return f"{path}/c{first}/{row}/{column}{'/0' * last}"


@dataclass(frozen=True)
class NewMatrix:
    """A matrix (rows, columns, …) to be written chunk by chunk, from any number of processes.

    With `layered` the first axis is λ, whole in each chunk.
    """

    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    layered: bool = False

    @property
    def described_at(self) -> str:
        """The object that says what the array is."""
        return f"{self.path}/zarr.json"

    def chunk_path(self, row: int, column: int) -> str:
        """The object of one chunk."""
        return chunk_path(self.path, row, column, len(self.shape), layered=self.layered)

    def describe(self, objects: Objects) -> None:
        """Writes what the array is, once."""
        if objects.head(self.described_at) is None:
            objects.put_new(self.described_at, self._metadata())

    def write(self, objects: Objects, row: int, column: int, block: Array) -> str:
        """Writes a chunk unless it is there; answers the digest of the bytes that are there then."""
        data = self._padded(block).tobytes()
        return objects.put_first(self.chunk_path(row, column), data)

    def _padded(self, block: Array) -> Array:
        """As Zarr stores it: full size, NaN beyond the matrix, or 0 of whole numbers."""
        if block.shape == self.chunk:
            return np.ascontiguousarray(block)
        chunk = np.full(self.chunk, _beyond(self.dtype), block.dtype)
        chunk[tuple(slice(0, length) for length in block.shape)] = block
        return chunk

    def _metadata(self) -> bytes:
        import zarr
        from zarr.storage import MemoryStore

        written: dict[str, Any] = {}
        zarr.create_array(
            store=MemoryStore(written),
            shape=self.shape,
            chunks=self.chunk,
            dtype=self.dtype,
            compressors=None,
            fill_value=_beyond(self.dtype),
        )
        return bytes(written["zarr.json"].to_bytes())


def _beyond(dtype: str) -> float | int:
    """What stands for no number."""
    return float("nan") if np.dtype(dtype).kind == "f" else 0
