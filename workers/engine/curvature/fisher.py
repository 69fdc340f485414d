"""The second moment of the rows' gradients: the empirical Fisher matrix; with labels that are drawn, the Fisher matrix.

A drawn label is the model's own prediction of it: its class by the softmax, its value by the noise that the loss
stands for. The loss's gradients with such labels have the Gauss-Newton matrix as the mean of g gᵀ, where a row has one
label, or the loss is a sum over those that it has: Martens, New insights and perspectives on the natural gradient
method (2020). A mean over T labels of a row has 1/T of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from workers.engine.autodiff.graph.output import GRADIENTS
from workers.engine.curvature.of_rows import CurvatureOfRows
from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.model.batching import RowBlock, activation_bytes, over_rows, rows_at_once
from workers.engine.model.losses.chance import Chance
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory
from workers.engine.progress import Progress, silent

DOUBLE = 2  # bytes of float64 beside float32's
Keep = Callable[[Callable[[], Tensor]], Tensor]  # what to draw labels with, to the labels


class EmpiricalFisher(CurvatureOfRows):
    """(1/n) Σ gᵢ gᵢᵀ of the gradients of the rows' losses, with the rows' own labels."""

    term = GRADIENTS
    label = "second moment of gradients"


class DrawnRows:
    """The rows with labels drawn from the model's predictions, each by a generator of its own.

    `first_row` is the number of the first: a label depends on the seed, the model, and its row and number alone. So
    that a batch's rounding does not decide a draw, predictions are in float64 wherever the model allows it.
    `problem` has the loss of such labels. `keep` may answer labels of these rows that were drawn before.
    Raises BadParameter for a loss that predicts no distribution.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        *,
        seed: int,
        first_row: int,
        budget_bytes: int,
        progress: Progress | None,
        keep: Keep | None = None,
    ) -> None:
        if problem.loss.no_labels is not None:
            raise BadParameter("curvature.kind", "fisher", problem.loss.no_labels)
        self._loss = problem.loss  # knows what the data's labels ignore
        self.problem = problem.with_loss(problem.loss.of_drawn_labels())
        self._rows, self._seed, self._first = rows, seed, first_row
        self._budget, self._progress = budget_bytes, progress or silent
        self._keep = keep

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for batch in self._rows.batches(size, start, stop):
            labels = self.labels[batch.start : batch.start + len(batch)]
            yield replace(batch, targets=labels)

    def take(self, indices: Tensor) -> Batch:
        labels = self.labels[indices.to(self.labels.device)]
        return replace(self._rows.take(indices), targets=labels)

    @cached_property
    def labels(self) -> Tensor:
        """(n, ...), in the place of the rows' targets; drawn once."""
        return self._draw() if self._keep is None else self._keep(self._draw)

    def _draw(self) -> Tensor:
        problem = _in_double(self.problem, self._rows)
        row = DOUBLE * activation_bytes(self.problem, self._rows)
        kind = problem.device.type
        size = rows_at_once("auto", len(self._rows), row, self._budget, kind)
        found = over_rows(
            self._rows,
            RowBlock(size),
            lambda batch: self._drawn(problem, batch),
            what="labels",
            progress=self._progress,
        )
        return torch.cat([labels for _, labels in found])

    def _drawn(self, problem: Problem, batch: Batch) -> Tensor:
        first = self._first + batch.start
        chance = Chance(self._seed, range(first, first + len(batch)))
        targets = one_tensor(self.problem.placed(batch).targets)  # what is drawn has their type
        with torch.no_grad():
            outputs = _outputs(problem, problem.placed(batch))
        return self._loss.drawn(outputs, targets, chance)


def _outputs(problem: Problem, batch: Batch) -> object:
    """Of each row; a model that squeezes a single row's is given it twice."""
    found = problem.outputs(problem.theta, batch.at_least_two())
    return _first(found) if len(batch) == 1 else found


def _first(value: object) -> object:
    if isinstance(value, Tensor):
        return value[:1]
    if isinstance(value, tuple | list):
        return tuple(map(_first, value))
    raise ShapeMismatch("outputs", ("B", "..."), (0,), f"they are of type {type(value).__name__}")


def _in_double(problem: Problem, rows: Rows) -> Problem:
    """Or as it is, where it can't be computed in float64."""
    try:
        double = problem.in_double()
        with torch.no_grad():
            double.losses(double.theta, double.placed(next(iter(rows.batches(1)))))
    except Exception as error:  # whatever a model raises in float64, float32 does without
        if is_out_of_memory(error):  # of one worker alone: its labels would be others
            raise
        return problem
    return double
