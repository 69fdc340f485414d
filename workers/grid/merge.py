"""What blocks leave behind, brought together: exactly, and in memory that one block bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SUMMED = ("right_hand_sides", "passes")
_WEIGHED = ("mean_change_percent",)


class Ranking:
    """The k largest and k smallest of each row, merged block by block; ties go to the lower column."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._best: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, start: int, block: Tensor) -> None:
        """Columns [start, start + b) of (m, b); blocks come in the order of their columns."""
        columns = torch.arange(start, start + block.shape[1], device=block.device)
        for name, largest in (("helpful", True), ("harmful", False)):
            self._merge(name, largest, block, columns.expand(block.shape))

    def add_ranked(self, ranked: Mapping[str, Tensor]) -> None:
        """What another ranking of later columns has found: its `tensors`."""
        for name, largest in (("helpful", True), ("harmful", False)):
            self._merge(name, largest, ranked[f"{name}_values"], ranked[f"{name}_columns"])

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


def mean_of(sums: Iterable[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """(b,) from the float64 sums (b,) over blocks of test rows, added up in their order."""
    first, *rest = sums
    total = first
    for each in rest:
        total = total + each
    return (total / rows).to(dtype)


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
