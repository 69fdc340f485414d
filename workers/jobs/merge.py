"""What blocks leave behind, brought together: exactly, and in memory that one block bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

_SUMMED = ("right_hand_sides", "passes")
_WEIGHED = ("mean_change_percent", "curvature_share")
_GROWTH = 3  # columns looked at together, against those before
_ROWS_AT_ONCE = 32
_MANY = 8  # times k: more in the mean of the rows are sorted as they are


class Ranking:
    """The k largest and k smallest of each row, merged block by block; ties go to the lower column."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._seen = 0  # columns
        self._best: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, start: int, block: Tensor) -> None:
        """Columns [start, start + b) of (m, b); blocks come in the order of their columns.

        In pieces, each a few times what was seen before: a piece is sorted for what is better than all of that.
        """
        position = 0
        while position < block.shape[1]:
            piece = block[:, position : position + max(self._k, _GROWTH * self._seen)]
            for name, largest in (("helpful", True), ("harmful", False)):
                self._add(name, largest, start + position, piece)
            self._seen += piece.shape[1]
            position += piece.shape[1]

    def _add(self, name: str, largest: bool, start: int, piece: Tensor) -> None:
        columns = torch.arange(start, start + piece.shape[1], device=piece.device)
        values, columns = piece, columns.expand(piece.shape)
        if self._seen >= self._k:
            values, columns = self._better(name, largest, values, columns)
        if values.shape[1]:
            self._merge(name, largest, values, columns)

    def add_ranked(self, ranked: Mapping[str, Tensor]) -> None:
        """What another ranking of later columns has found: its `tensors`. Nothing can be added by `add` after it."""
        for name, largest in (("helpful", True), ("harmful", False)):
            self._merge(name, largest, ranked[f"{name}_values"], ranked[f"{name}_columns"])

    def _better(
        self, name: str, largest: bool, values: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Those that are better than the last that was kept of their row, not as good: the lower column wins.

        Each row is filled up with what loses to all. NaN counts as better, so that whoever stores the ranking finds it.
        """
        last = self._best[name][0][:, -1:]
        better = (values <= last if largest else values >= last).logical_not_()
        if int(better.count_nonzero()) > _MANY * self._k * len(values):
            return values, columns
        rows, places = better.nonzero(as_tuple=True)  # row by row, in the order of columns
        counts = torch.bincount(rows, minlength=len(values))
        most = int(counts.max())
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        worst = -torch.inf if largest else torch.inf
        some = torch.full((len(values), most), worst, dtype=values.dtype, device=values.device)
        some[rows, within] = values[rows, places]
        where = torch.zeros(some.shape, dtype=columns.dtype, device=columns.device)
        where[rows, within] = columns[rows, places]
        return some, where

    def _merge(self, name: str, largest: bool, values: Tensor, columns: Tensor) -> None:
        if name in self._best:
            values = torch.cat([self._best[name][0], values], 1)
            columns = torch.cat([self._best[name][1], columns], 1)
        # Stable, and what was kept comes first: the lower column wins whatever the blocks.
        ordered, order = torch.sort(values, dim=1, descending=largest, stable=True)
        self._best[name] = (
            ordered[:, : self._k].clone(),
            torch.gather(columns, 1, order[:, : self._k]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """`helpful_values`, `helpful_columns`, `harmful_values`, `harmful_columns`: (m, k) each."""
        named: dict[str, Tensor] = {}
        for name, (values, columns) in self._best.items():
            named[f"{name}_values"], named[f"{name}_columns"] = values, columns
        return named


def sum_of_rows(block: Tensor) -> Tensor:
    """(b, …) in float64, on the host: the rows of (m, b, …) added up, some at a time so that they stay in the cache."""
    total = torch.zeros(block.shape[1:], dtype=torch.float64, device=block.device)
    for start in range(0, len(block), _ROWS_AT_ONCE):
        total += block[start : start + _ROWS_AT_ONCE].double().sum(0)
    return total.cpu()


def mean_of(sums: Iterable[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """(b,) from the float64 sums (b,) over blocks of test rows, added up in their order."""
    return (reduce(torch.add, sums) / rows).to(dtype)


def merged_summary(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One summary of an inversion from those of its blocks of right-hand sides."""
    first = summaries[0]
    if len(summaries) == 1:
        return dict(first)
    merged = dict(first)
    for name, value in first.items():
        values = [each[name] for each in summaries]
        if name == "statuses":
            merged[name] = _counted(values)
        elif name in _SUMMED:
            merged[name] = sum(values)
        elif name in _WEIGHED:
            weights = [each["right_hand_sides"] for each in summaries]
            pairs = zip(values, weights, strict=True)
            merged[name] = sum(value * weight for value, weight in pairs) / sum(weights)
        elif isinstance(value, bool):
            merged[name] = all(values)
        elif isinstance(value, int | float):
            merged[name] = max(values)
    return merged


def _counted(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for status, count in each.items():
            total[status] = total.get(status, 0) + count
    return total
