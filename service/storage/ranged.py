"""An object as a file to read from, for libraries that want one: fetched by range, within a budget of bytes."""

from __future__ import annotations

import io
import os
from typing import IO, cast

from service.storage.objects import Objects

_AT_ONCE = 64 * 1024


class OverBudget(ValueError):
    """More would have to be read than is allowed; the message says how much that is."""


class _Ranged(io.RawIOBase):
    def __init__(self, objects: Objects, path: str, size: int, budget: int) -> None:
        self._objects, self._path, self._size = objects, path, size
        self._position = 0
        self._budget, self._left = budget, budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._position))
        if length > self._left:
            raise OverBudget(f"more than {self._budget} bytes of it would have to be read")
        buffer[:length] = self._objects.get_range(self._path, self._position, length)
        self._position += length
        self._left -= length
        return length


def ranged(objects: Objects, path: str, budget: int) -> IO[bytes]:
    """The object, open for reading. Raises FileNotFoundError; reading raises OverBudget."""
    meta = objects.head(path)
    if meta is None:
        raise FileNotFoundError(path)
    file = _Ranged(objects, path, meta.size, budget)
    return cast(IO[bytes], io.BufferedReader(file, _AT_ONCE))
