"""A job's own first rows, each computed beside different ones: values that nobody made up may show what those hid."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine import Batch, Problem, Rows, check_rows_independent, is_out_of_memory
from workers.engine.independence import are_alike

_LOOKED_AT_BYTES = 4 * 1024**2
_LOOKED_AT = 256  # rows, of which a few are compared
_COMPARED = 8


def refuse_mixed_rows(
    problem: Problem, rows: Rows, *, elsewhere: bool, batch_size: int | None = None
) -> bool:
    """Raises RowsMixed where what the model gives for a row depends on the others.

    `elsewhere`: for a model whose registration has not compared batch sizes and orders. False if nothing could be told:
    the rows are alike, too few, or too many for the memory.
    """
    if len(rows) < 2:
        return False
    first = next(rows.batches(1))
    row_bytes = sum(each.nbytes for each in (*first.inputs, *first.target_tensors))
    window = next(rows.batches(min(_LOOKED_AT, max(2, _LOOKED_AT_BYTES // max(1, row_bytes)))))
    # No more rows at once than the job itself takes, so that its memory suffices.
    most = min(_COMPARED, max(2, batch_size or _COMPARED))
    for count in dict.fromkeys((most, 2)):
        batch = _spread(window, count)
        if are_alike((*batch.inputs, *batch.target_tensors)):
            return False
        try:
            check_rows_independent(problem, batch, elsewhere=elsewhere)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
    return False


def _spread(window: Batch, count: int) -> Batch:
    """Rows from the whole window: the first ones may be alike, as where a dataset is sorted."""
    numbers = torch.linspace(0, len(window) - 1, min(count, len(window))).long()

    def taken(each: Tensor) -> Tensor:
        return each[numbers.to(each.device)]

    targets = tuple(taken(each) for each in window.target_tensors)
    single = isinstance(window.targets, Tensor)
    return Batch(
        tuple(taken(each) for each in window.inputs),
        targets[0] if single else (targets or None),
        window.start,
    )
