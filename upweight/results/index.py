"""numpy's indexing of an array that is elsewhere: which rows to fetch, and how to index what comes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.schema.rows import MAXIMUM_PARTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Local = int | slice | NDArray[np.intp]

LARGEST_QUERY = 4000  # characters of one selection: URLs have to stay short


@dataclass(frozen=True)
class Picked:
    """What an index wants of one axis: rows in ascending order, and the index that is left to numpy."""

    rows: range | tuple[int, ...]
    local: Local

    def selections(self, total: int) -> Iterator[str | None]:
        """The rows as selections of the contract's grammar, several where one would be too long."""
        if self.rows == range(total):
            yield None
            return
        parts = [_part(run) for run in _runs(self.rows)]
        while parts:
            size, used = 0, 0
            while used < min(len(parts), MAXIMUM_PARTS) and size < LARGEST_QUERY:
                size += len(parts[used]) + 1
                used += 1
            yield ",".join(parts[:used])
            parts = parts[used:]


@dataclass(frozen=True)
class Index:
    """An index into an array of some shape: what to fetch of its first axes, and what to do locally then."""

    picked: tuple[Picked, ...]
    local: tuple[Local | Any, ...]

    @property
    def empty(self) -> bool:
        return any(len(axis.rows) == 0 for axis in self.picked)


def index_of(key: Any, shape: Sequence[int], axes: int) -> Index:
    """Splits `key`: the first `axes` axes are picked by the service, the rest is indexed here."""
    full = _expanded(key, len(shape))
    picked = tuple(
        _pick(part, size, axis)
        for axis, (part, size) in enumerate(zip(full[:axes], shape, strict=False))
    )
    return Index(picked, (*(axis.local for axis in picked), *full[axes:]))


def _expanded(key: Any, dimensions: int) -> tuple[Any, ...]:
    parts = key if isinstance(key, tuple) else (key,)
    if any(part is None for part in parts):
        raise IndexError("new axes can't be made here; take the array first: np.asarray(...)")
    dots = [at for at, part in enumerate(parts) if isinstance(part, EllipsisType)]
    if len(dots) > 1:
        raise IndexError("an index can have one ellipsis ('...') only")
    if len(parts) - len(dots) > dimensions:
        raise IndexError(f"too many indices: there are {dimensions} axes, {len(parts)} were given")
    at = dots[0] if dots else len(parts)
    fill = (slice(None),) * (dimensions - len(parts) + len(dots))
    return (*parts[:at], *fill, *parts[at + 1 :])


def _pick(part: Any, size: int, axis: int) -> Picked:
    if isinstance(part, slice):
        return _pick_slice(range(size)[part])
    if isinstance(part, list | tuple | np.ndarray | range):
        return _pick_list(np.asarray(part), size, axis)
    try:
        position = operator.index(part)
    except TypeError:
        raise IndexError(
            f"rows are picked by integers, slices, or lists of those; not by {type(part).__name__}"
        ) from None
    row = _row(position, size, axis)
    return Picked(range(row, row + 1), 0)


def _pick_slice(rows: range) -> Picked:
    if rows.step > 0:
        return Picked(rows, slice(None))
    return Picked(rows[::-1], slice(None, None, -1))


def _pick_list(values: NDArray[Any], size: int, axis: int) -> Picked:
    if values.dtype == bool:
        if values.shape != (size,):
            raise IndexError(f"the mask has shape {values.shape}; axis {axis} has {size} entries")
        values = np.flatnonzero(values)
    if values.size == 0:
        return Picked((), np.empty(values.shape, np.intp))
    if values.dtype.kind not in "iu":
        raise IndexError(f"rows are integers; these are {values.dtype}")
    rows = [_row(int(value), size, axis) for value in values.ravel()]
    unique, inverse = np.unique(rows, return_inverse=True)
    # The list's own shape stays: so `np.ix_` picks crossings here as it does in numpy.
    return Picked(tuple(unique.tolist()), inverse.reshape(values.shape).astype(np.intp))


def _row(position: int, size: int, axis: int) -> int:
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of bounds for axis {axis} with size {size}")
    return position % size


def _runs(rows: range | tuple[int, ...]) -> Iterator[range]:
    """Ascending rows as few ranges as neighbours allow."""
    if isinstance(rows, range):
        if rows:
            yield rows
        return
    start = previous = rows[0]
    for row in rows[1:]:
        if row != previous + 1:
            yield range(start, previous + 1)
            start = row
        previous = row
    yield range(start, previous + 1)


def _part(run: range) -> str:
    if len(run) == 1:
        return str(run[0])
    step = f":{run.step}" if run.step != 1 else ""
    return f"{run[0]}:{run[-1] + 1}{step}"
