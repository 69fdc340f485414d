"""An object's bytes through the cache on disk, block by block: those of a storage that is another machine."""

from __future__ import annotations

from service.storage.object_bytes import Bytes, ObjectBytes
from workers.datasets.disk_cache import BlockCache


class CachedBytes:
    """See `Bytes`. Neighbouring blocks that are missing are fetched at once."""

    def __init__(self, content: ObjectBytes, cache: BlockCache) -> None:
        self.size = content.size
        self._content = content
        self._cache = cache
        self._block = cache.block_bytes

    def read(self, start: int, length: int) -> bytes:
        """See `Bytes`."""
        if length == 0:
            return b""
        numbers = range(start // self._block, (start + length - 1) // self._block + 1)
        found = [
            self._cache.get(self._content.identity, each, self._length(each)) for each in numbers
        ]
        blocks: list[bytes] = []
        position = 0
        while position < len(found):
            block = found[position]
            if block is not None:
                blocks.append(block)
                position += 1
                continue
            missing = position
            while missing < len(found) and found[missing] is None:
                missing += 1
            blocks += self._fetched(numbers[position:missing])
            position = missing
        inside = start - numbers[0] * self._block
        return b"".join(blocks)[inside : inside + length]

    def _fetched(self, numbers: range) -> list[bytes]:
        begin = numbers[0] * self._block
        length = numbers[-1] * self._block + self._length(numbers[-1]) - begin
        data = self._content.read(begin, length)
        blocks = [data[at : at + self._block] for at in range(0, length, self._block)]
        for number, block in zip(numbers, blocks, strict=True):
            self._cache.put(self._content.identity, number, block)
        return blocks

    def _length(self, number: int) -> int:
        return min(self._block, self.size - number * self._block)


def cached(content: ObjectBytes, cache: BlockCache | None) -> Bytes:
    """Through the cache where it saves a way over the network; a folder's files are read as they lie."""
    if cache is None or content.objects.folder is not None:
        return content
    return CachedBytes(content, cache)
