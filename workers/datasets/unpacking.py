"""Bytes that can only be had in order (compressed members, encoded columns), read anywhere all the same.

They are unpacked in blocks. A block that is wanted is taken from the cache, or unpacked on from where the last
unpacking stopped, or from the nearest beginning before it; what comes by on the way goes into the cache too. So going
through them in order unpacks them once, and memory holds a block or two whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.storage.object_bytes import Unreadable
from workers.datasets.disk_cache import BLOCK_BYTES, BlockCache

Opening = Callable[[int], tuple[int, Iterator[bytes]]]
"""From a position: the nearest beginning at or before it, and all bytes from there on, in pieces."""


class UnpackedBytes:
    """`size` bytes behind `opening`; see `Bytes`. Used by one thread at a time."""

    def __init__(
        self, identity: str, size: int, opening: Opening, cache: BlockCache | None = None
    ) -> None:
        self.size = size
        self._identity = identity
        self._opening = opening
        self._cache = cache
        self._block_bytes = BLOCK_BYTES if cache is None else cache.block_bytes
        self._at_hand: tuple[int, bytes] = (-1, b"")  # the block used last
        self._pieces: Iterator[bytes] = iter(())
        self._next = -1  # the block that `_pieces` gives next; -1: none is open
        self._rest = bytearray()  # of a piece that reached over a block's end

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length)."""
        stop, parts = start + length, []
        while start < stop:
            number, inside = divmod(start, self._block_bytes)
            part = self._block(number)[inside : inside + stop - start]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _block(self, number: int) -> bytes:
        if self._at_hand[0] != number:
            self._at_hand = (number, self._found(number) or self._unpacked(number))
        return self._at_hand[1]

    def _found(self, number: int) -> bytes | None:
        if self._cache is None:
            return None
        return self._cache.get(self._identity, number, self._length(number))

    def _unpacked(self, number: int) -> bytes:
        if not 0 <= self._next <= number:
            self._open(number)
        while True:
            block, here = self._fill(self._length(self._next)), self._next
            self._next += 1
            if self._cache is not None:
                self._cache.put(self._identity, here, block)
            if here == number:
                return block

    def _open(self, number: int) -> None:
        """Begins at the first whole block after the nearest beginning."""
        begin, self._pieces = self._opening(number * self._block_bytes)
        self._rest = bytearray()
        self._next = -(-begin // self._block_bytes)
        self._fill(self._next * self._block_bytes - begin)

    def _fill(self, length: int) -> bytes:
        while len(self._rest) < length:
            piece = next(self._pieces, None)
            if piece is None:
                raise Unreadable("it ends too early")
            self._rest += piece
        block = bytes(self._rest[:length])
        del self._rest[:length]
        return block

    def _length(self, number: int) -> int:
        return min(self._block_bytes, self.size - number * self._block_bytes)
