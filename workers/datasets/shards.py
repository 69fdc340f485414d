"""A dataset's shards behind one interface: what columns a shard has, and their rows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.results.layout import blob_path
from service.storage.npz import BadArchive, NpzFile
from service.storage.objects import Objects
from service.storage.tensors import BadTensors, TensorEntry, read_entry, read_header
from upweight.errors import NotAvailableYet, Rejected

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ColumnShape:
    """A column of one shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Shard(Protocol):
    """One shard, open for reading."""

    columns: dict[str, ColumnShape]

    def read(self, column: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column."""
        ...


class SafetensorsShard:
    """Rows are read by range; nothing is fetched that is not asked for."""

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects = objects
        self._path = path
        self._entries: dict[str, TensorEntry] = read_header(objects, path)
        self.columns = {
            name: ColumnShape(entry.dtype, entry.shape) for name, entry in self._entries.items()
        }

    def read(self, column: str, start: int, stop: int) -> Array:
        """See `Shard`."""
        return read_entry(self._objects, self._path, self._entries[column], start, stop)


class NpzShard:
    """A copy on disk; a column is unpacked once, when its first rows are asked for."""

    def __init__(self, path: Path) -> None:
        self._file = NpzFile(path)
        self._unpacked: tuple[str, Array] | None = None
        self.columns = {
            name: ColumnShape(entry.dtype, entry.shape)
            for name, entry in self._file.entries.items()
        }

    def read(self, column: str, start: int, stop: int) -> Array:
        """See `Shard`."""
        if self._unpacked is None or self._unpacked[0] != column:
            self._unpacked = (column, self._file.read(column))
        return self._unpacked[1][start:stop]


@contextmanager
def open_shard(
    objects: Objects, namespace: str, digest: str, format: str, scratch: Path, pointer: str
) -> Iterator[Shard]:
    """A shard by its blob. What is wrong with it is said as Rejected, with the pointer to the blob in the request."""
    try:
        if format == "safetensors":
            yield SafetensorsShard(objects, blob_path(namespace, digest))
        elif format == "npz":
            with fetched(objects, namespace, digest, scratch) as path:
                yield NpzShard(path)
        else:
            raise NotAvailableYet(f"format {format!r} is not available yet; use safetensors or npz")
    except (BadTensors, BadArchive) as error:
        raise Rejected.field(
            pointer, f"the shard can't be read as {format}: {error}", digest
        ) from None
    except FileNotFoundError:
        raise Rejected.field(
            pointer, "the blob has gone from the object storage; upload it again", digest
        ) from None


@contextmanager
def fetched(objects: Objects, namespace: str, digest: str, scratch: Path) -> Iterator[Path]:
    """A blob as a file of this machine, for as long as the context is open. Raises FileNotFoundError."""
    folder = Path(tempfile.mkdtemp(prefix="upweight-", dir=scratch))
    try:
        path = folder / "blob"
        with path.open("wb") as file:
            for chunk in objects.open_stream(blob_path(namespace, digest)):
                file.write(chunk)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
