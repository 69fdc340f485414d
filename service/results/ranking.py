"""The training rows that helped or harmed most: from what was kept, or from one row of the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from service.answers.formats import Array, Numbers
from service.results.slices import SELF_INFLUENCES, influences, kept_top, mean, self_influences
from service.results.stored import Layers, StoredResult
from upweight.errors import InvalidRequest, NotStored
from upweight.schema import Ranked, Ranking, Sign
from upweight.schema.measurement import is_positive, usual_sign

RANKED_AT_ONCE = 1 << 18  # numbers: what ranking them takes is some times as much


def ranking(
    result: StoredResult, layers: Layers, test: int | None, k: int, asked: Sign | None
) -> Ranking:
    """The k strongest of a sign, the strongest first; without a test row by the mean, or by the influence on itself.

    Raises NotStored, InvalidRequest.
    """
    measured = result.job.request.measured
    sign = asked or usual_sign(measured)
    try:
        positive = is_positive(sign, measured)
    except ValueError as error:
        raise InvalidRequest.field("query:sign", str(error), sign) from None
    if test is None:
        alone = result.has(SELF_INFLUENCES)
        every = self_influences(result, layers) if alone else mean(result, layers)
        columns, values = _of_all(every, k, positive)
    else:
        columns, values = _of_row(result, layers, _position(result, test), k, positive)
    every_row = result.train_rows()
    rows = [every_row[int(column)] for column in columns]
    items = [
        Ranked(id=id, row=row, column=int(column), influence=float(value))
        for id, row, column, value in zip(
            result.ids("train", rows), rows, columns, values, strict=True
        )
    ]
    return Ranking(test=test, sign=sign, items=items)


def _of_all(numbers: Numbers, k: int, positive: bool) -> tuple[Array, Array]:
    refuse_directions(numbers.shape)
    return _of_pieces(numbers.blocks, numbers.dtype, k, positive)


def _of_pieces(
    pieces: Iterator[Array], dtype: np.dtype[Any], k: int, positive: bool
) -> tuple[Array, Array]:
    """Some at a time: no more than k, and a few numbers beside those that were read, are held."""
    columns, values, first = np.empty(0, np.int64), np.empty(0, dtype), 0
    for piece in pieces:
        for start in range(0, len(piece), RANKED_AT_ONCE):
            some = piece[start : start + RANKED_AT_ONCE]
            columns = np.concatenate([columns, np.arange(first, first + len(some))])
            best, values = strongest(np.concatenate([values, some]), k, positive)
            columns = columns[best]
            first += len(some)
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


def _of_row(
    result: StoredResult, layers: Layers, test: int, k: int, positive: bool
) -> tuple[Array, Array]:
    kept = (
        kept_top(result, layers, test, "helpful" if positive else "harmful")
        if result.has("top")
        else None
    )
    if kept is not None and (k <= len(kept[0]) or len(kept[0]) == result.influence_shape[1]):
        return kept[0][:k], kept[1][:k]
    if result.has("matrix"):
        every = range(result.influence_shape[1])
        numbers = influences(result, layers, [test], every)
        refuse_directions(numbers.shape[1:])
        row = (piece[0] for piece in numbers.pieces or numbers.blocks)
        return _of_pieces(row, numbers.dtype, k, positive)
    if kept is None:
        result.require("top")
        raise NotStored(f"job {result.job.id} stored neither 'top' nor 'matrix'")
    raise NotStored(
        f"job {result.job.id} kept the {len(kept[0])} strongest of each test row, not {k}; ask for fewer, "
        f"or start a job with keep.top={k} or keep.matrix"
    )


def refuse_directions(shape: tuple[int, ...]) -> None:
    """Raises NotStored where a training row has more than one number."""
    if len(shape) != 1:
        raise NotStored(
            "influences of type 'perturbation' have a direction for each training row and no order; read /influences"
        )


def strongest(values: Array, k: int, positive: bool) -> tuple[Array, Array]:
    """Columns and values of the k largest (`positive`) or smallest; equal ones by column, NaN left out."""
    columns = np.flatnonzero(np.isfinite(values))
    ordered = -values[columns] if positive else values[columns]
    if k < len(columns):
        edge = np.partition(ordered, k - 1)[k - 1]
        near = np.flatnonzero(ordered <= edge)  # with all that equal the k-th
        columns, ordered = columns[near], ordered[near]
    chosen = columns[np.lexsort((columns, ordered))][:k]
    return chosen, values[chosen]
