"""Slices of what a result stored: the matrix, the mean, the factors, the arrays of the info."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from service.results.formats import Array, Numbers
from service.results.stored import StoredResult
from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.row_blocks import RowBlocks
from service.storage.tensors import BadTensors, TensorEntry, read_header
from upweight.errors import InternalError

MEAN = "mean"
FACTORS = "factors"
SELF_INFLUENCES = "self_influences"


def influences(result: StoredResult, test: Sequence[int], train: Sequence[int]) -> Numbers:
    """Rows `test` and columns `train` of the matrix. Raises NotStored."""
    result.require("matrix")
    matrix = Chunks.open(result.objects, result.paths.influences)
    shape = (len(test), len(train), *matrix.shape[2:])
    asked = (test, train, result.parts.settings.slice_bytes)
    return Numbers(shape, matrix.dtype, matrix.blocks(*asked), matrix.pieces(*asked))


def mean(result: StoredResult) -> Numbers:
    """The mean influence of each training row: (n,). Computed from the matrix when only that was stored."""
    if result.has(MEAN):
        step = result.layout.mean_rows
        return _rows_of(result, result.paths.mean, MEAN, step, result.influence_shape[1])
    if not result.has("matrix"):
        result.require(MEAN)
    shape = tuple(result.influence_shape[1:])
    return Numbers(shape, np.dtype(result.summary.dtype), _means(result))


def _means(result: StoredResult) -> Iterator[Array]:
    """From some columns of the matrix at a time."""
    rows, columns, *trailing = result.influence_shape
    item = np.dtype(result.summary.dtype).itemsize * prod(trailing)
    step = max(1, result.parts.settings.slice_bytes // item)
    for start in range(0, columns, step):
        here = range(start, min(start + step, columns))
        total = np.zeros((len(here), *trailing), np.float64)
        for block in influences(result, range(rows), here).blocks:
            total += block.sum(axis=0, dtype=np.float64)
        yield (total / max(1, rows)).astype(result.summary.dtype)


def self_influences(result: StoredResult) -> Numbers:
    """The influence of each training row on itself: (n,). Raises NotStored."""
    result.require(SELF_INFLUENCES)
    step, rows = result.layout.self_influence_rows, result.influence_shape[0]
    return _rows_of(result, result.paths.self_influences, SELF_INFLUENCES, step, rows)


def factors(result: StoredResult, rows: Sequence[int]) -> Numbers:
    """Rows of the factors: (rows, p). Raises NotStored."""
    result.require(FACTORS)
    folder = result.layout.factors or result.paths.factors
    total = (result.summary.factor_shape or [0])[0]
    return _rows_of(result, folder, FACTORS, result.layout.factor_rows, total, rows)


def kept_top(result: StoredResult, test: int, sign: str) -> tuple[Array, Array]:
    """Columns and values, (k,) each, that were kept of one test row. Raises NotStored."""
    result.require("top")
    step, rows = result.layout.top_rows, result.influence_shape[0]
    columns, values = (
        _rows_of(result, result.paths.top, f"{sign}_{part}", step, rows, [test]).whole()[0]
        for part in ("columns", "values")
    )
    return columns, values


def _rows_of(
    result: StoredResult,
    folder: str,
    name: str,
    step: int | None,
    total: int,
    rows: Sequence[int] | None = None,
) -> Numbers:
    kept = RowBlocks(result.objects, folder, Cut(total, step or max(1, total)), name)
    chosen = range(total) if rows is None else rows
    try:
        shape, dtype = (len(chosen), *kept.shape[1:]), kept.dtype
    except (FileNotFoundError, KeyError, BadTensors) as error:
        raise InternalError(f"a stored part of the result is damaged: {error}") from error
    return Numbers(shape, dtype, kept.read(chosen, result.parts.settings.slice_bytes))


def tensors(result: StoredResult, path: str) -> dict[str, TensorEntry]:
    """What a tensors file of the result holds; nothing when it was not written."""
    try:
        return read_header(result.objects, path)
    except FileNotFoundError:
        return {}
    except BadTensors as error:
        raise InternalError(f"a stored part of the result is damaged: {error}") from error
