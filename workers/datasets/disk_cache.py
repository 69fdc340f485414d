"""Blocks of datasets on this machine's disk: within a budget of bytes, the least recently used go first.

Any number of workers may share the folder. A block appears by renaming, is read through an open file (which a
deletion does not take away), and is written under a lock, so that all together stay within the budget.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from service.storage.object_bytes import Bytes, ObjectBytes
from upweight.errors import Unavailable

BLOCK_BYTES = 4 * 1024**2  # of what is unpacked without a cache, and at most
_BLOCKS = 16  # that a cache holds at least
_LOCK = "lock"


class BlockCache(Protocol):
    """Keeps blocks of one size for as long as it has room."""

    @property
    def block_bytes(self) -> int:
        """The size of a block; the last one of something is shorter."""
        ...

    def get(self, identity: str, number: int, length: int) -> bytes | None:
        """A block of what has this identity, if it is kept."""
        ...

    def put(self, identity: str, number: int, block: bytes) -> None:
        """Keeps a block."""
        ...


class DiskCache:
    """At most `budget` bytes in a folder that is this user's alone. Raises Unavailable for another's."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self.block_bytes = max(1, min(BLOCK_BYTES, budget // _BLOCKS))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = folder.stat().st_uid
        except OSError as error:
            raise Unavailable(
                f"the folder {folder} can't be used as cache: {error.strerror}; set UPWEIGHT_SCRATCH"
            ) from error
        if owner != os.getuid():
            raise Unavailable(
                f"the folder {folder} for the cache is another user's; set UPWEIGHT_SCRATCH"
            )

    def get(self, identity: str, number: int, length: int) -> bytes | None:
        """A block, None where it is not held: one of another length was cut short by a power failure."""
        path = self._path(identity, number)
        try:
            block = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return block if len(block) == length else None

    def put(self, identity: str, number: int, block: bytes) -> None:
        """Holds a block. A disk that takes no more makes reading slow, not wrong."""
        path = self._path(identity, number)
        with suppress(OSError), self._locked():
            self._make_room(len(block), path)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            part = path.with_name(f"{path.name}.{uuid4().hex}")
            try:
                part.write_bytes(block)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _path(self, identity: str, number: int) -> Path:
        key = f"{identity}|{self.block_bytes}"  # another worker's blocks may have another size
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32] / str(number)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, length: int, path: Path) -> None:
        """Deletes until there is room for a block at a path."""
        kept = sorted(self._kept())
        total = sum(size for _, size, each in kept if each != path)
        for _, size, each in kept:
            if total + length <= self._budget:
                return
            if each != path:
                each.unlink(missing_ok=True)
                total -= size
                with suppress(OSError):
                    each.parent.rmdir()

    def _kept(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, size, path) of all blocks, and of what a killed worker was writing."""
        with os.scandir(self._folder) as folders:
            for folder in folders:
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder) as blocks:
                        for block in blocks:
                            state = block.stat(follow_symlinks=False)
                            yield state.st_mtime, state.st_size, Path(block.path)


class CachedBytes:
    """An object of a distant storage, read through the cache; neighbouring blocks that are missing come at once."""

    def __init__(self, content: ObjectBytes, cache: BlockCache) -> None:
        self.size = content.size
        self._content = content
        self._cache = cache
        self._block = cache.block_bytes

    def read(self, start: int, length: int) -> bytes:
        """Bytes [start, start + length)."""
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
