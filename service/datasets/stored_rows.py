"""Rows of a dataset from whichever shards they lie in. Workers have it, too: nothing of HTTP is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np

from service.datasets.columns import READERS, Array, Column
from service.datasets.ids import ids_in, joined, values_in
from service.datasets.sources import Source, sources_of
from service.datasets.views import View, view_of
from service.storage.failures import Changed
from service.stores import Stores
from upweight.errors import Conflict, InvalidRequest, NotFound, NotReady
from upweight.schema import CheckState, DatasetRecord

_IDS_AT_ONCE = 50_000


@dataclass(frozen=True)
class StoredRows:
    """A dataset whose rows can be read."""

    parts: Stores
    dataset: DatasetRecord
    sources: Sequence[Source]
    view: View | None = None
    _opened: dict[tuple[str, int], Column] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Stores, namespace: str, dataset: DatasetRecord) -> Self:
        """Raises NotReady, and InvalidRequest when its uri is not allowed any more."""
        if dataset.state is not CheckState.READY:
            raise NotReady(f"dataset {dataset.id} is {dataset.state}; only a ready one has rows")
        return cls(
            parts,
            dataset,
            sources_of(dataset, parts.objects, namespace, parts.settings),
            view_of(dataset, parts.objects, namespace),
        )

    def ids(self, rows: Sequence[int]) -> list[int | str]:
        """Of these rows; where the dataset has no ids, the rows' own numbers."""
        if self.dataset.ids is None:
            return list(rows)
        blocks = self._blocks(self.dataset.ids, rows, _IDS_AT_ONCE)
        return [id for block in blocks for id in ids_in(block)]

    def values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Of a column with one value a row, metadata or a target, in Python's own kinds."""
        return list(chain.from_iterable(self.values_in_blocks(name, rows)))

    def values_in_blocks(self, name: str, rows: Sequence[int]) -> Iterator[list[Any]]:
        """The same, some rows at a time."""
        return map(values_in, self._blocks(name, rows, _IDS_AT_ONCE))

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
