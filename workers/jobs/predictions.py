"""Losses, predictions and targets of the rows of a job, stored beside its result: a few numbers a row, in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.tensors import write_tensors
from workers.engine import Predictions, Problem, Rows, row_predictions

Array = np.ndarray[Any, Any]
BLOCK_ROWS = 1 << 18  # an object of some megabytes


def store_predictions(
    objects: Objects,
    paths: ResultPaths,
    side: str,
    problem: Problem,
    rows: Rows,
    *,
    first: int = 0,
    block_rows: int = BLOCK_ROWS,
    **options: Any,
) -> dict[str, str]:
    """Stores those of `rows`, which are rows `first` and on of this side: `test` or `train`.

    `options` are those of `row_predictions`. The same blocks come out whatever its batches are. Answers their digests
    by path.
    """
    digests: dict[str, str] = {}
    pending: list[Predictions] = []
    held, start = 0, first
    for _, found in row_predictions(problem, rows, **options):
        pending.append(found)
        held += len(found.losses)
        while held >= block_rows:
            block, rest = _split(_joined(pending), block_rows)
            digests |= _written(objects, paths, side, start, block)
            pending, held, start = [rest], held - block_rows, start + block_rows
    if held:
        digests |= _written(objects, paths, side, start, _joined(pending))
    return digests


def _written(
    objects: Objects, paths: ResultPaths, side: str, start: int, block: Predictions
) -> dict[str, str]:
    arrays = {name: _compact(name, value.cpu().numpy()) for name, value in block.tensors().items()}
    path = paths.predictions_block(side, start, start + len(block.losses))
    return {path: write_tensors(objects, path, arrays)}


def _compact(name: str, values: Array) -> Array:
    """Classes in the fewest bytes that hold them, and right or wrong in one: a row of a classifier takes 7 bytes."""
    if values.dtype.kind == "i":
        kinds = (np.min_scalar_type(-1 - abs(int(each))) for each in (values.min(), values.max()))
        return values.astype(np.result_type(*kinds))
    if name == "errors" and np.isin(values, (0.0, 1.0)).all():
        return values.astype(np.uint8)
    return values


def _joined(parts: list[Predictions]) -> Predictions:
    if len(parts) == 1:
        return parts[0]
    named = [part.tensors() for part in parts]
    return Predictions(**{name: torch.cat([part[name] for part in named]) for name in named[0]})


def _split(whole: Predictions, at: int) -> tuple[Predictions, Predictions]:
    named = whole.tensors()
    head = {name: value[:at] for name, value in named.items()}
    return Predictions(**head), Predictions(**{name: value[at:] for name, value in named.items()})
