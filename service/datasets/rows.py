"""Rows of a dataset, as previews ask for them: some rows of some columns, from whichever shards they lie in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from service.answers.formats import Numbers, as_json
from service.datasets.columns import READERS, Array, Column
from service.datasets.ids import ids_in, joined, plain, values_in
from service.datasets.sources import Source, sources_of
from service.datasets.views import View, view_of
from service.parts import Parts
from service.storage.failures import Changed
from upweight.errors import Conflict, InvalidRequest, NotFound, NotReady
from upweight.schema import CheckState, ColumnSpec, DatasetRecord, DatasetRows

_IDS_AT_ONCE = 50_000


@dataclass(frozen=True)
class ShardedRows:
    """A dataset whose rows can be read."""

    parts: Parts
    dataset: DatasetRecord
    sources: Sequence[Source]
    view: View | None = None
    _opened: dict[tuple[str, int], Column] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Parts, namespace: str, dataset: DatasetRecord) -> ShardedRows:
        """Raises NotReady, and InvalidRequest when its uri is not allowed any more."""
        if dataset.state is not CheckState.READY:
            raise NotReady(f"dataset {dataset.id} is {dataset.state}; only a ready one has rows")
        return cls(
            parts,
            dataset,
            sources_of(dataset, parts.objects, namespace, parts.settings),
            view_of(dataset, parts.objects, namespace),
        )

    def chosen(self, names: Sequence[str]) -> list[ColumnSpec]:
        """The columns of these names; all when there are none. Raises InvalidRequest."""
        columns = {column.name: column for column in self.dataset.columns}
        beside = [*self.dataset.metadata, *([self.dataset.ids] if self.dataset.ids else [])]
        if len(names) == 1 and names[0] in beside:
            return [self._beside(names[0])]
        for name in names:
            if name not in columns:
                raise InvalidRequest.field(
                    "query:column",
                    f"there is no column {name!r}; there are {', '.join([*columns, *beside])}"
                    + (f", and {name!r} is asked for alone" if name in beside else ""),
                    name,
                )
        return [columns[name] for name in dict.fromkeys(names)] or list(columns.values())

    def _beside(self, name: str) -> ColumnSpec:
        """Ids or metadata as they are stored; texts with the bytes of the longest."""
        ends = np.cumsum([0, *self.dataset.shard_rows])
        some = self._stored(name, ends[:-1][np.diff(ends) > 0])
        return ColumnSpec(name=name, dtype=str(some.dtype), shape=list(some.shape[1:]))

    def numbers(self, column: ColumnSpec, rows: Sequence[int]) -> Numbers:
        """Rows of one column, in blocks of bounded size."""
        shape = tuple(int(length or 0) for length in column.shape)
        dtype = np.dtype(column.dtype)
        row_bytes = max(1, prod(shape) * dtype.itemsize)
        step = max(1, self.parts.settings.slice_bytes // row_bytes)
        blocks = (
            _as_wide(plain(block), shape).astype(dtype, copy=False)  # in this machine's byte order
            for block in self._blocks(column.name, rows, step)
        )
        return Numbers((len(rows), *shape), dtype, blocks)

    def ids(self, rows: Sequence[int]) -> list[int | str]:
        """Of these rows; where the dataset has no ids, the rows' own numbers."""
        if self.dataset.ids is None:
            return list(rows)
        blocks = self._blocks(self.dataset.ids, rows, _IDS_AT_ONCE)
        return [id for block in blocks for id in ids_in(block)]

    def values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Of a column with one value a row, metadata or a target, in Python's own kinds."""
        blocks = self._blocks(name, rows, _IDS_AT_ONCE)
        return [value for block in blocks for value in values_in(block)]

    def rows_of(self, ids: Iterable[int | str]) -> dict[int | str, int]:
        """The rows that have these ids, as far as there are such; all ids are read once, some at a time."""
        wanted = set(ids)
        found: dict[int | str, int] = {}
        total = self.dataset.rows or 0
        for start in range(0, total, _IDS_AT_ONCE):
            if len(found) == len(wanted):
                break
            some = range(start, min(start + _IDS_AT_ONCE, total))
            here = zip(self.ids(some), some, strict=True)
            found.update({id: row for id, row in here if id in wanted})
        return found

    def as_json(self, columns: Sequence[ColumnSpec], rows: Sequence[int]) -> DatasetRows:
        """Rows of several columns, for few numbers."""
        values = {column.name: as_json(self.numbers(column, rows).whole()) for column in columns}
        ids = None if self.dataset.ids is None else self.ids(rows)
        metadata = {name: self.values(name, rows) for name in self.dataset.metadata}
        return DatasetRows(
            dataset=self.dataset.id, rows=list(rows), ids=ids, columns=values, metadata=metadata
        )

    def _blocks(self, name: str, rows: Sequence[int], step: int) -> Iterator[Array]:
        for start in range(0, len(rows), step):
            yield self._block(name, np.asarray(rows[start : start + step], dtype=np.int64))

    def _block(self, name: str, rows: Array) -> Array:
        if self.view is None:
            return self._stored(name, rows)
        stored = self.view.stored_rows(rows)
        values = self._stored(name, stored)
        return self.view.relabelled(stored, values) if name in self.dataset.targets else values

    def _stored(self, name: str, rows: Array) -> Array:
        ends = np.cumsum(self.dataset.shard_rows)
        wanted, order = np.unique(rows, return_inverse=True)
        shards = np.searchsorted(ends, wanted, side="right")
        pieces = [
            self._read(name, int(shard), wanted[shards == shard] - int(ends[shard]))
            for shard in np.unique(shards)
        ]
        return joined(pieces)[order] if pieces else np.empty(0)

    def _read(self, name: str, shard: int, from_end: Array) -> Array:
        """Rows of a shard, counted from its end, as negative numbers."""
        source = self.sources[shard]
        try:
            key = (name, shard)
            if key not in self._opened:
                self._opened.clear()  # one unpacked column at a time
                self._opened[key] = READERS[self.dataset.format](
                    source.open(), name, self.parts.settings.preview_bytes
                )
            return self._opened[key].read(from_end + self.dataset.shard_rows[shard])
        except FileNotFoundError:
            raise NotFound(source.gone) from None
        except Changed:
            raise Conflict(source.changed) from None
        except (KeyError, ValueError) as error:
            raise InvalidRequest.field(
                "query:rows", f"shard {shard} can't be read by rows: {error}", name
            ) from None


def _as_wide(block: Array, shape: tuple[int, ...]) -> Array:
    """Texts of some rows with as many bytes as all have."""
    if block.ndim != 2 or len(shape) != 1 or block.shape[1] >= shape[0]:
        return block
    return np.pad(block, ((0, 0), (0, shape[0] - block.shape[1])))
