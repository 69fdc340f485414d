"""Rows one by one, or batches of them: their parts get the columns' names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

BATCH = 1000  # rows that a table is asked for at a time


def named(parts: Any, names: Sequence[str]) -> dict[str, Any]:
    """A row's or a batch's parts by column. `names`: those that the caller gave, inputs first."""
    if isinstance(parts, Mapping):
        return {str(name): value for name, value in parts.items()}
    if not isinstance(parts, tuple | list):
        parts = (parts,)
    if not names:
        names = getattr(parts, "_fields", ()) or ("x", "y")[: len(parts)]
    if len(names) != len(parts):
        raise InvalidRequest(
            f"a row has {len(parts)} parts, and there are {len(names)} names ({', '.join(names)}); "
            "name all of them in order: inputs=('x1', 'x2'), targets=('y',)"
        )
    return dict(zip(names, parts, strict=True))


def batches_of_rows(rows: Iterable[Any], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Single rows as batches of one."""
    for row in rows:
        yield {name: _one(value) for name, value in named(row, names).items()}


def batches_of_table(table: Any) -> Iterator[Mapping[str, Any]]:
    """A table that gives columns for a slice of rows, as Hugging Face's datasets do."""
    for start in range(0, len(table), BATCH):
        yield table[start : start + BATCH]


def items(rows: Any) -> Iterator[Any]:
    """The rows of a sequence by number, or of anything that can be gone through."""
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
        return (rows[at] for at in range(len(rows)))
    return iter(rows)


def _one(value: Any) -> Any:
    """An entry as a batch of one: tensors stay tensors, so that their types do."""
    if hasattr(value, "detach"):
        return value[None]
    try:
        return np.asarray(value)[None]
    except ValueError as exc:
        raise InvalidRequest(f"an entry can't be read as an array: {exc}") from exc
