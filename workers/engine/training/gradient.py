"""The gradient of the training loss of many models at once, each at its own weights and on its own rows.

The gradient of one model is written with `torch.func`, mapped over the models, and traced into a list of operators:
a linear layer of K models is one batched product then, and a step costs the operators and no autograd. Where the model
can't be mapped, or what is traced does not give what autograd gives, the models take their turns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import log_softmax

from workers.engine.model.losses.classification import CrossEntropy
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory

_LOOKED_AT = 4096  # rows at a time
_MOST_DIFFERENCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a gradient's norm
Traced = Callable[..., tuple[Tensor, Tensor]]


class StackedGradient:
    """Gradients and losses of K models. A row's loss is as registered, times its weight; a batch's is the mean."""

    def __init__(
        self, problem: Problem, rows: Rows, weights: Tensor | None, *, at_once: int
    ) -> None:
        """`weights` (N,): of all rows. `at_once`: rows of all models together that are taken at a time."""
        self._problem, self._rows = problem, rows
        self._weights = None if weights is None else weights.to(problem.device, problem.dtype)
        self._at_once = at_once
        self._traced: dict[tuple[int, int], Traced | None] = {}

    @property
    def together(self) -> bool:
        """Whether the models went as one program, as far as it was called."""
        return all(each is not None for each in self._traced.values())

    def __call__(
        self, theta: Tensor, rows: Tensor, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(K, p) gradients and (K,) losses at theta (K, p) of the batches rows (K, B), int64, with the L2 term.

        `counts` (K,): how many rows of each are its batch, from the left; the others weigh nothing. By default all.
        """
        gradient, losses = self._of_rows(theta, rows, counts)
        penalty = self._problem.penalty
        if penalty is not None:
            gradient = gradient + penalty * theta
            losses = losses + (penalty * theta.square()).sum(1) / 2
        return gradient, losses

    def _of_rows(self, theta: Tensor, rows: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        models, size = rows.shape
        weights = self._factors(rows, counts)
        step = max(1, self._at_once // models)
        if step >= size:
            return self._part(theta, rows, weights)
        gradient, losses = torch.zeros_like(theta), theta.new_zeros(models)
        for start in range(0, size, step):
            part = self._part(
                theta, rows[:, start : start + step], weights[:, start : start + step]
            )
            gradient += part[0]
            losses += part[1]
        return gradient, losses

    def _factors(self, rows: Tensor, counts: Tensor | None) -> Tensor:
        """(K, B): what each row's loss is multiplied by, so that the sum is the weighted mean of a batch."""
        models, size = rows.shape
        if counts is None:
            counts = torch.full((models,), size)
        inside = torch.arange(size) < counts[:, None]
        found = inside.to(self._problem.dtype) / counts.clamp(min=1)[:, None]
        found = found.to(self._problem.device)
        if self._weights is not None:
            found *= self._weights[rows.to(self._weights.device)]
        return found

    def _part(self, theta: Tensor, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of some rows of the batches: the sum of their losses times their factors."""
        batch = self._problem.placed(self._rows.take(rows.reshape(-1)))
        shape = (rows.shape[0], rows.shape[1])
        tensors = [
            each.view(*shape, *each.shape[1:]) for each in (*batch.inputs, *batch.target_tensors)
        ]
        if shape[0] == 1:
            return self._one_by_one(theta, weights, tensors)
        if shape not in self._traced:
            self._traced[shape] = self._trace(theta, weights, tensors)
        traced = self._traced[shape]
        if traced is None:
            return self._one_by_one(theta, weights, tensors)
        with torch.no_grad():
            return traced(theta, weights, *tensors)

    def _loss(self, theta: Tensor, weights: Tensor, *tensors: Tensor) -> Tensor:
        """Of one model: theta (p,), weights (b,), and the tensors of its rows."""
        return (self._problem.losses(theta, self._batch(tensors)) * weights).sum()

    def _plain_loss(self, theta: Tensor, weights: Tensor, *tensors: Tensor) -> Tensor:
        """The same of classes without smoothing, weights or ignored labels: in fewer operators, as torch has it."""
        batch = self._batch(tensors)
        scores, classes = one_tensor(self._problem.outputs(theta, batch)), one_tensor(batch.targets)
        chosen = log_softmax(scores, 1).gather(1, classes.long()[:, None])[:, 0]
        return -(chosen * weights).sum()

    def _is_plain(self) -> bool:
        loss = self._problem.loss
        if not isinstance(loss, CrossEntropy) or loss.weight is not None or loss.label_smoothing:
            return False
        for batch in self._rows.batches(_LOOKED_AT):
            (classes,) = batch.target_tensors
            ignored = classes.is_floating_point() or bool((classes == loss.ignore_index).any())
            if classes.ndim != 1 or ignored:
                return False
        return True

    def _batch(self, tensors: tuple[Tensor, ...]) -> Batch:
        first = self._rows.take(torch.zeros(1, dtype=torch.int64))
        count = len(first.inputs)
        inputs, targets = tensors[:count], tensors[count:]
        single = first.targets is None or isinstance(first.targets, Tensor)
        return Batch(inputs, (targets[0] if targets else None) if single else targets, 0)

    def _one_by_one(
        self, theta: Tensor, weights: Tensor, tensors: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        gradients, losses = torch.empty_like(theta), theta.new_empty(theta.shape[0])
        for model in range(theta.shape[0]):
            gradients[model], losses[model] = self._of_one(model, theta, weights, tensors)
        return gradients, losses

    def _of_one(
        self, model: int, theta: Tensor, weights: Tensor, tensors: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        own = theta[model].detach().clone().requires_grad_()
        loss = self._loss(own, weights[model], *(each[model] for each in tensors))
        (gradient,) = torch.autograd.grad(loss, own, allow_unused=True)
        return torch.zeros_like(own) if gradient is None else gradient, loss.detach()

    def _trace(self, theta: Tensor, weights: Tensor, tensors: list[Tensor]) -> Traced | None:
        """None where the models can't be mapped, or come out otherwise than one by one."""
        of_one = self._plain_loss if self._is_plain() else self._loss
        mapped = vmap(grad_and_value(of_one))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of operators that are mapped by a loop
                found = make_fx(mapped)(theta, weights, *tensors)
            found.graph.eliminate_dead_code()
            found.recompile()
            with torch.no_grad():
                gradients, losses = found(theta, weights, *tensors)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return None  # data-dependent control flow, or an operator that can't be mapped
        most = _MOST_DIFFERENCE.get(theta.dtype, _MOST_DIFFERENCE[torch.float32])
        for model in {0, theta.shape[0] - 1}:
            gradient, loss = self._of_one(model, theta, weights, tensors)
            near = (gradients[model] - gradient).norm() <= most * (gradient.norm() + 1e-30)
            same = torch.allclose(losses[model], loss, rtol=most, atol=most)
            if not (bool(near) and same) and bool(torch.isfinite(loss)):
                return None
        return found
