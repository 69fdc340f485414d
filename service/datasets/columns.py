"""Columns of shards, read by rows within bounded memory: what previews show. A format is a row of `READERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from service.storage.npz import NpzFile
from service.storage.object_bytes import ObjectBytes
from service.storage.ranged import ranged
from service.storage.tensors import TensorEntry, entries_of, numbers_of

Array = np.ndarray[Any, Any]


class Column(Protocol):
    """One column of one shard."""

    def read(self, rows: Array) -> Array:
        """These rows of it: ascending, each once."""
        ...


@dataclass(frozen=True)
class PlainColumn:
    """A column whose rows lie one after the other in a file: only those asked for are fetched."""

    content: ObjectBytes
    entry: TensorEntry

    def read(self, rows: Array) -> Array:
        """These rows of it: ascending, each once."""
        row_bytes = (self.entry.stop - self.entry.start) // max(1, self.entry.shape[0])
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
        ranges = [
            (self.entry.start + int(run[0]) * row_bytes, len(run) * row_bytes) for run in runs
        ]
        data = b"".join(self.content.read_many(ranges)) if row_bytes else b""
        numbers = numbers_of(data, self.entry.dtype, self.entry.bfloat16)
        return numbers.reshape(len(rows), *self.entry.shape[1:])


@dataclass(frozen=True)
class UnpackedColumn:
    """A column that could only be had whole."""

    values: Array

    def read(self, rows: Array) -> Array:
        """These rows of it: ascending, each once."""
        return np.asarray(self.values[rows])


def _safetensors(content: ObjectBytes, name: str, budget: int) -> Column:
    return PlainColumn(content, entries_of(content, budget)[name])


def _npz(content: ObjectBytes, name: str, budget: int) -> Column:
    with ranged(content, budget) as file:
        archive = NpzFile(file, budget)
        found, start = archive.entries[name], archive.start(name)
        if start is None or found.fortran:
            return UnpackedColumn(archive.read(name))
    size = found.dtype.itemsize * prod(found.shape)
    return PlainColumn(content, TensorEntry(found.dtype, found.shape, start, start + size))


def _parquet(content: ObjectBytes, name: str, budget: int) -> Column:
    from service.datasets.decoded import DecodedColumn  # pyarrow is slow to import

    return DecodedColumn.open(content, name, budget)


# (content, column, most bytes to read beside the rows) -> the column.
# Raises KeyError, and ValueError for what the format's reader refuses.
Reader = Callable[[ObjectBytes, str, int], Column]
READERS: Mapping[str, Reader] = {
    "npz": _npz,
    "parquet": _parquet,
    "safetensors": _safetensors,
}
