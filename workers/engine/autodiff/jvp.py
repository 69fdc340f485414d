"""Per-row directional derivatives ⟨v, ∇θ L(z)⟩ (JVPs), layer by layer, without a gradient.

A linear layer with weights W, inputs a and cotangent δ adds ⟨V, δ aᵀ⟩ = δᵀ V a: half of a pass
forward along v, which has W's products with the inputs' tangents, too. Gradients of all rows would
be (B, p) numbers to write and to read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from workers.engine.autodiff.derivative import LinearMap
from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.nodes import Tangent
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.autodiff.select import FIRST_ORDER, PROBE_ROWS, agrees, probe_vectors
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable

# Times that a row meets a weight, in the mean, as at every token: its gradient does so once, however many the vectors.
# Above it gradients took a half to a fifth of the time.
MOST_MEETINGS = 4


@dataclass(frozen=True)
class AnalyticJvp:
    """JVPs of a model whose graph has a rule for every node. Raises ValueError for one that has not."""

    graph: Traced

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to (k, B), for a batch that is `placed`."""
        return _layer_by_layer(self.linearized(problem, batch), len(batch))

    def linearized(self, problem: Problem, batch: Batch) -> Linearized:
        """The nodes of a batch, with their inputs and cotangents."""
        return Linearized.made(self.graph, problem, batch.at_least_two(), first_order=True)


def analytic_jvp(problem: Problem, probe: Batch) -> AnalyticJvp | None:
    """JVPs of the model's graph, if they cost less than gradients and agree with them on a few rows; else None."""
    graph = traced(problem)
    if graph is None:
        return None
    analytic, probe = AnalyticJvp(graph), problem.placed(probe)
    probe = probe.narrow(0, min(PROBE_ROWS, len(probe)))
    vectors = probe_vectors(problem)
    try:
        with twice_differentiable():
            linearized = analytic.linearized(problem, probe)
            if multiplications(linearized.nodes) > MOST_MEETINGS * problem.size:
                return None
            found = _layer_by_layer(linearized, len(probe))(vectors)
        expected = vectors @ per_example_gradients(problem, probe).T
    except Exception as error:  # a node without a rule, or a model that fails on few rows
        if is_out_of_memory(error):
            raise
        return None
    return analytic if agrees(found, expected, FIRST_ORDER) else None


def _layer_by_layer(linearized: Linearized, count: int) -> LinearMap:
    """The map of vectors (k, p) to (k, count): each layer's own output tangent times its cotangent, summed."""
    nodes = [node for node in linearized.nodes if node.target in linearized.live]

    def apply(vectors: Tensor) -> Tensor:
        total, theta_tangent = vectors.new_zeros(len(vectors), count), Tangent(vectors)
        for node in nodes:  # one without parameters has no output tangent of its own
            own = node.forward([None] * len(node.sources), theta_tangent)
            if own is not None and node.cotangent is not None:
                total += (own * node.cotangent).flatten(2).sum(2)[:, :count]
        return total

    return apply


def multiplications(nodes: Iterable[object]) -> int:
    """How many multiplications with weights a row takes on its way through these nodes."""
    total = 0
    for each in nodes:
        if isinstance(each, LinearLayer):
            total += each.inputs[0].numel() * len(each.weight)
        elif isinstance(each, Convolution):
            total += each.space.numel() * each.weight.numel()
    return total
