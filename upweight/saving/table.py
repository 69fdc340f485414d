"""An array as a table: a row a number, beside it the dataset rows that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upweight.extras import needed

BLOCK = 1 << 16  # numbers that are laid out at a time


@dataclass(frozen=True)
class Axis:
    """A dimension's name and what its positions stand for; None: they count themselves."""

    name: str
    rows: NDArray[np.int64] | None = None

    def labels(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The dataset rows at positions of the axis."""
        return positions if self.rows is None else self.rows[positions]


@dataclass(frozen=True)
class Labelled:
    """What an array's axes and its numbers are called. Axes that are not named are one: the features of an input."""

    axes: tuple[Axis, ...]
    value: str = "influence"

    def of(self, array: NDArray[Any]) -> tuple[NDArray[Any], tuple[Axis, ...]]:
        """The array with as many dimensions as there are axes."""
        if array.ndim <= len(self.axes):
            return array, self.axes
        folded = array.reshape(*array.shape[: len(self.axes)], -1)
        return folded, (*self.axes, Axis("feature"))

    def names(self, dimensions: int) -> list[str]:
        """The table's columns."""
        axes = [axis.name for axis in self.axes]
        return [*axes, *(["feature"] if dimensions > len(axes) else []), self.value]


def blocks(array: NDArray[Any], labelled: Labelled) -> Iterator[dict[str, NDArray[Any]]]:
    """The table some rows at a time, so that an array on disk is never in memory whole."""
    folded, axes = labelled.of(array)
    flat = folded.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        values = np.asarray(flat[start : start + BLOCK])
        places = np.unravel_index(np.arange(start, start + len(values)), folded.shape)
        columns = {axis.name: axis.labels(place) for axis, place in zip(axes, places, strict=True)}
        yield {**columns, labelled.value: values}


def frame(array: NDArray[Any], labelled: Labelled) -> Any:
    """A pandas DataFrame of the array's own shape: rows and columns are named by dataset rows.

    One dimension: a column. Two: a matrix. More: a row each (test, train), a column each feature.
    """
    pandas = needed("pandas", "to_pandas()")
    folded, axes = labelled.of(array)
    indices = [
        pandas.Index(axis.labels(np.arange(size)), name=axis.name)
        for axis, size in zip(axes, folded.shape, strict=True)
    ]
    if folded.ndim == 1:
        return pandas.DataFrame({labelled.value: folded}, index=indices[0])
    if folded.ndim == 2:
        return pandas.DataFrame(folded, index=indices[0], columns=indices[1])
    pairs = pandas.MultiIndex.from_product(indices[:-1])
    return pandas.DataFrame(folded.reshape(len(pairs), -1), index=pairs, columns=indices[-1])


def arrow_table(array: NDArray[Any], labelled: Labelled) -> Any:
    """A pyarrow Table: a row a number."""
    arrow = needed("pyarrow", "to_arrow()")
    schema = arrow_schema(arrow, array, labelled)
    batches = [arrow.record_batch(block, schema=schema) for block in blocks(array, labelled)]
    return arrow.Table.from_batches(batches, schema=schema)


def arrow_schema(arrow: Any, array: NDArray[Any], labelled: Labelled) -> Any:
    """The table's columns with their types."""
    *axes, value = labelled.names(array.ndim)
    fields = [(name, arrow.int64()) for name in axes]
    return arrow.schema([*fields, (value, arrow.from_numpy_dtype(array.dtype))])
