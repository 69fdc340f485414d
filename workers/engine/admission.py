"""Whether a model and its loss can be worked with at all: tried on an example batch, with precise refusals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import count

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.errors import TrainingMode
from workers.engine.model.independence import BATCH_SIZES, RowTest, Tensors
from workers.engine.model.losses import ProgramLoss
from workers.engine.model.nonfinite import refuse_nonfinite_losses, refuse_nonfinite_rows
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import explained, twice_differentiable
from workers.engine.progress import Progress, silent

_BESIDE, _GRADIENTS = 5, 4  # most evaluations beside other rows, and of gradients
_DOUBLED_BYTES = 512 * 1024**2  # weights above are not held once more, in float64


def check_problem(problem: Problem, batch: Batch) -> None:
    """Forward, backward and second derivative on an example batch, with precise refusals.

    Raises NotFinite (naming the row), ShapeMismatch, BadParameter (targets), TrainingMode for
    a random forward pass, RowsMixed, UnsupportedOperator for a missing derivative.
    """
    batch = problem.placed(batch)
    refuse_nonfinite_rows(batch)
    with twice_differentiable(), torch.no_grad():
        outputs = problem.outputs(problem.theta, batch)
        problem.loss.check(outputs, batch.targets)
        losses = problem.losses(problem.theta, batch)
        again = problem.losses(problem.theta, batch)
        if not bool(((losses == again) | (losses.isnan() & again.isnan())).all()):
            raise TrainingMode("the forward pass is random: something in the model")
    _check_rows_in_double(problem, batch)
    refuse_nonfinite_losses(losses, batch)
    _check_derivatives(problem, batch.narrow(0, min(2, len(batch))))


def check_rows_independent(
    problem: Problem, batch: Batch, *, elsewhere: bool = True, progress: Progress = silent
) -> None:
    """Each row beside different ones, in its place; `elsewhere`: in other orders and batch sizes too.

    The batch has few rows that differ, at least two. Raises RowsMixed, and what `progress` raises.
    """
    batch = problem.placed(batch)
    rows = (*batch.inputs, *batch.target_tensors)
    sizes = [each.size for each in problem.layout]
    most = _BESIDE + _GRADIENTS
    if elsewhere:
        most += 2 + sum(-(-len(batch) // size) for size in BATCH_SIZES)

    def again(tensors: Tensors) -> Batch:
        goals = tensors[len(batch.inputs) :]
        targets = goals[0] if isinstance(batch.targets, Tensor) else (goals or None)
        return Batch(tensors[: len(batch.inputs)], targets, 0)

    tries = count(1)

    def evaluate(tensors: Tensors) -> Tensors:
        progress("compare rows", next(tries), most, "tries")
        given = again(tensors)
        with torch.no_grad():
            outputs = problem.outputs(problem.theta, given)
            losses = problem.losses(problem.theta, given, outputs)
        if isinstance(outputs, Tensor) and outputs.shape[:1] == losses.shape:
            return losses, outputs
        return (losses,)

    def gradient(tensors: Tensors, weights: Tensor) -> Sequence[Tensor]:
        progress("compare rows", next(tries), most, "tries")
        theta = problem.theta.clone().requires_grad_()
        losses = problem.losses(theta, again(tensors))
        kept = weights.to(device=losses.device, dtype=losses.dtype)
        (found,) = torch.autograd.grad((kept * losses).sum(), theta)
        return torch.split(found, sizes)

    arguments = len(rows) if isinstance(problem.loss, ProgramLoss) else len(batch.inputs)
    test = RowTest(evaluate, problem.module, arguments, gradient)
    with twice_differentiable():
        test.beside_others(rows)
        if elsewhere:
            test.elsewhere(rows)
        with torch.enable_grad():
            test.in_gradients(rows)


def _check_rows_in_double(problem: Problem, batch: Batch) -> None:
    """Check rows in float64: rounding can then neither hide what rows do to each other nor look like it."""
    weights = problem.theta.nbytes + sum(each.nbytes for each in problem.frozen.values())
    if weights < _DOUBLED_BYTES:
        with suppress(RuntimeError, TypeError, ValueError), twice_differentiable():
            double = problem.in_double()
            with torch.no_grad():
                double.losses(double.theta, double.placed(batch))
            problem = double
    check_rows_independent(problem, batch)


def _check_derivatives(problem: Problem, batch: Batch) -> None:
    per_example_gradients(problem, batch)
    theta = problem.theta.clone().requires_grad_()
    try:
        with twice_differentiable(), torch.enable_grad():
            total = problem.losses(theta, batch).sum()
            (gradient,) = torch.autograd.grad(total, theta, create_graph=True)
            if gradient.requires_grad:
                torch.autograd.grad(gradient.sum(), theta)
    except RuntimeError as error:
        raise explained(error, "differentiating the loss twice") from error
