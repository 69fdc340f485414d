"""What a job asks of the rows it has chosen, before it computes: labels that its model has, rows that don't mix."""

from __future__ import annotations

import torch
from torch import Tensor

from upweight.errors import InvalidRequest
from workers.engine import (
    BadParameter,
    Batch,
    Problem,
    Rows,
    check_rows_independent,
    is_out_of_memory,
)
from workers.engine.model.independence import are_alike
from workers.engine.model.losses.classification import BinaryCrossEntropy, ClassLoss
from workers.engine.progress import Progress, silent

# Of rows at a time: fewer than a window of those that are not held, which is never read in less than one batch.
_LABELS_AT_ONCE_BYTES = 4 * 1024**2
_LOOKED_AT_BYTES = 4 * 1024**2
_LOOKED_AT = 256  # rows, of which a few are compared
_COMPARED = 8
MOST_EXCESS = (
    1e-3  # of a sum of probabilities over 1, or below: what rounding to half precision leaves
)


def refuse_labels_out_of_range(
    problem: Problem, rows: Rows, pointer: str, progress: Progress = silent
) -> None:
    """A look at the smallest and the largest labels. Raises InvalidRequest, naming the row."""
    loss = problem.loss
    if not isinstance(loss, BinaryCrossEntropy | ClassLoss) or not len(rows):
        return
    first = next(rows.batches(1))
    row_bytes = sum(each.nbytes for each in (*first.inputs, *first.target_tensors))
    taken: list[int] = []  # the smallest and the largest label that the model takes, as far as seen
    for batch in rows.batches(max(1, _LABELS_AT_ONCE_BYTES // max(1, row_bytes))):
        progress("check labels", batch.start, len(rows), "rows")
        (labels,) = batch.target_tensors
        if isinstance(loss, BinaryCrossEntropy):
            _refuse_outside_0_to_1(labels, batch.start, pointer)
            continue
        if labels.is_floating_point():
            _refuse_no_probabilities(loss, labels, batch.start, pointer)
            continue
        kept = torch.where(labels != loss.ignore_index, labels, torch.zeros_like(labels))
        kept = kept.reshape(len(batch), -1)
        smallest, largest = kept.amin(1), kept.amax(1)
        for row, label in (
            (int(smallest.argmin()), int(smallest.min())),
            (int(largest.argmax()), int(largest.max())),
        ):
            if taken and taken[0] <= label <= taken[1]:
                continue
            here = problem.placed(batch.narrow(row, row + 1))
            _refuse_row(problem, here, batch.start + row, pointer)
            taken = [min([label, *taken]), max([label, *taken])]


def _refuse_outside_0_to_1(labels: Tensor, start: int, pointer: str) -> None:
    """Raises InvalidRequest where a target (B, ...) of two classes is none from 0 to 1, naming the first row."""
    wrong = ~((labels >= 0) & (labels <= 1)).reshape(len(labels), -1).all(1)
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0, 0])
    here = labels[row].flatten()
    found = float(here[~((here >= 0) & (here <= 1))][0])
    raise InvalidRequest.field(
        pointer,
        f"the label {found:g} in row {start + row} of the chosen rows: 'bce_with_logits' takes labels from 0 to 1. "
        "Correct it, or choose other 'rows'",
        found,
    )


def _refuse_no_probabilities(loss: ClassLoss, labels: Tensor, start: int, pointer: str) -> None:
    """Raises InvalidRequest where targets (B, C, ...) are no probabilities, naming the first row of them."""
    totals = labels.double().movedim(loss.class_axis, -1).sum(-1)
    wrong = (labels.double() < 0).flatten(1).any(1)
    wrong |= ((totals - 1).abs() > MOST_EXCESS).reshape(len(labels), -1).any(1)
    wrong |= ~labels.isfinite().flatten(1).all(1)
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0, 0])
    raise InvalidRequest.field(
        pointer,
        f"the targets of row {start + row} of the chosen rows are no probabilities: they must be 0 or more and add up "
        "to 1 over the classes. Divide them by their sum, or give class indices (integers)",
        float(totals[row].flatten()[0]),
    )


def _refuse_row(problem: Problem, batch: Batch, row: int, pointer: str) -> None:
    with torch.no_grad():
        outputs = problem.outputs(problem.theta, batch)
    try:
        problem.loss.check(outputs, batch.targets)
    except BadParameter as error:
        raise InvalidRequest.field(
            pointer,
            f"the label {error.value} in row {row} of the chosen rows: {error.way_out}. Correct it, choose other "
            "'rows', or register the model with that label as the loss's 'ignore_index'",
            error.value,
        ) from None


def refuse_mixed_rows(
    problem: Problem,
    rows: Rows,
    *,
    elsewhere: bool,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> bool:
    """Of a job's own first rows, each beside different ones: values that nobody made up may show what those hid.

    Raises RowsMixed where what the model gives for a row depends on the others.

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
            check_rows_independent(problem, batch, elsewhere=elsewhere, progress=progress)
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
