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
from service.datasets.views import View
from upweight.schema import DatasetRecord
from workers.datasets.disk_cache import BlockCache
from workers.datasets.shards import Shard, open_shard, rejecting
from workers.engine.progress import Progress, silent

_ASKED_AT_ONCE = 16
_OPEN_SHARDS = 4  # each holds its header, and for formats that are unpacked a block a column
_BLOCK_BYTES = 16 * 1024**2
_GAP_BYTES = 256 * 1024  # of a view's rows: those so near are read with what lies between them


class DatasetReader:
    """Reads a checked dataset. Any threads may use it; they take turns."""

    def __init__(
        self,
        record: DatasetRecord,
        sources: Sequence[Source],
        cache: BlockCache | None,
        view: View | None = None,
    ) -> None:
        """`view`: which of the shards' rows a derived dataset has."""
        self.record = record
        self._view = view
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
        return int(self._ends[-1]) if self._view is None else len(self._view)

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
        found = self.stored(name, start, stop)
        return torch.from_numpy(np.array(found, dtype=_native(found.dtype), order="C"))

    def stored(self, name: str, start: int, stop: int) -> np.ndarray:
        """The same in the numbers that the shards have."""
        with self._turn:
            if self._view is None:
                return self._whole(name, start, stop)
            rows = self._view.stored_rows(np.arange(start, stop))
            values = self._gathered(name, rows)
            return self._view.relabelled(rows, values) if name in self.record.targets else values

    def _gathered(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Ascending rows of the shards, near ones read together."""
        found = self._none(name, len(rows))
        row_bytes = max(1, found[:1].nbytes)
        gap, limit = max(1, _GAP_BYTES // row_bytes), max(1, _BLOCK_BYTES // row_bytes)
        far = np.append(np.flatnonzero(np.diff(rows) > gap) + 1, len(rows))
        done = 0
        while done < len(rows):
            stop = int(far[np.searchsorted(far, done, side="right")])
            stop = min(stop, int(np.searchsorted(rows, rows[done] + limit)))
            first = int(rows[done])
            run = self._whole(name, first, int(rows[stop - 1]) + 1)
            found[done:stop] = run[rows[done:stop] - first]
            done = stop
        return found

    def _none(self, name: str, rows: int) -> np.ndarray:
        dtype = next(column.dtype for column in self.record.columns if column.name == name)
        return np.empty((rows, *self.shapes[name]), np.dtype(dtype))

    def _whole(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of all that the shards have."""
        parts = list(self._parts(name, start, stop))
        if not parts:
            return self._none(name, 0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
