"""Slices of what a result stored: the matrix, the mean, the factors, the arrays of the info."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod

import numpy as np

from service.answers.formats import Array, Numbers
from service.results.stored import Layers, StoredResult
from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.row_blocks import RowBlocks
from service.storage.tensors import BadTensors, TensorEntry, read_header
from upweight.errors import InternalError, NotStored

MEAN = "mean"
RESCALED = "rescaled"
SELF_INFLUENCES = "self_influences"


def influences(
    result: StoredResult, layers: Layers, test: Sequence[int], train: Sequence[int]
) -> Numbers:
    """Rows `test` and columns `train` of the matrix, of each λ. Raises NotStored."""
    result.require("matrix")
    trailing = result.influence_shape[2:]
    return _of_matrix(result, result.paths.influences, layers, test, train, trailing)


def _of_matrix(
    result: StoredResult,
    path: str,
    layers: Layers,
    test: Sequence[int],
    train: Sequence[int],
    trailing: Sequence[int],
) -> Numbers:
    limit = result.parts.settings.slice_bytes
    matrices = [Chunks.open(result.objects, path, layer) for layer in layers.each]
    if not matrices:
        return _stacked([], layers, (len(test), len(train), *trailing), result)
    shape = (len(test), len(train), *matrices[0].shape[2:])
    found = [
        Numbers(shape, each.dtype, each.blocks(test, train, limit), each.pieces(test, train, limit))
        for each in matrices
    ]
    return _stacked(found, layers, shape, result)


def parts(
    result: StoredResult, by: str, layers: Layers, test: Sequence[int], train: Sequence[int]
) -> Numbers:
    """The parts of the influences of rows `test` and columns `train`, (rows, columns, parts…), of each λ. Raises
    NotStored."""
    if not result.has(f"by_{by}"):
        raise NotStored(
            f"job {result.job.id} stored no scores by {by}; start one with 'scores_by': {by!r}"
        )
    return _of_matrix(result, result.paths.scores_by, layers, test, train, result.part_shape)


def mean(result: StoredResult, layers: Layers) -> Numbers:
    """The mean influence of each training row: (n,), of each λ. Computed from the matrix when only that was stored."""
    shape = tuple(result.influence_shape[1:])
    if result.has(MEAN):
        step, rows = result.layout.mean_rows, result.influence_shape[1]
        found = [
            _rows_of(result, result.paths.mean, name, step, rows) for name in layers.named(MEAN)
        ]
        return _stacked(found, layers, shape, result)
    if not result.has("matrix"):
        result.require(MEAN)
    found = [
        Numbers(shape, np.dtype(result.summary.dtype), _means(result, layer))
        for layer in layers.each
    ]
    return _stacked(found, layers, shape, result)


def _means(result: StoredResult, layer: int | None) -> Iterator[Array]:
    """From some columns of the matrix at a time."""
    rows, columns, *trailing = result.influence_shape
    item = np.dtype(result.summary.dtype).itemsize * prod(trailing)
    step = max(1, result.parts.settings.slice_bytes // item)
    one = Layers(None if layer is None else [layer], axis=False)
    for start in range(0, columns, step):
        here = range(start, min(start + step, columns))
        total = np.zeros((len(here), *trailing), np.float64)
        for block in influences(result, one, range(rows), here).blocks:
            total += block.sum(axis=0, dtype=np.float64)
        yield (total / max(1, rows)).astype(result.summary.dtype)


def rescaled(result: StoredResult, layers: Layers) -> Numbers:
    """What removing sets of training rows does at the curvature without them: (rows, sets), of each λ."""
    if not result.has(RESCALED):
        raise NotStored(
            f"job {result.job.id} removed no sets of rows; start one with 'groups' and 'rescale'"
        )
    rows, columns = result.influence_shape[:2]
    found = [
        _rows_of(result, result.paths.rescaled, name, rows, rows) for name in layers.named(RESCALED)
    ]
    return _stacked(found, layers, (rows, columns), result)


def self_influences(result: StoredResult, layers: Layers) -> Numbers:
    """The influence of each training row on itself: (n,), of each λ. Raises NotStored."""
    result.require(SELF_INFLUENCES)
    folder, step = result.paths.self_influences, result.layout.self_influence_rows
    rows = result.influence_shape[-1]
    found = [_rows_of(result, folder, name, step, rows) for name in layers.named(SELF_INFLUENCES)]
    return _stacked(found, layers, (rows,), result)


def vectors(result: StoredResult, name: str, layers: Layers, rows: Sequence[int]) -> Numbers:
    """Rows of factors, gradients or products: (rows, p), of each λ. Raises NotStored."""
    result.require(name)
    folder = result.layout.factors or getattr(result.paths, name)
    total, size = result.factor_shape
    step = result.layout.factor_rows
    found = [_rows_of(result, folder, each, step, total, rows) for each in layers.named(name)]
    return _stacked(found, layers, (len(rows), size), result)


def kept_top(result: StoredResult, layers: Layers, test: int, sign: str) -> tuple[Array, Array]:
    """Columns and values, (k,) each, that were kept of one test row with one λ. Raises NotStored."""
    result.require("top")
    step, rows = result.layout.top_rows, result.influence_shape[0]
    (columns,), (values,) = (
        [
            _rows_of(result, result.paths.top, name, step, rows, [test]).whole()[0]
            for name in layers.named(f"{sign}_{part}")
        ]
        for part in ("columns", "values")
    )
    return columns, values


def _stacked(
    found: Sequence[Numbers], layers: Layers, shape: tuple[int, ...], result: StoredResult
) -> Numbers:
    """One after the other along a first axis λ; without that axis, the only one."""
    if not layers.axis:
        return found[0]
    dtype = found[0].dtype if found else np.dtype(result.summary.dtype)
    return Numbers(
        (len(found), *shape),
        dtype,
        chain.from_iterable(each.blocks for each in found),
        chain.from_iterable(each.pieces or each.blocks for each in found),
        flat=True,
    )


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
