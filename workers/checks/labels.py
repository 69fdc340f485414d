"""Class labels of the rows that a job has chosen, held against the classes that its model gives."""

from __future__ import annotations

import torch

from upweight.errors import InvalidRequest
from workers.engine import BadParameter, Batch, Problem, Rows
from workers.engine.losses.classification import ClassLoss

# Of rows at a time: fewer than a window of those that are not held, which is never read in less than one batch.
_AT_ONCE_BYTES = 4 * 1024**2


def refuse_labels_out_of_range(problem: Problem, rows: Rows, pointer: str) -> None:
    """A look at the smallest and the largest labels. Raises InvalidRequest, naming the row."""
    loss = problem.loss
    if not isinstance(loss, ClassLoss) or not len(rows):
        return
    first = next(rows.batches(1))
    row_bytes = sum(each.nbytes for each in (*first.inputs, *first.target_tensors))
    taken: list[int] = []  # the smallest and the largest label that the model takes, as far as seen
    for batch in rows.batches(max(1, _AT_ONCE_BYTES // max(1, row_bytes))):
        (labels,) = batch.target_tensors
        if labels.is_floating_point():
            return  # probabilities
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


def _refuse_row(problem: Problem, batch: Batch, row: int, pointer: str) -> None:
    with torch.no_grad():
        outputs = problem.outputs(problem.theta, batch)
    try:
        problem.loss.check(outputs, batch.targets)
    except BadParameter as error:
        raise InvalidRequest.field(
            pointer,
            f"the label {error.value} in row {row} of the chosen rows: {error.way_out}. Mend it, choose other "
            "'rows', or register the model with that label as the loss's 'ignore_index'",
            error.value,
        ) from None
