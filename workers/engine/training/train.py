"""Trains one model, or many on their own rows, epoch by epoch; what it has come to can be stored and gone on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, TrainingDiverged
from workers.engine.model.batching import DEFAULT_BUDGET, activation_bytes
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.progress import Progress, silent
from workers.engine.training.gradient import StackedGradient
from workers.engine.training.optimisers import Plan, fresh_moments, step

STAGE = "train"
# A training has diverged, too, that ends with weights of so many times their size and a loss that rose by so many times
# what it was: saturated units and linear models stay finite at any rate. A loss may be below 0, as gaussian_nll is.
_LARGER, _HIGHER = 10.0, 100.0
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
    """K models of one program, each on its own `subsets` of the rows, from `start` (K, p) or (p,).

    `subsets`: int64 (K, n), or (n,) of each model where their sizes differ, the largest first. Minimises the mean of
    the rows' losses, each times its weight in `weights` (N,). Every model takes its rows in the order of positions,
    the batches, the rates and the steps that it takes alone. What a smaller model lacks of a batch are rows of weight
    0, and where it has no batch left in an epoch it waits. Raises BadParameter for an empty subset.

    A model whose loss or weights become NaN or infinite is noted in `diverged`, and at the end one whose loss and
    weights have risen far above where they began; the others go on.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        subsets: Tensor | Sequence[Tensor],
        plan: Plan,
        start: Tensor,
        *,
        weights: Tensor | None = None,
        state: State | None = None,
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress = silent,
    ) -> None:
        self._subsets = list(subsets)
        self._sizes = [len(each) for each in self._subsets]
        if not self._sizes or 0 in self._sizes:
            raise BadParameter("rows", tuple(self._sizes), "choose at least one row to train on")
        assert self._sizes == sorted(self._sizes, reverse=True)
        models = len(self._sizes)
        self._problem, self._plan = problem, plan
        self._progress = progress
        self._alike = list(_by_batches(plan, self._sizes))
        begin = start.to(problem.device, problem.dtype)
        self._start = begin.expand(models, -1)
        self.state = state or State(self._start.contiguous().clone())
        if not self.state.moments:
            self.state.moments = fresh_moments(plan, self.state.theta)
        self.diverged: dict[int, TrainingDiverged] = {}
        at_once = max(models, budget_bytes // max(1, activation_bytes(problem, rows)))
        self._gradient = StackedGradient(problem, rows, weights, at_once=at_once)

    @property
    def together(self) -> bool:
        """Whether the models went as one batched program."""
        return self._gradient.together

    def epochs(self) -> Iterator[Tensor]:
        """Trains on; yields after each epoch the mean loss (K,) of its rows, each at the weights that its batch met.

        Raises TrainingDiverged, the first one, once all models have; and what `progress` raises.
        """
        if self._plan.optimizer == "lbfgs":
            yield from self._searched()
            return
        while self.state.epoch < self._plan.epochs:
            losses = self._epoch()
            self.state.epoch += 1
            self._progress(STAGE, self.state.epoch, self._plan.epochs, "epochs")
            yield losses
        self._note_risen()

    def trial(self) -> None:
        """The gradient of one batch, which nothing is done with: to be timed."""
        self._gradient(self.state.theta, *self._batch(self._in_order(0), 0))

    def _epoch(self) -> Tensor:
        plan, state = self._plan, self.state
        chosen = self._in_order(state.epoch)
        total = state.theta.new_zeros(len(self._sizes))
        for number in range(plan.batches(self._sizes[0])):
            if number:
                self._progress(STAGE, state.epoch, plan.epochs, "epochs")
            rows, counts = self._batch(chosen, number)
            gradient, losses = self._gradient(state.theta, rows, counts)
            self._note_nonfinite(losses, number)
            self._step(gradient, number)
            total += losses * counts.to(total.device)
        state.steps += plan.batches(self._sizes[0])
        self._note_nonfinite(state.theta.sum(1), None)
        return total / total.new_tensor(self._sizes)

    def _in_order(self, epoch: int) -> Tensor:
        """(K, n) rows as an epoch takes them, n of the largest; behind those of a smaller model its first one again."""
        orders = {size: self._plan.order(epoch, size) for size in set(self._sizes)}
        most = self._sizes[0]
        if len(orders) == 1:
            return torch.stack(self._subsets)[:, orders[most]]
        found = []
        for subset, size in zip(self._subsets, self._sizes, strict=True):
            taken = subset[orders[size]]
            found.append(torch.cat([taken, taken[:1].expand(most - size)]))
        return torch.stack(found)

    def _batch(self, chosen: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """(K, B) rows of a batch, counted from 0, and how many (K,) of them are each model's, from the left."""
        size = self._plan.batch_size or self._sizes[0]
        left = torch.tensor(self._sizes) - number * size
        return chosen[:, number * size :][:, :size], left.clamp(0, size)

    def _step(self, gradient: Tensor, number: int) -> None:
        """Of the models that have this batch, each at the rate and step where it is alone."""
        state, plan = self.state, self._plan
        for models, batches in self._alike:
            if number < batches:
                taken = state.epoch * batches + number
                rate = plan.rate(taken, self._sizes[models.start])
                moments = {name: each[models] for name, each in state.moments.items()}
                step(plan, rate, state.theta[models], gradient[models], moments, taken + 1)

    def _note_nonfinite(self, values: Tensor, number: int | None) -> None:
        """`values` (K,), before a batch's step is taken, or after an epoch's last (None)."""
        finite = torch.isfinite(values)
        if bool(finite.all()):
            return
        epoch = self.state.epoch
        for models, batches in self._alike:
            last = batches - 1 if number is None else min(number, batches - 1)
            taken = epoch * batches + last
            rate = self._plan.rate(taken, self._sizes[models.start])
            for model in range(models.start, models.stop):
                if not finite[model] and model not in self.diverged:
                    self.diverged[model] = TrainingDiverged(model, epoch + 1, taken + 1, rate)
        if len(self.diverged) == len(self._sizes):
            raise next(iter(self.diverged.values()))

    def _note_risen(self) -> None:
        """By the first batch, at the weights before the first step and after the last."""
        theta, plan = self.state.theta, self._plan
        larger = theta.norm(dim=1) > _LARGER * self._start.norm(dim=1)
        if not bool(larger.any()):
            return
        batch = self._batch(self._in_order(0), 0)
        (_, before), (_, after) = (self._gradient(each, *batch) for each in (self._start, theta))
        risen = larger & (after - before > _HIGHER * before.abs())
        for models, batches in self._alike:
            last = plan.epochs * batches - 1
            rate = plan.rate(last, self._sizes[models.start])
            for model in range(models.start, models.stop):
                if risen[model] and model not in self.diverged:
                    rose = (float(before[model]), float(after[model]))
                    self.diverged[model] = TrainingDiverged(
                        model, plan.epochs, last + 1, rate, rose
                    )
        if len(self.diverged) == len(self._sizes):
            raise next(iter(self.diverged.values()))

    def _searched(self) -> Iterator[Tensor]:
        """L-BFGS, which searches for each model's steps: one after the other, all of an iteration's rows at once."""
        state, plan = self.state, self._plan
        variables = [row.clone().requires_grad_() for row in state.theta]
        optimisers = [
            torch.optim.LBFGS(
                [each], lr=plan.rate(0, self._sizes[0]), max_iter=1, max_eval=1000, history_size=10,
                line_search_fn="strong_wolfe",
            )
            for each in variables
        ]  # fmt: skip
        while state.epoch < plan.epochs:
            losses = [
                state.theta.new_tensor(torch.nan)
                if model in self.diverged
                else self._iterated(model, each, optimisers[model])
                for model, each in enumerate(variables)
            ]
            state.theta = torch.stack([each.detach() for each in variables])
            found = torch.stack(losses)
            self._note_nonfinite(found + state.theta.sum(1), None)
            state.epoch += 1
            state.steps += 1
            self._progress(STAGE, state.epoch, plan.epochs, "epochs")
            yield found

    def _iterated(self, model: int, theta: Tensor, optimiser: torch.optim.LBFGS) -> Tensor:
        """One iteration of one model; its loss before it."""
        rows, decay, seen = self._subsets[model][None], self._plan.weight_decay, []

        def closure() -> float:
            self._progress(STAGE, self.state.epoch, self._plan.epochs, "epochs")
            gradient, loss = self._gradient(theta.detach()[None], rows)
            theta.grad = gradient[0].add(theta.detach(), alpha=decay)
            seen.append(loss[0])
            return float(loss[0] + decay / 2.0 * theta.detach().square().sum())

        optimiser.step(closure)
        return seen[0]


def _by_batches(plan: Plan, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Which models have as many batches an epoch, and how many: these step together. Sizes descend."""
    first = 0
    for batches, alike in groupby(map(plan.batches, sizes)):
        models = slice(first, first + len(list(alike)))
        first = models.stop
        yield models, batches
