"""A dataset's shards behind one interface: the columns of a shard as arrays whose rows are read by range."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.datasets.sources import Source
from service.storage.failures import Changed
from service.storage.layout import blob_path
from service.storage.npz import NpzFile
from service.storage.object_bytes import Bytes, Unreadable
from service.storage.objects import Objects
from service.storage.ranged import ranged
from service.storage.tensors import entries_of
from upweight.errors import Rejected
from workers.datasets.arrays import Array, StoredArray, turned
from workers.datasets.disk_cache import BlockCache, cached
from workers.datasets.unpacking import UnpackedBytes
from workers.engine.progress import Progress, silent


@dataclass(frozen=True)
class ColumnShape:
    """A column of one shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Shard(Protocol):
    """One shard, open for reading by one thread at a time."""

    @property
    def names(self) -> list[str]:
        """Of all its columns."""
        ...

    def shape(self, column: str) -> ColumnShape:
        """Raises KeyError, and ValueError for a column that is no array."""
        ...

    def read(self, column: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column."""
        ...


class ArraysShard:
    """Columns that are known as soon as the shard is open."""

    def __init__(self, arrays: dict[str, StoredArray]) -> None:
        self._arrays = arrays
        self.names = list(arrays)

    def shape(self, column: str) -> ColumnShape:
        """Dtype and shape of a row of a column. Raises KeyError."""
        array = self._arrays[column]
        return ColumnShape(array.dtype, array.shape)

    def read(self, column: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column."""
        return self._arrays[column].read(start, stop)


class ParquetShard:
    """Columns are looked at when they are asked for: a file may have thousands."""

    def __init__(self, content: Bytes, identity: str, cache: BlockCache | None) -> None:
        from service.storage.parquet import ParquetColumns

        self._file = ParquetColumns(ranged(content))
        self._identity = identity
        self._cache = cache
        self._arrays: dict[str, StoredArray] = {}
        self.names = self._file.names

    def shape(self, column: str) -> ColumnShape:
        """Dtype and shape of a row of a column. Raises KeyError, and ValueError for a column that is no array."""
        array = self._array(column)
        return ColumnShape(array.dtype, array.shape)

    def read(self, column: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column."""
        return self._array(column).read(start, stop)

    def _array(self, name: str) -> StoredArray:
        if name not in self._arrays:
            entry = self._file.entry(name)
            row_bytes = prod(entry.shape[1:]) * entry.dtype.itemsize

            def opening(position: int) -> tuple[int, Iterator[bytes]]:
                row = position // max(1, row_bytes)
                blocks = self._file.blocks(name, row, entry)
                return self._file.group_start(row) * row_bytes, (
                    np.ascontiguousarray(block).tobytes() for _, block in blocks
                )

            size = row_bytes * entry.shape[0]
            content = UnpackedBytes(f"{self._identity}|{name}", size, opening, self._cache)
            self._arrays[name] = StoredArray(content, 0, entry.dtype, entry.shape)
        return self._arrays[name]


def _safetensors(content: Bytes, identity: str, cache: BlockCache | None) -> Shard:
    return ArraysShard(
        {
            name: StoredArray(content, entry.start, entry.dtype, entry.shape, entry.bfloat16)
            for name, entry in entries_of(content).items()
        }
    )


def _npz(content: Bytes, identity: str, cache: BlockCache | None) -> Shard:
    archive = NpzFile(ranged(content))
    arrays = {}
    for name, entry in archive.entries.items():
        start, held = archive.start(name), content
        if start is None:
            size = prod(entry.shape) * entry.dtype.itemsize
            opening = partial(_from_the_beginning, archive, name)
            start, held = 0, UnpackedBytes(f"{identity}|{name}", size, opening, cache)
        array = StoredArray(held, start, entry.dtype, entry.shape)
        arrays[name] = turned(array, f"{identity}|{name}", cache) if entry.fortran else array
    return ArraysShard(arrays)


def _from_the_beginning(archive: NpzFile, name: str, position: int) -> tuple[int, Iterator[bytes]]:
    return 0, archive.unpacked(name)


_FORMATS: Mapping[str, Callable[[Bytes, str, BlockCache | None], Shard]] = {
    "npz": _npz,
    "parquet": ParquetShard,
    "safetensors": _safetensors,
}


def open_shard(source: Source, format: str, cache: BlockCache | None = None) -> Shard:
    """A shard. What is wrong with it is said as Rejected, with the pointer to it in the request."""
    with rejecting(source, format):
        content = source.open()
        return _FORMATS[format](cached(content, cache), content.identity, cache)


@contextmanager
def rejecting(source: Source, format: str) -> Iterator[None]:
    """What goes wrong while a shard is read, in words for its owner. Raises Rejected."""
    try:
        yield
    except FileNotFoundError:
        raise Rejected.field(source.pointer, source.gone, source.label) from None
    except Changed:
        raise Rejected.field(source.pointer, source.changed, source.label) from None
    except Unreadable as error:
        where = "the shard" if source.file is None else f"the file {source.label!r}"
        raise Rejected.field(
            source.pointer, f"{where} can't be read as {format}: {error}", source.label
        ) from None


@contextmanager
def fetched(
    objects: Objects,
    namespace: str,
    digest: str,
    scratch: Path,
    progress: Progress = silent,
) -> Iterator[Path]:
    """A blob as a file of this machine, for as long as the context is open. Raises FileNotFoundError."""
    folder = Path(tempfile.mkdtemp(prefix="upweight-", dir=scratch))
    try:
        path = folder / "blob"
        meta = objects.head(blob_path(namespace, digest))
        if meta is None:
            raise FileNotFoundError(digest)
        with path.open("wb") as file:
            for chunk in objects.open_stream(blob_path(namespace, digest)):
                file.write(chunk)
                progress("load", file.tell(), meta.size, "bytes")
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
