"""Bytes as a file to read from, for libraries that want one: fetched by range, within a budget of bytes."""

from __future__ import annotations

import io
import os
from typing import IO, cast

from service.storage.object_bytes import Bytes

_AT_ONCE = 64 * 1024


class OverBudget(ValueError):
    """More would have to be read than is allowed; the message says how much that is."""


class _Ranged(io.RawIOBase):
    def __init__(self, content: Bytes, budget: int | None) -> None:
        self._content, self._size = content, content.size
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
        if self._left is not None:
            if length > self._left:
                raise OverBudget(f"more than {self._budget} bytes of it would have to be read")
            self._left -= length
        buffer[:length] = self._content.read(self._position, length)
        self._position += length
        return length


def ranged(content: Bytes, budget: int | None = None) -> IO[bytes]:
    """The bytes as an open file. Reading raises what reading them does, and OverBudget."""
    return cast(IO[bytes], io.BufferedReader(_Ranged(content, budget), _AT_ONCE))
