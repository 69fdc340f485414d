"""⟨v, ∇θ L⟩ of every row and vector, without a gradient: layer by layer, v's share of the outputs times δ.

A layer with weights W, inputs a and cotangent δ has ⟨V, δ aᵀ⟩ = δᵀ V a: half of a pass forward along
v, which has W's products with R of its inputs, too. Gradients of all rows would be (B, p) numbers to
write and to read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Apply
from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.nodes import Tangent
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable

PROBE_ROWS = 4
PROBE_VECTORS = 2
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-4}
# Times that a row meets a weight, in the mean, as at every token: its gradient does so once, however many the vectors.
MOST_MEETINGS = 4


@dataclass(frozen=True)
class Slopes:
    """Of a model whose graph has a rule for every node."""

    graph: Traced

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """(k, p) vectors to (k, B), for a batch that is `placed`."""
        return _shares(self.linearized(problem, batch), len(batch))

    def linearized(self, problem: Problem, batch: Batch) -> Linearized:
        """The layers of a batch, with their inputs and cotangents."""
        # A model that squeezes its output would lose the axis of a single row.
        given = batch.doubled() if len(batch) == 1 else batch
        return Linearized.made(self.graph, problem, given, first_order=True)


def slopes(problem: Problem, probe: Batch) -> Slopes | None:
    """The way, where it pays, and agrees with gradients on a few rows; else None."""
    graph = traced(problem)
    if graph is None:
        return None
    way = Slopes(graph)
    probe = problem.placed(probe)
    probe = probe.narrow(0, min(PROBE_ROWS, len(probe)))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(PROBE_VECTORS, problem.size, generator=generator, dtype=torch.float64)
    vectors = drawn.to(problem.theta)
    try:
        with twice_differentiable():
            linearized = way.linearized(problem, probe)
            if work_of(linearized.nodes) > MOST_MEETINGS * problem.size:
                return None
            found = _shares(linearized, len(probe))(vectors)
        expected = vectors @ per_example_gradients(problem, probe).T
    except Exception as error:  # a node without a rule, or a model that fails on few rows
        if is_out_of_memory(error):
            raise
        return None
    bound = AGREEMENT.get(problem.dtype, 1e-3) * expected.abs().max()
    return way if bool((found - expected).abs().max() <= bound) else None


def _shares(linearized: Linearized, count: int) -> Apply:
    """(k, p) vectors to (k, count): each layer's move of its own along a vector, times its cotangent."""
    nodes = [node for node in linearized.nodes if node.target in linearized.live]

    def apply(vectors: Tensor) -> Tensor:
        total, theta_tangent = vectors.new_zeros(len(vectors), count), Tangent(vectors)
        for node in nodes:  # a node without parameters does not move of its own
            moved = node.forward([None] * len(node.sources), theta_tangent)
            if moved is not None and node.cotangent is not None:
                total += (moved * node.cotangent).flatten(2).sum(2)[:, :count]
        return total

    return apply


def work_of(nodes: Iterable[object]) -> int:
    """Multiplications with weights, of a row."""
    total = 0
    for each in nodes:
        if isinstance(each, LinearLayer):
            total += each.inputs[0].numel() * len(each.weight)
        elif isinstance(each, Convolution):
            total += each.space.numel() * each.weight.numel()
    return total
