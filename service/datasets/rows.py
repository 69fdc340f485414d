"""Rows of a dataset, as previews ask for them: some rows of some columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from service.answers.formats import Numbers, as_json
from service.datasets.columns import Array
from service.datasets.ids import plain
from service.datasets.stored_rows import StoredRows
from upweight.errors import InvalidRequest
from upweight.schema import ColumnSpec, DatasetRows


@dataclass(frozen=True)
class ShardedRows(StoredRows):
    """The same as answers have them."""

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

    def as_json(self, columns: Sequence[ColumnSpec], rows: Sequence[int]) -> DatasetRows:
        """Rows of several columns, for few numbers."""
        values = {column.name: as_json(self.numbers(column, rows).whole()) for column in columns}
        ids = None if self.dataset.ids is None else self.ids(rows)
        metadata = {name: self.values(name, rows) for name in self.dataset.metadata}
        return DatasetRows(
            dataset=self.dataset.id, rows=list(rows), ids=ids, columns=values, metadata=metadata
        )


def _as_wide(block: Array, shape: tuple[int, ...]) -> Array:
    """Texts of some rows with as many bytes as all have."""
    if block.ndim != 2 or len(shape) != 1 or block.shape[1] >= shape[0]:
        return block
    return np.pad(block, ((0, 0), (0, shape[0] - block.shape[1])))
