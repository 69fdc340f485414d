"""The check of a dataset before it is `ready`: columns, shapes, dtypes, row counts, and no NaN anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from service.datasets.preview_fit import unfit
from service.datasets.sources import Source
from upweight.errors import Rejected, UpweightError
from upweight.schema import ColumnSpec, DatasetRecord, MetadataSpec
from workers.checks.ids import Ids
from workers.checks.metadata import Metadata
from workers.datasets.arrays import Array
from workers.datasets.disk_cache import BlockCache
from workers.datasets.reader import DatasetReader
from workers.datasets.shards import Shard, open_shard, rejecting

_BLOCK_BYTES = 8 * 1024**2  # what is looked at takes a few times as much
_NAMES_SHOWN = 100
_KINDS = "fiub"  # floats, signed and unsigned integers, booleans
_ITEM_BYTES = 8
_LARGEST = 2**63 - 1
Read = Callable[[str, int, int], Array]  # a column's rows from one to another


@dataclass(frozen=True)
class DatasetReport:
    """What the check found."""

    shard_rows: list[int]
    columns: list[ColumnSpec]
    id_kind: str | None = None
    metadata: list[MetadataSpec] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)


def check_dataset(
    record: DatasetRecord,
    sources: Sequence[Source],
    cache: BlockCache | None,
    row_limit: int,
    checkpoint: Callable[[int, int], None],
) -> DatasetReport:
    """Reads every shard once. `checkpoint(shards done, shards)` is called between blocks. Raises Rejected."""
    names = [*record.inputs, *record.targets]
    pointers = {name: _pointer(record, name) for name in names}
    found: dict[str, _Column] = {}
    shard_rows: list[int] = []
    ids = (
        None
        if record.ids is None
        else Ids(record.ids, lambda source: open_shard(source, record.format, cache))
    )
    beside = [Metadata(name, at) for at, name in enumerate(record.metadata)]
    for number, source in enumerate(sources):
        shard = open_shard(source, record.format, cache)
        with rejecting(source, record.format):
            rows = _rows(shard, names, pointers, source)
            if number == 0:
                found = {name: _Column.first(shard, name, pointers[name]) for name in names}
                # Before hours of reading.
                _refuse_unfit_preview(record, [column.spec() for column in found.values()])
                for name, features in record.features.items():
                    found[name].require_features(features)
                _expect_names(record, found)
            done = partial(checkpoint, number, len(sources))
            for column in found.values():
                column.require_alike(shard, source)
                column.read(shard.read, sum(shard_rows), rows, done)
            if ids is not None:
                ids.read(shard, source, rows, partial(checkpoint, number, len(sources)))
            for each in beside:
                each.read(shard, source, rows, partial(checkpoint, number, len(sources)))
        shard_rows.append(rows)
    pointer = sources[0].pointer if record.uri else "/blobs"
    id_kind = ids.concluded() if ids is not None else None
    if sum(shard_rows) == 0:
        raise Rejected.field(pointer, "the dataset has no rows", None)
    if sum(shard_rows) > row_limit:
        raise Rejected.field(
            pointer, f"the dataset has {sum(shard_rows)} rows; the limit is {row_limit}", None
        )
    columns = [found[name].spec() for name in names]
    return DatasetReport(shard_rows, columns, id_kind, [each.spec() for each in beside])


def check_view(reader: DatasetReader, checkpoint: Callable[[int, int], None]) -> DatasetReport:
    """A derived dataset's columns as its rows and labels have them; what its shards hold has been checked before."""
    record = reader.record
    columns = []
    for number, spec in enumerate(record.columns):
        shape = tuple(int(length or 0) for length in spec.shape)
        column = _Column(spec.name, _pointer(record, spec.name), np.dtype(spec.dtype), shape)
        column.read(reader.stored, 0, reader.rows, partial(checkpoint, number, len(record.columns)))
        columns.append(column.spec())
    return DatasetReport(record.shard_rows, columns, record.id_kind, record.metadata_columns)


def _refuse_unfit_preview(record: DatasetRecord, columns: Sequence[ColumnSpec]) -> None:
    if record.preview is None:
        return
    error = unfit(record.preview, [column.name for column in columns], columns)
    if error is not None:
        raise Rejected(error.detail, errors=[error])


def _expect_names(record: DatasetRecord, found: Mapping[str, _Column]) -> None:
    """Labels are the one target of whole numbers."""
    labels = [found[name] for name in record.targets if found[name].dtype.kind in "iu"]
    if record.class_names and len(labels) == 1:
        labels[0].named = len(record.class_names)


def _pointer(record: DatasetRecord, name: str) -> str:
    if name in record.inputs:
        return f"/inputs/{record.inputs.index(name)}"
    return f"/targets/{record.targets.index(name)}"


def _rows(shard: Shard, names: Sequence[str], pointers: dict[str, str], source: Source) -> int:
    where = source.pointer if source.file is None else repr(source.label)
    counts = {}
    for name in names:
        if name not in shard.names:
            there = ", ".join(sorted(shard.names)[:_NAMES_SHOWN]) or "none"
            raise Rejected.field(
                pointers[name], f"there is no column {name!r} in {where}; it has {there}", name
            )
        shape = shard.shape(name).shape
        if not shape:
            raise Rejected.field(
                pointers[name],
                f"column {name!r} is a single number; its first axis must be the row",
                name,
            )
        counts[name] = shape[0]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise Rejected.field(
            source.pointer,
            f"the columns of a shard must have the same number of rows: {listed}",
            None,
        )
    return next(iter(counts.values()))


