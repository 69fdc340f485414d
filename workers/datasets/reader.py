"""A dataset's rows as tensors in memory: any run of rows of any column, from whichever shards they lie in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from service.datasets.sources import Source
from upweight.schema import DatasetRecord
from workers.datasets.disk_cache import BlockCache
from workers.datasets.shards import Shard, open_shard, rejecting
from workers.engine.progress import Progress, silent

_ASKED_AT_ONCE = 16
_OPEN_SHARDS = 4  # each holds its header, and for formats that are unpacked a block a column
_BLOCK_BYTES = 16 * 1024**2


class DatasetReader:
    """Reads a checked dataset. Any threads may use it; they take turns."""

    def __init__(
        self, record: DatasetRecord, sources: Sequence[Source], cache: BlockCache | None
    ) -> None:
        self.record = record
        self._sources = sources
        self._cache = cache
        self._ends = np.cumsum([0, *record.shard_rows])
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._turn = Lock()
        self.shapes = {
            column.name: tuple(int(length or 0) for length in column.shape)
            for column in record.columns
        }
        self.dtypes = {column.name: tensor_dtype(column.dtype) for column in record.columns}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._ends[-1])

    @property
    def row_bytes(self) -> int:
        """Of one row of all columns, as tensors."""
        return sum(
            torch.empty((1, *shape), dtype=self.dtypes[name], device="meta").nbytes
            for name, shape in self.shapes.items()
        )

    def require_unchanged(self) -> None:
        """Raises Rejected when a file by `uri` has gone or been written anew."""
        if self.record.uri is not None:
            with ThreadPoolExecutor(min(_ASKED_AT_ONCE, len(self._sources))) as pool:
                list(pool.map(self._require_unchanged, self._sources))

    def _require_unchanged(self, source: Source) -> None:
        with rejecting(source, self.record.format):
            source.require_unchanged()

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a column. Raises Rejected when a shard has gone, changed or turned out damaged."""
        with self._turn:
            parts = [
                np.array(part, dtype=_native(part.dtype), order="C")
                for part in self._parts(name, start, stop)
            ]
        if not parts:
            return torch.empty((0, *self.shapes[name]), dtype=self.dtypes[name])
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _parts(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        while start < stop:
            number = int(np.searchsorted(self._ends, start, side="right")) - 1
            begin, end = int(self._ends[number]), min(stop, int(self._ends[number + 1]))
            with rejecting(self._sources[number], self.record.format):
                yield self._shard(number).read(name, start - begin, end - begin)
            start = end

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = open_shard(self._sources[number], self.record.format, self._cache)
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]


# torch computes with few unsigned types; what it lacks is widened without loss where it can be.
_WIDER: dict[np.dtype[np.generic], np.dtype[np.generic]] = {
    np.dtype("uint16"): np.dtype("int32"),
    np.dtype("uint32"): np.dtype("int64"),
    np.dtype("uint64"): np.dtype("int64"),
}


def _native(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return _WIDER.get(dtype.newbyteorder("="), dtype.newbyteorder("="))


def tensor_dtype(name: str) -> torch.dtype:
    """Of the tensor that a column of this NumPy dtype becomes."""
    return torch.from_numpy(np.empty(0, _native(np.dtype(name)))).dtype


def load_columns(
    reader: DatasetReader, device: torch.device, progress: Progress = silent
) -> dict[str, Tensor]:
    """All rows of the inputs and targets, as they are stored. Raises Rejected when a shard has gone or changed."""
    columns = {
        name: torch.empty((reader.rows, *shape), dtype=reader.dtypes[name], device=device)
        for name, shape in reader.shapes.items()
    }
    for name, column in columns.items():
        step = max(1, _BLOCK_BYTES // max(1, column[:1].nbytes))
        for start in range(0, reader.rows, step):
            stop = min(start + step, reader.rows)
            column[start:stop] = reader.read(name, start, stop)
            progress("read rows", stop, reader.rows, f"rows of {name}")
    return columns
