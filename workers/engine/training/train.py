"""Trains one model, or many on their own rows, epoch by epoch; what it has come to can be stored and gone on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, TrainingDiverged
from workers.engine.model.batching import DEFAULT_BUDGET, activation_bytes
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.progress import Progress, silent
from workers.engine.training.gradient import StackedGradient
from workers.engine.training.optimisers import Plan, step

STAGE = "train"
_MOMENT = "moment."


@dataclass
class State:
    """How far a training is: after `epoch` epochs and `steps` steps, with theta (K, p) and the optimiser's moments."""

    theta: Tensor
    epoch: int = 0
    steps: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, to be stored."""
        moments = {f"{_MOMENT}{name}": value for name, value in self.moments.items()}
        return {"theta": self.theta, "at": torch.tensor([self.epoch, self.steps]), **moments}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> State:
        """From what `tensors` gave."""
        epoch, steps = (int(each) for each in tensors["at"])
        moments = {
            name.removeprefix(_MOMENT): value.clone()
            for name, value in tensors.items()
            if name.startswith(_MOMENT)
        }
        return cls(tensors["theta"].clone(), epoch, steps, moments)


class Training:
    """K models of one program, each on its own `subsets` (K, n) of the rows, int64, from `start` (K, p) or (p,).

    Minimises the mean of the rows' losses, each times its weight in `weights` (N,). Every model takes its rows in the
    same order of positions, `plan.order(epoch, n)`, as it would alone. Raises BadParameter for an empty subset.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        subsets: Tensor,
        plan: Plan,
        start: Tensor,
        *,
        weights: Tensor | None = None,
        state: State | None = None,
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress = silent,
    ) -> None:
        if subsets.ndim != 2 or 0 in subsets.shape:
            raise BadParameter("rows", tuple(subsets.shape), "choose at least one row to train on")
        models = subsets.shape[0]
        self._problem, self._plan, self._subsets = problem, plan, subsets
        self._progress = progress
        begin = start.to(problem.device, problem.dtype)
        self.state = state or State(begin.expand(models, -1).contiguous().clone())
        at_once = max(models, budget_bytes // max(1, activation_bytes(problem, rows)))
        self._gradient = StackedGradient(problem, rows, weights, at_once=at_once)

    @property
    def together(self) -> bool:
        """Whether the models went as one batched program."""
        return self._gradient.together

    @property
    def rows(self) -> int:
        """n, of each model."""
        return self._subsets.shape[1]

    def epochs(self) -> Iterator[Tensor]:
        """Trains on; yields after each epoch the mean loss (K,) of its rows, each at the weights that its batch met.

        Raises TrainingDiverged, and what `progress` raises.
        """
        if self._plan.optimizer == "lbfgs":
            yield from self._searched()
            return
        while self.state.epoch < self._plan.epochs:
            losses = self._epoch()
            self.state.epoch += 1
            self._progress(STAGE, self.state.epoch, self._plan.epochs, "epochs")
            yield losses

    def trial(self) -> None:
        """The gradient of one batch, which nothing is done with: to be timed."""
        self._gradient(self.state.theta, self._subsets[:, : self._plan.batch_size or self.rows])

    def _epoch(self) -> Tensor:
        plan, state, n = self._plan, self.state, self.rows
        chosen = self._subsets[:, plan.order(state.epoch, n)]
        size = plan.batch_size or n
        total = state.theta.new_zeros(state.theta.shape[0])
        for first in range(0, n, size):
            if first:
                self._progress(STAGE, state.epoch, plan.epochs, "epochs")
            batch = chosen[:, first : first + size]
            gradient, losses = self._gradient(state.theta, batch)
            rate = plan.rate(state.steps, n)
            self._refuse_nonfinite(losses, rate)
            step(plan, rate, state.theta, gradient, state.moments, state.steps + 1)
            state.steps += 1
            total += losses * batch.shape[1]
        self._refuse_nonfinite(state.theta.sum(1), plan.rate(max(0, state.steps - 1), n))
        return total / n

    def _refuse_nonfinite(self, values: Tensor, rate: float) -> None:
        if not bool(torch.isfinite(values).all()):
            model = int((~torch.isfinite(values)).nonzero()[0])
            raise TrainingDiverged(model, self.state.epoch + 1, self.state.steps + 1, rate)

    def _searched(self) -> Iterator[Tensor]:
        """L-BFGS, which searches for each model's steps: one after the other, all of an iteration's rows at once."""
        state, plan = self.state, self._plan
        variables = [row.clone().requires_grad_() for row in state.theta]
        optimisers = [
            torch.optim.LBFGS(
                [each], lr=plan.rate(0, self.rows), max_iter=1, max_eval=1000, history_size=10,
                line_search_fn="strong_wolfe",
            )
            for each in variables
        ]  # fmt: skip
        while state.epoch < plan.epochs:
            losses = [
                self._iterated(model, each, optimisers[model])
                for model, each in enumerate(variables)
            ]
            state.theta = torch.stack([each.detach() for each in variables])
            found = torch.stack(losses)
            self._refuse_nonfinite(found + state.theta.sum(1), plan.rate(0, self.rows))
            state.epoch += 1
            state.steps += 1
            self._progress(STAGE, state.epoch, plan.epochs, "epochs")
            yield found

    def _iterated(self, model: int, theta: Tensor, optimiser: torch.optim.LBFGS) -> Tensor:
        """One iteration of one model; its loss before it."""
        rows, decay, seen = self._subsets[model : model + 1], self._plan.weight_decay, []

        def closure() -> float:
            self._progress(STAGE, self.state.epoch, self._plan.epochs, "epochs")
            gradient, loss = self._gradient(theta.detach()[None], rows)
            theta.grad = gradient[0].add(theta.detach(), alpha=decay)
            seen.append(loss[0])
            return float(loss[0] + decay / 2.0 * theta.detach().square().sum())

        optimiser.step(closure)
        return seen[0]
