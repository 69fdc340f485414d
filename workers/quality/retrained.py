"""Models of banks, trained by a recipe on subsets of the rows, and their losses on the test rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from upweight.schema import Recipe
from workers.engine import Problem, Rows, row_predictions
from workers.quality.measures import Array
from workers.quality.trainings import Places
from workers.retraining.bank import Bank


@dataclass
class ByRecipe:
    """A recipe's models over subsets of `train`, judged by losses of `test` without weights of rows.

    `bank_of` gives the bank of a seed that is added to the recipe's; `rows` (n,): the dataset's row of each
    place in `train`.
    """

    problem: Problem
    train: Rows
    test: Rows
    recipe: Recipe
    rows: Places
    bank_of: Callable[[int], Bank]
    trained: int = 0  # models that were looked at, found or trained
    seconds: float = 0.0
    _whole: float | None = field(default=None, init=False)

    def losses(self, subsets: Sequence[Places], seed: int) -> Array:
        """(S, m) after training on each subset. Raises ComputationFailed where one diverges; what is done is kept."""
        began = time.monotonic()
        found = np.zeros((len(subsets), len(self.test)))
        chosen = [self.rows[subset] for subset in subsets]
        for number, theta in self.bank_of(seed).weights(chosen):
            found[number] = self._test_losses(theta)
        self.trained += len(subsets)
        self.seconds += time.monotonic() - began
        return found

    def whole_loss(self) -> float:
        """The mean test loss after training on all rows with the recipe's own seed."""
        if self._whole is None:
            self._whole = float(self.losses([np.arange(len(self.rows))], 0).mean())
        return self._whole

    def after_a_step(self, rows: Places, query: int) -> float:
        """The loss of a test row after θ − rate · ∇ mean loss of these rows."""
        problem = self.problem
        batch = problem.placed(self.train.take(torch.from_numpy(rows)))
        theta = problem.theta.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.losses(theta, batch).mean(), theta)
        moved = theta.detach() - self.recipe.lr * gradient
        looked_at = problem.placed(self.test.take(torch.tensor([query])))
        with torch.no_grad():
            return float(problem.plain.losses(moved, looked_at)[0])

    def _test_losses(self, theta: Tensor) -> Array:
        problem = self.problem.plain.at(theta)
        found = [each.losses for _, each in row_predictions(problem, self.test)]
        return np.concatenate([each.double().cpu().numpy() for each in found])
