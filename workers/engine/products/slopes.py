"""⟨v, ∇θ L⟩ of every row and vector, without a gradient: the written-out pass forward alone.

R of a row's loss along v is δᵀ R{outputs}, with δ the derivative of the loss in the outputs, taken in
its own form that does not cancel. Gradients of all rows would be (B, p) numbers to write and to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.problem import Problem, doubled
from workers.engine.products import Apply
from workers.engine.products.graph_parts import Assembly
from workers.engine.products.graph_trace import Traced, traced
from workers.engine.products.parts import Direction, Smooth
from workers.engine.rows import Batch
from workers.engine.second_order import is_out_of_memory, twice_differentiable

PROBE_ROWS = 4
PROBE_VECTORS = 2
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True)
class Slopes:
    """Of a model whose graph has a rule for every node."""

    graph: Traced

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """(k, p) vectors to (k, B), for a batch that is `placed`."""
        count = len(batch)
        # A model that squeezes its output would lose the axis of a single row.
        given = doubled(batch) if count == 1 else batch
        assembly = Assembly(problem, self.graph, given, None)
        if any(isinstance(each, Smooth) for each in assembly.parts):
            raise ValueError("a node without a rule of its own")
        outputs = assembly.output.detach().requires_grad_()
        with torch.enable_grad():
            total = problem.loss(outputs, given.targets).sum()
        delta = torch.autograd.grad(total, outputs)[0].flatten(1)  # (B, c)

        def apply(vectors: Tensor) -> Tensor:
            tangents: dict[str, Tensor | None] = {}
            for part in assembly.parts:
                entering = [tangents.get(each) for each in part.sources]
                tangents[part.target] = part.forward(entering, Direction(vectors))
            leaving = tangents[assembly.output_name]
            if leaving is None:
                return vectors.new_zeros(len(vectors), count)
            return torch.linalg.vecdot(leaving.flatten(2), delta)[:, :count]

        return apply


def slopes(problem: Problem, probe: Batch) -> Slopes | None:
    """The way, where it applies to the model and agrees with gradients on a few rows; else None."""
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
            found = way.prepare(problem, probe)(vectors)
        expected = vectors @ problem.gradients(probe).T
    except Exception as error:  # a node without a rule, or a model that fails on few rows
        if is_out_of_memory(error):
            raise
        return None
    bound = AGREEMENT.get(problem.dtype, 1e-3) * expected.abs().max()
    return way if bool((found - expected).abs().max() <= bound) else None
