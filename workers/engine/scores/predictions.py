"""What the model makes of each row: its loss, and where one number says it, the prediction and the target.

By these people sort rows and judge influences: a training row that harms and is predicted to be of another class than
its label may be labelled wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.model.losses import ProgramLoss
from workers.engine.model.losses.classification import BinaryCrossEntropy, ClassLoss
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.losses.regression import Gaussian, Poisson
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.progress import Progress, silent


@dataclass(frozen=True)
class Predictions:
    """Losses, predictions and targets of b rows; None where a row has not exactly one, or the loss has none."""

    losses: Tensor  # (b,)
    predictions: Tensor | None = None  # (b,): classes as int64, else numbers
    targets: Tensor | None = None  # (b,): likewise
    errors: Tensor | None = (
        None  # (b,) in [0, 1]: the share of the row's positions with a wrong class
    )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def row_predictions(
    problem: Problem,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Predictions]]:
    """One forward pass over the rows: yields (slice of rows, their predictions)."""
    size = rows_at_once(
        batch_size,
        len(rows),
        activation_bytes(problem, rows),
        budget_bytes,
        problem.device.type,
    )

    def work(batch: Batch) -> Predictions:
        with torch.no_grad():
            return _of_batch(problem, problem.placed(batch))

    for batch, result in over_rows(
        rows, RowBlock(size), work, what="predictions", progress=progress or silent
    ):
        yield slice(batch.start, batch.start + len(batch)), result


def _of_batch(problem: Problem, batch: Batch) -> Predictions:
    losses = problem.losses(problem.theta, batch)
    if isinstance(problem.loss, ProgramLoss):
        return Predictions(losses, None, _one_a_row(batch.target_tensors, len(batch)), None)
    outputs = problem.outputs(problem.theta, batch)
    match problem.loss:
        case ClassLoss():
            return _of_classes(problem.loss, losses, one_tensor(outputs), batch)
        case BinaryCrossEntropy():
            return _of_logits(losses, one_tensor(outputs), batch)
        case _:
            predicted = _one_a_row((_expected(problem, outputs),), len(batch))
            return Predictions(
                losses, predicted, _one_a_row(batch.target_tensors, len(batch)), None
            )


def _of_classes(loss: ClassLoss, losses: Tensor, outputs: Tensor, batch: Batch) -> Predictions:
    scores = outputs.reshape(len(batch), -1) if outputs.ndim < 2 else outputs
    scores = scores.movedim(loss.class_axis, -1)
    goal = one_tensor(batch.targets)
    if goal.is_floating_point():  # probabilities
        goal = goal.movedim(loss.class_axis, -1).argmax(-1)
    goal, found = goal.long().reshape(len(batch), -1), scores.argmax(-1).reshape(len(batch), -1)
    counted = goal != loss.ignore_index
    wrong = ((found != goal) & counted).sum(1) / counted.sum(1).clamp(min=1)
    single = goal.shape[1] == 1
    return Predictions(
        losses,
        found[:, 0] if single else None,
        goal[:, 0] if single else None,
        wrong.to(losses.dtype),
    )


def _of_logits(losses: Tensor, logits: Tensor, batch: Batch) -> Predictions:
    goal = one_tensor(batch.targets).reshape(len(batch), -1) > 0.5
    found = logits.reshape(len(batch), -1) > 0.0
    single = goal.shape[1] == 1
    return Predictions(
        losses,
        found[:, 0].long() if single else None,
        goal[:, 0].long() if single else None,
        (found != goal).to(losses.dtype).mean(1),
    )


def _expected(problem: Problem, outputs: object) -> Tensor | None:
    """What a regression's outputs expect of the target."""
    if isinstance(problem.loss, Gaussian):
        if isinstance(outputs, Tensor):
            return outputs.chunk(2, dim=-1)[0]
        return outputs[0] if isinstance(outputs, tuple | list) else None
    predicted = one_tensor(outputs)
    if isinstance(problem.loss, Poisson) and problem.loss.log_input:
        return predicted.exp()
    return predicted


def _one_a_row(values: tuple[Tensor | None, ...], count: int) -> Tensor | None:
    """(b,) where there is one number a row."""
    if len(values) != 1 or values[0] is None or values[0].numel() != count:
        return None
    return values[0].reshape(count)
