"""Derived datasets: which rows of the shards they have, in runs, and whose labels are others. Kept in a blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from service.storage.layout import blob_path
from service.storage.objects import Objects
from service.storage.tensors import BadTensors, read_entry, read_header, tensor_bytes
from upweight.errors import Rejected
from upweight.schema import DatasetRecord

Array = np.ndarray[Any, Any]
MAXIMUM_RUNS = 4_000_000  # of 16 bytes each


class TooManyRuns(ValueError):
    """The rows lie in more runs than a view may have."""


@dataclass(frozen=True)
class View:
    """Rows of the shards, counted through all of them, in ascending order.

    `starts`, `stops`: the runs, (runs,) each. `patched`: rows of the shards, ascending, (k,), whose label is that in
    `labels`, (k,).
    """

    starts: Array
    stops: Array
    patched: Array
    labels: Array

    @classmethod
    def whole(cls, rows: int, dtype: np.dtype[Any]) -> View:
        """All rows, with their own labels of this dtype."""
        none = np.empty(0, np.int64)
        return cls(np.array([0]), np.array([rows]), none, np.empty(0, dtype))

    @cached_property
    def _offsets(self) -> Array:
        """The view's row at which each run begins, and at last their number."""
        return np.concatenate([[0], np.cumsum(self.stops - self.starts)])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(each.nbytes for each in (self.starts, self.stops, self.patched, self.labels))

    def stored_rows(self, rows: Array) -> Array:
        """The shards' rows of the view's."""
        runs = np.searchsorted(self._offsets, rows, side="right") - 1
        found: Array = self.starts[runs] + rows - self._offsets[runs]
        return found

    def relabelled(self, stored: Array, values: Array) -> Array:
        """Labels of these rows of the shards, with those that the view replaces."""
        if not len(self.patched):
            return values
        places = np.minimum(np.searchsorted(self.patched, stored), len(self.patched) - 1)
        hit = self.patched[places] == stored
        found = np.array(values)
        found[hit] = self.labels[places[hit]].reshape(-1, *found.shape[1:])
        return found

    def without(self, starts: Array, stops: Array) -> View:
        """The same without some runs of its own rows, ascending and apart. Raises TooManyRuns."""
        starts, stops = np.append(0, stops), np.append(starts, len(self))
        there = starts < stops
        starts, stops = starts[there], stops[there]
        if len(starts):
            # A run is cut where the view's own rows are not neighbours in the shards.
            inside = self._offsets[1:-1]
            kept = np.searchsorted(starts, inside, side="right") - 1
            cuts = inside[(kept >= 0) & (inside > starts[kept]) & (inside < stops[kept])]
            starts, stops = np.sort(np.append(starts, cuts)), np.sort(np.append(stops, cuts))
        _refuse_many(len(starts))
        stored = self.stored_rows(starts)
        fewer = View(stored, stored + stops - starts, self.patched, self.labels)
        still = fewer._has(self.patched)
        return View(fewer.starts, fewer.stops, self.patched[still], self.labels[still])

    def _has(self, stored: Array) -> Array:
        if not len(self.starts):
            return np.zeros(len(stored), bool)
        runs = np.searchsorted(self.starts, stored, side="right") - 1
        found: Array = (runs >= 0) & (stored < self.stops[runs])
        return found

    def with_labels(self, rows: Array, labels: Array) -> View:
        """The same with other labels of some of its rows, each named once."""
        stored = np.append(self.stored_rows(rows), self.patched)
        # The first of equal ones stays: what is new goes before what was patched.
        patched, first = np.unique(stored, return_index=True)
        return View(self.starts, self.stops, patched, np.append(labels, self.labels)[first])

    def encoded(self) -> bytes:
        """The blob."""
        return tensor_bytes(
            {
                "starts": self.starts,
                "stops": self.stops,
                "patched": self.patched,
                "labels": self.labels,
            }
        )


def runs_of(ranges: Sequence[range]) -> tuple[Array, Array]:
    """Rows in ranges as runs, ascending and apart: starts and stops. Raises TooManyRuns."""
    starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for each in ranges:
        if each.step == 1:
            starts.append(np.array([each.start]))
            stops.append(np.array([each.stop]))
        else:
            _refuse_many(len(each))
            rows = np.arange(each.start, each.stop, each.step)
            starts.append(rows)
            stops.append(rows + 1)
    return _apart(np.concatenate(starts), np.concatenate(stops))


def _apart(starts: Array, stops: Array) -> tuple[Array, Array]:
    """Runs in ascending order; those that meet or overlap are one, and empty ones none."""
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    first = np.ones(len(starts), bool)
    first[1:] = starts[1:] > stops[:-1]
    last = np.ones(len(starts), bool)
    last[:-1] = first[1:]
    starts, stops = starts[first], stops[last]
    there = starts < stops
    return starts[there], stops[there]


def _refuse_many(runs: int) -> None:
    if runs > MAXIMUM_RUNS:
        raise TooManyRuns(f"the rows lie in {runs:,} runs, and a view has {MAXIMUM_RUNS:,} at most")


def view_of(record: DatasetRecord, objects: Objects, namespace: str) -> View | None:
    """The view of a derived dataset, None for one with shards of its own. Raises Rejected when its blob has gone."""
    if record.derived_from is None:
        return None
    path = blob_path(namespace, record.derived_from.index)
    try:
        entries = read_header(objects, path)
        found = {
            name: read_entry(objects, path, entries[name])
            for name in ("starts", "stops", "patched", "labels")
        }
    except (FileNotFoundError, KeyError, BadTensors):
        raise Rejected(
            f"what dataset {record.id} was derived by can't be read in the object storage: blob "
            f"{record.derived_from.index}; derive it again"
        ) from None
    return View(**found)