class _Column:
    """One column as the shards so far have shown it."""

    def __init__(
        self, name: str, pointer: str, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self.name, self.pointer, self.dtype, self.shape = name, pointer, dtype, shape
        self.minimum: float | None = None
        self.maximum: float | None = None
        self.named: int | None = None  # of labels: how many have a name
        self._nameless: float | None = None
        self._rounding = _Rounding() if dtype == np.float64 else None

    @classmethod
    def first(cls, shard: Shard, name: str, pointer: str) -> _Column:
        column = shard.shape(name)
        dtype = column.dtype.newbyteorder("=")
        if dtype.kind not in _KINDS or dtype.itemsize > _ITEM_BYTES:
            raise Rejected.field(
                pointer,
                f"column {name!r} is {'text' if dtype.kind in 'US' else f'of {dtype}'}; numbers are needed"
                f"{_way_out(dtype)}",
                str(dtype),
            )
        return cls(name, pointer, dtype, column.shape[1:])

    def require_alike(self, shard: Shard, source: Source) -> None:
        column = shard.shape(self.name)
        if (column.dtype.newbyteorder("="), column.shape[1:]) != (self.dtype, self.shape):
            raise Rejected.field(
                source.pointer,
                f"column {self.name!r} is {column.dtype} {list(column.shape[1:])} a row "
                f"{'here' if source.file is None else f'in {source.label!r}'}, "
                f"but {self.dtype} {list(self.shape)} in the first shard",
                None,
            )

    def require_features(self, names: Sequence[str]) -> None:
        if not self.shape or self.shape[-1] != len(names):
            raise Rejected.field(
                "/features",
                f"column {self.name!r} has {len(names)} names of features, and its rows have shape "
                f"{list(self.shape)}; name each number along the last axis, or none",
                len(names),
            )

    def read(self, read: Read, before: int, rows: int, checkpoint: Callable[[], None]) -> None:
        row_bytes = max(1, prod(self.shape) * self.dtype.itemsize)
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, rows, step):
            checkpoint()
            block = read(self.name, start, min(start + step, rows))
            self._require_finite(block, before + start)
            self._require_signed(block, before + start)
            self._require_names(block, before + start)
            self._widen(block)
            if self._rounding is not None:
                self._rounding.look(block)

    def _require_finite(self, block: Array, before: int) -> None:
        if self.dtype.kind != "f":
            return
        bad = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if bad.any():
            row = before + int(np.argmax(bad))
            raise self._refused(
                f"column {self.name!r} has NaN or infinity in row {row}; remove or correct these rows",
                row,
            )

    def _require_signed(self, block: Array, before: int) -> None:
        """Workers compute with signed whole numbers."""
        if self.dtype != np.uint64 or not block.size or int(block.max()) <= _LARGEST:
            return
        row = before + int(np.argmax((block > _LARGEST).reshape(len(block), -1).any(axis=1)))
        raise self._refused(
            f"column {self.name!r} has a number over {_LARGEST} in row {row}; store it as float64, or correct it",
            row,
        )

    def _require_names(self, block: Array, before: int) -> None:
        """Of one label more than those with a name only a loss knows whether it is ignored: jobs refuse it."""
        if self.named is None:
            return
        flat = block.reshape(len(block), -1)
        beyond = flat >= self.named
        if not beyond.any():
            return
        if self._nameless is None:
            self._nameless = flat[beyond][0]
        others = beyond & (flat != self._nameless)
        if others.any():
            row = before + int(np.argmax(others.any(axis=1)))
            label = int(flat[others][0])
            words = (
                f"column {self.name!r} has the label {label} in row {row}, and there are names for the labels 0 to "
                f"{self.named - 1}: give one for each label, in the order of the model's outputs, or none"
            )
            raise Rejected.field("/class_names", words, self.named)

    def _widen(self, block: Array) -> None:
        if block.size == 0:
            return
        low, high = float(block.min()), float(block.max())
        self.minimum = low if self.minimum is None else min(low, self.minimum)
        self.maximum = high if self.maximum is None else max(high, self.maximum)

    def _refused(self, detail: str, value: object) -> UpweightError:
        return Rejected.field(self.pointer, detail, value)

    def spec(self) -> ColumnSpec:
        return ColumnSpec(
            name=self.name,
            dtype=str(self.dtype),
            shape=list(self.shape),
            minimum=self.minimum,
            maximum=self.maximum,
            float32_loss=None if self._rounding is None else self._rounding.worst(),
        )


class _Rounding:
    """What float32 would take from a float64 column, feature by feature."""

    def __init__(self) -> None:
        self._low: Array | None = None
        self._high: Array | None = None
        self._most: Array | None = None

    def look(self, block: Array) -> None:
        """At some rows (b, …) more."""
        if not block.size:
            return
        rows = block.reshape(len(block), -1)
        with np.errstate(over="ignore"):
            most = np.abs(rows - rows.astype(np.float32)).max(0)
        low, high = rows.min(0), rows.max(0)
        self._low = low if self._low is None else np.minimum(low, self._low)
        self._high = high if self._high is None else np.maximum(high, self._high)
        self._most = most if self._most is None else np.maximum(most, self._most)

    def worst(self) -> float | None:
        """The most that a value is rounded by, as a part of its feature's range; None where nothing varies."""
        if self._low is None or self._high is None or self._most is None:
            return None
        spread = self._high - self._low
        varies = (spread > 0) & np.isfinite(spread)
        if not varies.any():
            return None
        return float(min((self._most[varies] / spread[varies]).max(), 1.0))


def _way_out(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "US":
        return ": words are stored as class numbers (with 'class_names'), as token ids, or in 'metadata' or 'ids'"
    if dtype.kind == "c":
        return ": store real and imaginary parts along an axis, or as columns of their own"
    if dtype.kind == "f":
        return ": store it as float64"
    return ""
