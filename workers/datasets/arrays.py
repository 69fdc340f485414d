"""Rows of an array whose bytes lie one after the other, wherever those come from."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from service.storage.object_bytes import Bytes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StoredArray:
    """An array (rows, …) from byte `start` on; in Fortran order the first axis runs fastest."""

    content: Bytes
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool = False

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop)."""
        count = stop - start
        if self.fortran and len(self.shape) > 1:
            return self._read_fortran(start, count)
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        data = self.content.read(self.start + start * row_bytes, count * row_bytes)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def _read_fortran(self, start: int, count: int) -> Array:
        """A row's numbers lie apart: one run of rows is read for each of them."""
        size, rows = self.dtype.itemsize, self.shape[0]
        runs = [
            self.content.read(self.start + (place * rows + start) * size, count * size)
            for place in range(prod(self.shape[1:]))
        ]
        flat = np.frombuffer(b"".join(runs), self.dtype)
        return flat.reshape(*self.shape[:0:-1], count).T
