"""The training rows that helped or harmed most: from what was kept, or from one row of the matrix."""

from __future__ import annotations

from typing import Literal

import numpy as np

from service.results.formats import Array, Numbers
from service.results.slices import SELF_INFLUENCES, influences, kept_top, mean, self_influences
from service.results.stored import StoredResult
from upweight.errors import InvalidRequest, NotStored
from upweight.schema import Ranked, Ranking

Sign = Literal["helpful", "harmful"]


def ranking(result: StoredResult, test: int | None, k: int, sign: Sign) -> Ranking:
    """The k strongest of a sign, the strongest first; without a test row by the mean, or by the influence on itself.

    Raises NotStored, InvalidRequest.
    """
    if test is None:
        alone = result.has(SELF_INFLUENCES)
        columns, values = _of_all(self_influences(result) if alone else mean(result), k, sign)
    else:
        columns, values = _of_row(result, _position(result, test), k, sign)
    rows = result.train_rows()
    items = [
        Ranked(row=rows[int(column)], column=int(column), influence=float(value))
        for column, value in zip(columns, values, strict=True)
    ]
    return Ranking(test=test, sign=sign, items=items)


def _of_all(numbers: Numbers, k: int, sign: Sign) -> tuple[Array, Array]:
    """Block by block: no more than k and a block are held."""
    _refuse_directions(numbers.shape)
    columns, values, start = np.empty(0, np.int64), np.empty(0, numbers.dtype), 0
    for block in numbers.blocks:
        columns = np.concatenate([columns, np.arange(start, start + len(block))])
        values = np.concatenate([values, block])
        start += len(block)
        best, values = strongest(values, k, sign)
        columns = columns[best]
    return columns, values


def _position(result: StoredResult, test: int) -> int:
    rows = result.influence_shape[0]
    if not 0 <= test < rows:
        raise InvalidRequest.field(
            "query:test",
            f"row {test} is not in the matrix, which has {rows}: 0 to {rows - 1}",
            test,
        )
    return test


def _of_row(result: StoredResult, test: int, k: int, sign: Sign) -> tuple[Array, Array]:
    kept = kept_top(result, test, sign) if result.has("top") else None
    if kept is not None and (k <= len(kept[0]) or len(kept[0]) == result.influence_shape[1]):
        return kept[0][:k], kept[1][:k]
    if result.has("matrix"):
        every = range(result.influence_shape[1])
        numbers = influences(result, [test], every)
        _refuse_directions(numbers.shape[1:])
        return strongest(numbers.whole()[0], k, sign)
    if kept is None:
        result.require("top")
        raise NotStored(f"job {result.job.id} stored neither 'top' nor 'matrix'")
    raise NotStored(
        f"job {result.job.id} kept the {len(kept[0])} strongest of each test row, not {k}; ask for fewer, "
        f"or start a job with keep.top={k} or keep.matrix"
    )


def _refuse_directions(shape: tuple[int, ...]) -> None:
    if len(shape) != 1:
        raise NotStored(
            "influences of type 'perturbation' have a direction for each training row and no order; read /influences"
        )


def strongest(values: Array, k: int, sign: Sign) -> tuple[Array, Array]:
    """Columns and values of the k largest (helpful) or smallest (harmful); equal ones by column, NaN left out."""
    columns = np.flatnonzero(np.isfinite(values))
    ordered = -values[columns] if sign == "helpful" else values[columns]
    if k < len(columns):
        edge = np.partition(ordered, k - 1)[k - 1]
        near = np.flatnonzero(ordered <= edge)  # with all that equal the k-th
        columns, ordered = columns[near], ordered[near]
    chosen = columns[np.lexsort((columns, ordered))][:k]
    return chosen, values[chosen]
