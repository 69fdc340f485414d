"""The bytes of one object, by range: what readers of file formats are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.storage.objects import Objects

_AT_ONCE = 32 * 1024**2


class Unreadable(ValueError):
    """A file that is not what its format asks for; the message says why."""


class Bytes(Protocol):
    """Bytes that can be read anywhere."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length), which must be there."""
        ...


@dataclass(frozen=True)
class ObjectBytes:
    """An object as it was when its size, and its etag if one is given, were taken down.

    Reading raises FileNotFoundError when it has gone, and Changed when it has another etag by now.
    """

    objects: Objects
    path: str
    size: int
    etag: str | None = None

    @classmethod
    def of(cls, objects: Objects, path: str) -> ObjectBytes:
        """An object that never changes. Raises FileNotFoundError."""
        meta = objects.head(path)
        if meta is None:
            raise FileNotFoundError(path)
        return cls(objects, path, meta.size)

    @property
    def identity(self) -> str:
        """A name that these bytes share with no others."""
        return f"{self.objects.url}|{self.path}|{self.size}|{self.etag or ''}"

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length)."""
        if length == 0:
            return b""
        if self.etag is None:
            return self.objects.get_range(self.path, start, length)
        stop = start + length
        return b"".join(
            self.objects.get_unchanged(self.path, self.etag, at, min(_AT_ONCE, stop - at))
            for at in range(start, stop, _AT_ONCE)
        )

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, length) at once, as far as the store can."""
        if self.etag is None:
            return self.objects.get_ranges(self.path, ranges)
        return [self.read(start, length) for start, length in ranges]
