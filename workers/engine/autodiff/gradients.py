"""Per-example gradients, by the fastest backend that works for the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workers.engine.autodiff.graph.assemble import ParameterNode
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.trace import traced
from workers.engine.autodiff.select import FIRST_ORDER, agrees
from workers.engine.errors import EngineError, NotFinite
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets
from workers.engine.model.second_order import explained, is_out_of_memory, twice_differentiable

# Rows whose backward passes are batched together where the model itself does not batch: the cost
# grows with its square, what is saved in overhead grows with it.
BACKWARD_GROUP = 8
COMPARED_ROWS = 2  # with autograd, which takes a backward pass a row

Backend = Callable[[Problem, Batch], Tensor]  # a batch that is `placed` to (B, p)


def per_example_gradients(problem: Problem, batch: Batch, *, chunk: int | None = None) -> Tensor:
    """(B, p) gradients of each row's loss, `chunk` rows at a time. Raises NotFinite."""
    batch = problem.placed(batch)
    size, backends = chunk or len(batch), _backends_of(problem)
    pieces = [
        backends.gradients(problem, batch.narrow(first, min(first + size, len(batch))))
        for first in range(0, len(batch), size)
    ]
    gradients = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    # A sum needs no mask in memory; one that overflows is looked into.
    if bool(torch.isfinite(gradients.sum())):
        return gradients
    finite = torch.isfinite(gradients).all(1)
    if not bool(finite.all()):
        row = batch.start + int((~finite).nonzero()[0, 0])
        raise NotFinite("the gradient of the loss", row=row)
    return gradients


def gradient_backend(problem: Problem) -> str:
    """The name of what takes this problem's per-example gradients, as found out on the first batch."""
    return _backends_of(problem).name


def _backends_of(problem: Problem) -> GradientBackends:
    return problem.once(GradientBackends, GradientBackends)


class GradientBackends:
    """Backends from fast to certain: the first batch finds out which works, and later ones are taken by it."""

    def __init__(self) -> None:
        self._left = _all_backends()

    @property
    def name(self) -> str:
        """Name of the backend in use."""
        return str(getattr(self._left[0], "__name__", "by_graph"))

    def gradients(self, problem: Problem, batch: Batch) -> Tensor:
        """(B, p). Raises UnsupportedOperator when even one row at a time fails."""
        while True:
            try:
                with twice_differentiable():
                    return self._left[0](problem, batch)
            except Exception as error:  # a model may raise anything when it is vectorised
                if isinstance(error, EngineError) or is_out_of_memory(error):
                    raise
                if len(self._left) == 1:
                    self._left = _all_backends()  # it may have been this batch and not the model
                    raise explained(error, "differentiating the loss") from error
                self._left.pop(0)


class ByGraph:
    """Analytic gradients of the model's graph; the first time, a few rows are compared with autograd's.

    A graph does not show everything: hooks, for instance, or an operator's own backward rule. Rows of another shape
    are compared anew: with one position, where positions come before rows is not seen.
    """

    def __init__(self) -> None:
        self._agreed: set[tuple[torch.Size, ...]] = set()  # shapes of rows

    def __call__(self, problem: Problem, batch: Batch) -> Tensor:
        """(B, p), for a batch that is `placed`. Raises ValueError where there is no graph, or it is wrong."""
        shapes = tuple(each.shape[1:] for each in batch.inputs)
        if shapes not in self._agreed:
            probe = batch.narrow(0, min(COMPARED_ROWS, len(batch)))
            if not agrees(analytic_gradients(problem, probe), by_row(problem, probe), FIRST_ORDER):
                raise ValueError("the graph of the model does not show all of it")
            self._agreed.add(shapes)
        return analytic_gradients(problem, batch)


def analytic_gradients(problem: Problem, batch: Batch) -> Tensor:
    """(B, p), for a batch that is `placed`: of a layer, each row's cotangent times its inputs.

    No autograd over rows, and none of torch.func, whose first use costs over a second. Raises
    ValueError for a model without a graph, or with a node that has no rule.
    """
    graph = traced(problem)
    if graph is None:
        raise ValueError("a model that cannot be traced")
    given = batch.at_least_two()
    linearized = Linearized.made(graph, problem, given, first_order=True)
    result = torch.zeros(len(given), problem.size, dtype=problem.dtype, device=problem.device)
    for node in linearized.nodes:
        if node.target in linearized.live and isinstance(node, ParameterNode):
            node.row_gradients(result)
    return result[: len(batch)]


def by_vmap(problem: Problem, batch: Batch) -> Tensor:
    """One vectorised pass over all rows."""
    inputs, targets = len(batch.inputs), batch.target_tensors
    several = isinstance(batch.targets, tuple)

    def loss_of_row(theta: Tensor, *row: Tensor) -> Tensor:
        tensors = tuple(each.unsqueeze(0) for each in row)
        goal: Targets = tensors[inputs:] if several else (tensors[inputs] if targets else None)
        return problem.losses(theta, Batch(tensors[:inputs], goal, 0))[0]

    gradient = torch.func.grad(loss_of_row)
    arguments = (*batch.inputs, *targets)
    return torch.func.vmap(gradient, in_dims=(None, *(0 for _ in arguments)))(
        problem.theta, *arguments
    )


def by_batched_backward(problem: Problem, batch: Batch) -> Tensor:
    """Plain forward passes over small groups, backward passes vectorised within each."""
    theta = problem.theta.clone().requires_grad_()
    pieces: list[Tensor] = []
    for first in range(0, len(batch), BACKWARD_GROUP):
        group = batch.narrow(first, min(first + BACKWARD_GROUP, len(batch)))
        with torch.enable_grad():
            losses = problem.losses(theta, group)
        seeds = torch.eye(len(group), dtype=losses.dtype, device=losses.device)
        pieces += torch.autograd.grad(losses, theta, seeds, is_grads_batched=True)
    return torch.cat(pieces)


def by_row(problem: Problem, batch: Batch) -> Tensor:
    """A forward and a backward pass per row: slow, and works for whatever autograd can do."""
    theta = problem.theta.clone().requires_grad_()
    gradients = torch.empty(len(batch), problem.size, dtype=theta.dtype, device=theta.device)
    for position in range(len(batch)):
        with torch.enable_grad():
            loss = problem.losses(theta, batch.narrow(position, position + 1))[0]
        (gradients[position],) = torch.autograd.grad(loss, theta)
    return gradients


def _all_backends() -> list[Backend]:
    return [ByGraph(), by_vmap, by_batched_backward, by_row]
