"""A dataset's columns: checked, given their roles, cut into shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upweight.errors import InvalidRequest
from upweight.safetensors_file import Tensor, tensor_of

SHARD = 128 << 20  # bytes: enough to stream well, little enough to send again after a loss
FORMATS = {".safetensors": "safetensors", ".npz": "npz", ".parquet": "parquet"}


def columns_of(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The columns as tensors, all with the same number of rows."""
    if not arrays:
        raise InvalidRequest("a dataset needs columns: register(name, x=x_train, y=y_train)")
    columns = {name: tensor_of(name, value) for name, value in arrays.items()}
    flat = [name for name, column in columns.items() if column.array.ndim == 0]
    if flat:
        raise InvalidRequest(f"{flat[0]!r} is a single number; a column has one entry a row")
    rows = {name: len(column.array) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise InvalidRequest(f"all columns need the same number of rows; they have {rows}")
    if not next(iter(rows.values())):
        raise InvalidRequest("the columns have no rows")
    return columns


def roles(
    names: list[str], inputs: Sequence[str] | str | None, targets: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which columns are inputs and which are targets: `y` is the target unless something else is said."""
    given_in = (inputs,) if isinstance(inputs, str) else inputs
    given_out = (targets,) if isinstance(targets, str) else targets
    if given_out is None:
        given_out = [name for name in names if name == "y" and name not in (given_in or ())]
    if given_in is None:
        given_in = [name for name in names if name not in given_out]
    missing = sorted({*given_in, *given_out} - set(names))
    if missing:
        raise InvalidRequest(f"there is no column {missing[0]!r}; the columns are {names}")
    unused = [name for name in names if name not in (*given_in, *given_out)]
    if unused:
        raise InvalidRequest(
            f"column {unused[0]!r} is neither among the inputs {list(given_in)} nor the targets "
            f"{list(given_out)}; name it there or leave it out"
        )
    return tuple(given_in), tuple(given_out)


def shards(columns: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Rows of all columns together, so many that a shard has about SHARD bytes."""
    total = len(next(iter(columns.values())).array)
    size = sum(column.size for column in columns.values())
    rows = max(1, total * SHARD // max(size, 1))
    for start in range(0, total, rows):
        yield {name: column.rows(start, start + rows) for name, column in columns.items()}


def format_of(sources: Sequence[Any]) -> str:
    """The one format that the files' names tell."""
    found = set()
    for source in sources:
        name = (
            os.fspath(source)
            if isinstance(source, str | os.PathLike)
            else getattr(source, "name", "")
        )
        found.add(FORMATS.get(os.path.splitext(str(name))[1].lower()))
    format = found.pop() if len(found) == 1 else None
    if format is None:
        raise InvalidRequest(
            f"the format is not clear from the files' names; give format= one of {sorted(FORMATS.values())}"
        )
    return format
