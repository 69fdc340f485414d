"""Matrices of results: Zarr 3 arrays over the objects, so that users can open them with a library they have.

A block is a whole chunk and has one writer. Chunks are not compressed (scores are noise to a compressor), and what
is not written yet reads as NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from service.storage.objects import Objects

if TYPE_CHECKING:
    import zarr


def create_array(
    objects: Objects, path: str, shape: Sequence[int], chunks: Sequence[int], dtype: str
) -> zarr.Array[Any]:
    """A new array; one that is there already (an earlier attempt's) is replaced."""
    import zarr

    return zarr.create_array(
        store=_store(objects, path),
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=dtype,
        compressors=None,
        fill_value=float("nan"),
        overwrite=True,
    )


def open_array(objects: Objects, path: str) -> zarr.Array[Any]:
    """An array for reading. Raises FileNotFoundError."""
    import zarr

    return zarr.open_array(store=_store(objects, path), mode="r")


def _store(objects: Objects, path: str) -> Any:
    from zarr.storage import ObjectStore

    return ObjectStore(objects.rooted_at(path))


def read_rows(
    array: zarr.Array[Any], rows: Sequence[int], columns: Sequence[int], block_bytes: int
) -> Iterator[np.ndarray[Any, Any]]:
    """The chosen rows and columns (first two axes) in blocks of rows: `block_bytes` each, or one row."""
    trailing = int(np.prod(array.shape[2:], dtype=np.int64))
    row_bytes = max(1, len(columns) * trailing * array.dtype.itemsize)
    step = max(1, block_bytes // row_bytes)
    chosen = _as_slice(columns)
    for start in range(0, len(rows), step):
        part = _as_slice(rows[start : start + step])
        yield np.asarray(array.oindex[part, chosen])


def _as_slice(positions: Sequence[int]) -> Any:
    """Positions as a slice where they are one: Zarr then reads chunks straight through."""
    if len(positions) == 0:
        return slice(0, 0)
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and (
        isinstance(positions, range)
        or list(positions) == list(range(positions[0], positions[-1] + 1, step))
    ):
        return slice(positions[0], positions[-1] + 1, step)
    return np.asarray(positions, dtype=np.int64)
