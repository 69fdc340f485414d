"""What the model made of a result's rows: by slice, or sorted, without holding more than what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from service.answers.formats import Array
from service.results.slices import tensors
from service.results.stored import StoredResult
from service.storage.tensors import TensorEntry, read_entry
from upweight.errors import NotStored
from upweight.schema import PredictedRow, PredictedRows, Rows

Side = Literal["test", "train"]
Sort = Literal[
    "position",
    "-position",
    "loss",
    "-loss",
    "error",
    "-error",
    "target",
    "-target",
    "prediction",
    "-prediction",
]
_NAMES = {"loss": "losses", "error": "errors", "target": "targets", "prediction": "predictions"}


@dataclass(frozen=True)
class _Block:
    """Rows [start, stop), stored in one object."""

    start: int
    stop: int
    path: str
    entries: dict[str, TensorEntry]


@dataclass(frozen=True)
class Predictions:
    """Those of one side of a result."""

    result: StoredResult
    side: Side

    @classmethod
    def of(cls, result: StoredResult, side: Side) -> Predictions:
        """Raises NotStored."""
        if not result.has(f"{side}_predictions"):
            raise NotStored(
                f"job {result.job.id} stored no losses and predictions of {side} rows; "
                + ("its kind has none" if side == "train" else "it has no test rows, or is older")
            )
        return cls(result, side)

    def total(self) -> int:
        """How many rows the side has."""
        return len(self._dataset_rows())

    def at(self, positions: Sequence[int]) -> PredictedRows:
        """The rows at these positions, in this order."""
        return self._answer(np.asarray(positions, dtype=np.int64))

    def ordered(self, sort: Sort, offset: int, limit: int) -> PredictedRows:
        """Rows by a key, `-` in front for the largest first; equal ones by loss, the largest first, then position.

        Raises NotStored for a key that these rows do not have.
        """
        key, descending = sort.removeprefix("-"), sort.startswith("-")
        if key == "position":
            every = range(self.total())[::-1] if descending else range(self.total())
            return self.at(every[offset : offset + limit])
        best = np.empty((3, 0))
        for block in self._blocks():
            values = self._values(block, key)
            losses = values if key == "loss" else self._values(block, "loss")
            columns = np.stack(
                [-values if descending else values, -losses, np.arange(block.start, block.stop)]
            )
            best = np.concatenate([best, columns], axis=1)
            best = best[:, np.lexsort(best[::-1])[: offset + limit]]
        return self._answer(best[2, offset:].astype(np.int64))

    def _values(self, block: _Block, key: str) -> Array:
        name = _NAMES[key]
        if name not in block.entries:
            raise NotStored(
                f"rows of job {self.result.job.id} have no single {key}; sort by loss or position"
            )
        return read_entry(self.result.objects, block.path, block.entries[name]).astype(np.float64)

    def _blocks(self) -> Iterator[_Block]:
        prefix = self.result.paths.predictions(self.side)
        for path in sorted(meta.path for meta in self.result.objects.walk(prefix)):
            start, stop = path.rpartition("/")[2].removesuffix(".safetensors").split("-")
            yield _Block(int(start), int(stop), path, tensors(self.result, path))

    def _answer(self, positions: Array) -> PredictedRows:
        found = self._read(positions)
        every = self._dataset_rows()
        rows = [every[int(position)] for position in positions]
        ids = self.result.ids(self.side, rows)
        items = [
            PredictedRow(
                id=ids[place],
                position=int(position),
                row=rows[place],
                **{
                    key: _plain(found[name][place]) for key, name in _NAMES.items() if name in found
                },
            )
            for place, position in enumerate(positions)
        ]
        return PredictedRows(side=self.side, total=len(every), items=items)

    def _read(self, positions: Array) -> dict[str, Array]:
        """Each stored array at these positions."""
        found: dict[str, Array] = {}
        for block in self._blocks():
            inside = np.flatnonzero((positions >= block.start) & (positions < block.stop))
            if not len(inside):
                continue
            first, last = int(positions[inside].min()), int(positions[inside].max())
            for name, entry in block.entries.items():
                values = read_entry(
                    self.result.objects,
                    block.path,
                    entry,
                    first - block.start,
                    last + 1 - block.start,
                )
                # Each block is stored in the smallest numbers that hold it.
                before = found.get(name, np.zeros(len(positions), entry.dtype))
                found[name] = before.astype(np.promote_types(before.dtype, entry.dtype))
                found[name][inside] = values[positions[inside] - first]
        return found

    def _dataset_rows(self) -> Rows:
        return self.result.test_rows() if self.side == "test" else self.result.train_rows()


def _plain(value: Any) -> int | float | None:
    number = value.item()
    return number if np.isfinite(number) else None
