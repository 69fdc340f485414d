"""Per-example gradients, by the fastest way that this model allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workers.engine.autodiff.graph.assemble import ParameterNode
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.errors import EngineError, NotFinite
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets
from workers.engine.model.second_order import explained, is_out_of_memory, twice_differentiable

# Rows whose backward passes are batched together where the model itself does not batch: the cost
# grows with its square, what is saved in overhead grows with it.
BACKWARD_GROUP = 8

PROBE_ROWS = 2
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-4}

Way = Callable[[Problem, Batch], Tensor]


def per_example_gradients(problem: Problem, batch: Batch, *, chunk: int | None = None) -> Tensor:
    """(B, p) gradients of each row's loss, `chunk` rows at a time. Raises NotFinite."""
    batch = problem.placed(batch)
    size, ladder = chunk or len(batch), _ladder_of(problem)
    pieces = [
        ladder.gradients(problem, batch.narrow(first, min(first + size, len(batch))))
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


def gradient_way(problem: Problem) -> str:
    """How this problem's per-example gradients are taken, as found out on the first batch."""
    return _ladder_of(problem).way


def _ladder_of(problem: Problem) -> GradientLadder:
    return problem.once(GradientLadder, GradientLadder)


class GradientLadder:
    """Tries ways from fast to certain on the first batch, and remembers the one that works."""

    def __init__(self) -> None:
        self._ways: list[Way] = [ByGraph(), *_WAYS]

    @property
    def way(self) -> str:
        """Name of the way in use."""
        return str(getattr(self._ways[0], "__name__", "by_graph"))

    def gradients(self, problem: Problem, batch: Batch) -> Tensor:
        """(B, p). Raises UnsupportedOperator when even one row at a time fails."""
        while True:
            try:
                with twice_differentiable():
                    return self._ways[0](problem, batch)
            except Exception as error:  # a model may raise anything when it is vectorised
                if isinstance(error, EngineError) or is_out_of_memory(error):
                    raise
                if len(self._ways) == 1:
                    self._ways = [
                        ByGraph(),
                        *_WAYS,
                    ]  # it may have been this batch and not the model
                    raise explained(error, "differentiating the loss") from error
                self._ways.pop(0)


class ByGraph:
    """Written out for the model's graph; the first time, a few rows are compared with autograd's.

    A graph does not show everything: hooks, for instance, or an operator's own backward rule.
    """

    def __init__(self) -> None:
        self._written_out: Way | None = None

    def __call__(self, problem: Problem, batch: Batch) -> Tensor:
        """See `GradientLadder`. Raises ValueError where it does not apply, or is wrong."""
        if self._written_out is None:
            way = WrittenOutGradients()
            probe = batch.narrow(0, min(PROBE_ROWS, len(batch)))
            found, expected = way(problem, probe), by_row(problem, probe)
            bound = AGREEMENT.get(problem.dtype, 1e-2) * expected.abs().max()
            if bool(torch.isfinite(expected).all()) and bool(
                (found - expected).abs().max() > bound
            ):
                raise ValueError("the graph of the model does not show all of it")
            self._written_out = way
        return self._written_out(problem, batch)


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


_WAYS: tuple[Way, ...] = (by_vmap, by_batched_backward, by_row)


class WrittenOutGradients:
    """Of one model. Raises ValueError where a node of its graph has no rule."""

    def __init__(self) -> None:
        self._graph: Traced | None = None

    def __call__(self, problem: Problem, batch: Batch) -> Tensor:
        """(B, p), for a batch that is `placed`."""
        if self._graph is None:
            self._graph = traced(problem)
        if self._graph is None:
            raise ValueError("a model that cannot be traced")
        # A model that squeezes its output would lose the axis of a single row.
        given = batch.doubled() if len(batch) == 1 else batch
        linearized = Linearized.made(self._graph, problem, given, first_order=True)
        result = torch.zeros(len(given), problem.size, dtype=problem.dtype, device=problem.device)
        for node in linearized.nodes:
            if node.target not in linearized.live:
                continue
            if isinstance(node, ParameterNode):
                node.row_gradients(result)
        return result[: len(batch)]
