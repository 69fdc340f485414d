"""A dataset on its way: columns by name, some rows at a time; nothing is held whole that need not be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import upweight.late.numpy as np
from upweight.client.intake.classes import Classes
from upweight.errors import InvalidRequest
from upweight.files.safetensors_file import Tensor, tensor_of

SHARD = 128 << 20  # bytes: enough to stream well, little enough to send again after a loss
PIECES = 1000  # batches that are joined together: single rows would cost more than their bytes

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Incoming:
    """Shards in order. The rest is what the source itself says of its columns."""

    shards: Iterator[Columns]
    count: int | None = None  # of the shards, where it is known
    inputs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    preview: Any = None
    class_names: tuple[str, ...] = ()
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ids: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def whole(columns: Columns) -> Incoming:
    """Columns that are in memory, cut into shards without copies."""
    total = len(next(iter(columns.values())).array)
    rows = max(1, total * SHARD // max(sum(column.size for column in columns.values()), 1))
    parts = (
        {name: column.rows(start, start + rows) for name, column in columns.items()}
        for start in range(0, total, rows)
    )
    return Incoming(parts, -(-total // rows))


def streamed(batches: Iterable[Mapping[str, Any]], classes: Classes) -> Incoming:
    """Batches of rows, gathered until a shard is full."""
    return Incoming(_gathered(batches, classes))


def _gathered(batches: Iterable[Mapping[str, Any]], classes: Classes) -> Iterator[Columns]:
    waiting: list[Columns] = []
    pieces: list[Columns] = []
    first: Columns | None = None
    size = row = 0
    for batch in batches:
        columns = columns_of(batch, classes)
        first = first or columns
        _refuse_change(first, columns, row)
        row += len(next(iter(columns.values())).array)
        pieces.append(columns)
        size += sum(column.size for column in columns.values())
        if size >= SHARD:
            yield _joined([*waiting, *pieces])
            waiting, pieces, size = [], [], 0
        elif len(pieces) >= PIECES:
            waiting, pieces = [*waiting, _joined(pieces)], []
    if first is None:
        raise InvalidRequest("there are no rows")
    if size:
        yield _joined([*waiting, *pieces])


def _joined(parts: list[Columns]) -> Columns:
    return {
        name: Tensor(np.concatenate([part[name].array for part in parts]), column.dtype)
        for name, column in parts[0].items()
    }


def _refuse_change(first: Columns, now: Columns, row: int) -> None:
    """All rows have the columns, shapes and types of the first."""
    if first.keys() != now.keys():
        raise InvalidRequest(f"row {row} has the columns {list(now)}, row 0 has {list(first)}")
    for name, column in now.items():
        for what, was, has in (
            ("shape", first[name].array.shape[1:], column.array.shape[1:]),
            ("type", first[name].dtype, column.dtype),
        ):
            if was != has:
                raise InvalidRequest(
                    f"column {name!r} has {what} {has} at row {row}, and {was} at row 0; "
                    "all rows need the same (pad or convert them)"
                )


def columns_of(arrays: Mapping[str, Any], classes: Classes | None = None) -> Columns:
    """The columns as tensors, all with the same number of rows; words of targets as numbers of their classes."""
    if not arrays:
        raise InvalidRequest("a dataset needs columns: register(name, x=x_train, y=y_train)")
    named = {str(name): value for name, value in arrays.items()}
    if classes is not None:
        named = {name: classes.numbered(name, value) for name, value in named.items()}
    columns = {name: tensor_of(name, value) for name, value in named.items()}
    flat = [name for name, column in columns.items() if column.array.ndim == 0]
    if flat:
        raise InvalidRequest(f"{flat[0]!r} is a single number; a column has one entry a row")
    rows = {name: len(column.array) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise InvalidRequest(f"all columns need the same number of rows; they have {rows}")
    if not next(iter(rows.values())):
        raise InvalidRequest("the columns have no rows")
    return columns
