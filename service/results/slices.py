"""Slices of what a result stored: the matrix, the mean, the factors, the arrays of the info."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from service.results.formats import Array, Numbers
from service.results.stored import StoredResult
from service.storage.chunks import Chunks
from service.storage.tensors import BadTensors, TensorEntry, read_entry, read_header
from upweight.errors import InternalError, NotStored

MEAN = "mean"
FACTORS = "factors"
SELF_INFLUENCES = "self_influences"


def influences(result: StoredResult, test: Sequence[int], train: Sequence[int]) -> Numbers:
    """Rows `test` and columns `train` of the matrix. Raises NotStored."""
    result.require("matrix")
    matrix = Chunks.open(result.objects, result.paths.influences)
    shape = (len(test), len(train), *matrix.shape[2:])
    return Numbers(
        shape, matrix.dtype, matrix.blocks(test, train, result.parts.settings.slice_bytes)
    )


def mean(result: StoredResult) -> Array:
    """The mean influence of each training row: (n,). Computed from the matrix when only that was stored."""
    if result.has("mean"):
        entry = _entry(result.paths.mean, result, MEAN)
        return read_entry(result.objects, result.paths.mean, entry)
    if not result.has("matrix"):
        result.require("mean")
    total = np.zeros(result.influence_shape[1:], np.float64)
    rows, columns = result.influence_shape[:2]
    for block in influences(result, range(rows), range(columns)).blocks:
        total += block.sum(axis=0, dtype=np.float64)
    return (total / max(1, rows)).astype(result.summary.dtype)


def self_influences(result: StoredResult) -> Array:
    """The influence of each training row on itself: (n,). Raises NotStored."""
    result.require(SELF_INFLUENCES)
    entry = _entry(result.paths.mean, result, SELF_INFLUENCES)
    return read_entry(result.objects, result.paths.mean, entry)


def factors(result: StoredResult, path: str, name: str, rows: Sequence[int]) -> Numbers:
    """Rows of the factors: (rows, p)."""
    entry = _entry(path, result, name)
    return Numbers(
        (len(rows), *entry.shape[1:]), entry.dtype, _entry_rows(result, path, entry, rows)
    )


def _entry_rows(
    result: StoredResult, path: str, entry: TensorEntry, rows: Sequence[int]
) -> Iterator[Array]:
    """Blocks of consecutive rows; rows apart are read one by one."""
    row_bytes = max(1, (entry.stop - entry.start) // max(1, entry.shape[0]))
    most = max(1, result.parts.settings.slice_bytes // row_bytes)
    position = 0
    while position < len(rows):
        length = 1
        while (
            length < most
            and position + length < len(rows)
            and rows[position + length] == rows[position] + length
        ):
            length += 1
        start = rows[position]
        yield read_entry(result.objects, path, entry, start, start + length)
        position += length


def tensors(result: StoredResult, path: str) -> dict[str, TensorEntry]:
    """What a tensors file of the result holds; nothing when it was not written."""
    try:
        return read_header(result.objects, path)
    except FileNotFoundError:
        return {}
    except BadTensors as error:
        raise InternalError(f"a stored part of the result is damaged: {error}") from error


def _entry(path: str, result: StoredResult, name: str) -> TensorEntry:
    found = tensors(result, path).get(name)
    if found is None:
        raise NotStored(f"job {result.job.id} did not store {name!r}")
    return found
