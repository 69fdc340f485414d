"""Arrays whose numbers lie one after the other in some bytes, read by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from service.storage.object_bytes import Bytes
from service.storage.tensors import numbers_of
from workers.datasets.disk_cache import BlockCache
from workers.datasets.unpacking import UnpackedBytes

Array = np.ndarray[Any, Any]
_TURNED_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class StoredArray:
    """An array (rows, …) from byte `start` on. `bfloat16`: it is so stored, and read as `dtype`, float32."""

    content: Bytes
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    bfloat16: bool = False

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop)."""
        row_bytes, count = self.row_bytes, stop - start
        data = self.content.read(self.start + start * row_bytes, count * row_bytes)
        return numbers_of(data, self.dtype, self.bfloat16).reshape(count, *self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Of one row, as it is stored."""
        return prod(self.shape[1:]) * (2 if self.bfloat16 else self.dtype.itemsize)


def turned(array: StoredArray, identity: str, cache: BlockCache | None) -> StoredArray:
    """An array whose bytes lie in Fortran order, the first axis running fastest, as one in C order.

    It is turned in stripes of many rows, whose numbers lie in one run for each place in a row.
    """
    if len(array.shape) < 2:
        return array
    row_bytes, rows = max(1, array.row_bytes), array.shape[0]
    step = max(1, _TURNED_BYTES // row_bytes)

    def opening(position: int) -> tuple[int, Iterator[bytes]]:
        first = position // row_bytes
        stripes = (_stripe(array, at, min(at + step, rows)) for at in range(first, rows, step))
        return first * row_bytes, stripes

    content = UnpackedBytes(f"{identity}|turned", array.row_bytes * rows, opening, cache)
    return StoredArray(content, 0, array.dtype, array.shape)


def _stripe(array: StoredArray, start: int, stop: int) -> bytes:
    size, rows = array.dtype.itemsize, array.shape[0]
    runs = [
        array.content.read(array.start + (place * rows + start) * size, (stop - start) * size)
        for place in range(prod(array.shape[1:]))
    ]
    flat = np.frombuffer(b"".join(runs), array.dtype)
    return flat.reshape(*array.shape[:0:-1], stop - start).T.tobytes()
