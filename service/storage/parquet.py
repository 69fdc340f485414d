"""Columns of a Parquet file as arrays: numbers, and lists of them whose lengths are the same in every row.

Nothing else is turned into an array, and no extension type's code runs: what a column can't be is said with the way
out. A column is decoded from the beginning of a row group, some rows at a time, so memory is bounded by a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.storage.object_bytes import Unreadable

Array = np.ndarray[Any, Any]

BATCH_BYTES = 4 * 1024**2
BATCH_ROWS = 65_536
TEXT_BYTES = 4096  # of one text
ROW_BYTES = 1024**3  # larger ones are a mistake, or an attack on memory
_BUFFER_BYTES = 1024**2
_WAYS_OUT = (
    (pa.types.is_string, "is text; store class numbers or token ids"),
    (pa.types.is_large_string, "is text; store class numbers or token ids"),
    (
        pa.types.is_binary,
        "holds bytes; store pictures and sounds decoded, as lists of numbers of one length",
    ),
    (pa.types.is_decimal, "holds decimals; cast it to float64"),
    (pa.types.is_temporal, "holds times; cast it to a number, such as seconds in float64"),
    (pa.types.is_dictionary, "is dictionary-encoded; store the numbers themselves"),
    (pa.types.is_struct, "is a structure; store its fields as columns of their own"),
    (pa.types.is_map, "is a map; store what is needed of it as columns of their own"),
)


class BadParquet(Unreadable):
    """The file, or a column of it, is not one that we read; the message says why, and the way out."""


@dataclass(frozen=True)
class ParquetEntry:
    """One column: its numbers' dtype, and the shape with the rows first."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ParquetColumns:
    """The columns of an open file. Opening it reads its footer only. Raises BadParquet."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._file = pq.ParquetFile(
                file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            self._schema = self._file.schema_arrow
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadParquet(_message(error)) from None
        metadata = self._file.metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self.rows = int(self._starts[-1])
        self.names = list(self._schema.names)
        if len(set(self.names)) != len(self.names):
            raise BadParquet("two of its columns have the same name")

    def entry(self, name: str) -> ParquetEntry:
        """A column's dtype and shape. Lists' lengths are those of the first row. Raises KeyError, BadParquet."""
        if name not in self.names:
            raise KeyError(name)
        if _is_text(self._schema.field(name).type):
            return ParquetEntry(np.dtype(f"S{self._longest(name)}"), (self.rows,))
        dtype, lengths = _described(name, self._schema.field(name).type)
        first: tuple[int, ...] = ()
        if None in lengths:
            found = next(self._batches(name, 0, 1), None)
            first = _lengths_of(found[1]) if found is not None else ()
        shape = tuple(
            length if length is not None else first[axis] if axis < len(first) else 0
            for axis, length in enumerate(lengths)
        )
        if dtype.itemsize * prod(shape) > ROW_BYTES:
            raise BadParquet(f"column {name!r} has more than {ROW_BYTES} bytes in a row")
        return ParquetEntry(dtype, (self.rows, *shape))

    def blocks(self, name: str, row: int, entry: ParquetEntry) -> Iterator[tuple[int, Array]]:
        """(first row, rows) in order, from the beginning of the row group of `row`. Raises BadParquet."""
        row_bytes = max(1, entry.dtype.itemsize * prod(entry.shape[1:]))
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
        for start, values in self._batches(name, row, size):
            yield start, _dense(name, values, entry, start)

    def _longest(self, name: str) -> int:
        """Bytes of a column's longest text, at least 1."""
        found = 1
        for start, values in self._batches(name, 0, BATCH_ROWS):
            _refuse_nulls(name, values, start, 1)
            most = pc.max(pc.binary_length(_texts(values))).as_py() or 0
            found = max(found, int(most))
        if found > TEXT_BYTES:
            raise BadParquet(f"column {name!r} has a text of {found} bytes; {TEXT_BYTES} are read")
        return found

    def group_start(self, row: int) -> int:
        """The first row of the row group that holds a row."""
        return int(self._starts[self._group(row)])

    def _group(self, row: int) -> int:
        return max(0, int(np.searchsorted(self._starts, row, side="right")) - 1)

    def _batches(self, name: str, row: int, size: int) -> Iterator[tuple[int, pa.Array]]:
        group = self._group(row)
        position = int(self._starts[group])
        groups = list(range(group, len(self._starts) - 1))
        if not groups:
            return
        try:
            for batch in self._file.iter_batches(
                size, row_groups=groups, columns=[name], use_threads=False
            ):
                if len(batch):
                    yield position, batch.column(batch.schema.get_field_index(name))
                position += len(batch)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise BadParquet(f"column {name!r} is damaged: {_message(error)}") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close(force=True)


def _message(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _described(name: str, kind: pa.DataType) -> tuple[np.dtype[Any], list[int | None]]:
    """The numbers' dtype and the lengths of the axes after the row; None where the values must tell."""
    lengths: list[int | None] = []
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            raise BadParquet(
                f"column {name!r} holds tensors with permuted axes; store them in C order"
            )
        return _number(name, kind.value_type), list(kind.shape)
    while _is_list(kind):
        lengths.append(kind.list_size if pa.types.is_fixed_size_list(kind) else None)
        kind = kind.value_type
    return _number(name, kind), lengths


def _number(name: str, kind: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype())
    for is_that, words in _WAYS_OUT:
        if is_that(kind):
            raise BadParquet(f"column {name!r} {words}")
    raise BadParquet(f"column {name!r} is of type {kind}; numbers, or lists of numbers, are read")


def _is_text(kind: pa.DataType) -> bool:
    """Words, each written out or by its number in a list of them."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _texts(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )


def _lengths_of(values: pa.Array) -> tuple[int, ...]:
    """The lengths of a first row's lists, as far as there are any."""
    lengths = []
    while _is_list(values.type) and len(values) and values[0].is_valid:
        lengths.append(len(values[0]))
        values = values[:1].flatten()
    return tuple(lengths)


def _dense(name: str, values: pa.Array, entry: ParquetEntry, start: int) -> Array:
    """Rows as one array. Raises BadParquet, naming the row, for nulls and lists of another length."""
    rows, each = len(values), 1  # numbers of values that belong to one row
    if _is_text(values.type):
        _refuse_nulls(name, values, start, each)
        encoded = [text.encode() for text in _texts(values).to_pylist()]
        return np.array(encoded, entry.dtype)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
        _refuse_nulls(name, values, start, each)
        values, each = values.flatten(), prod(entry.shape[1:])
    for length in entry.shape[1:] if _is_list(values.type) else ():
        _refuse_nulls(name, values, start, each)
        found = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if (found != length).any():
            at = int(np.argmax(found != length))
            raise BadParquet(
                f"column {name!r} has a list of {found[at]} in row {start + at // each}, where the first row has "
                f"{length}; all rows must have the same lengths: pad or cut them"
            )
        values, each = values.flatten(), each * length
    _refuse_nulls(name, values, start, max(1, each))
    return values.to_numpy(zero_copy_only=False).reshape(rows, *entry.shape[1:])


def _refuse_nulls(name: str, values: pa.Array, start: int, each: int) -> None:
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise BadParquet(
            f"column {name!r} has no value in row {start + at // each}; remove such rows, or put a number there"
        )
