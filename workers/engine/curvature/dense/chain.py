"""A chain of linear layers on one batch, differentiated twice row by row.

Of each layer z = W a + b of a row: its input a, its cotangent δ = ∂L/∂z, and the curvature
S = ∂²L/∂z². Backwards, with σ between a layer and the next,

    S ← σ′ Wᵀ S W σ′ + diag(σ″ Wᵀ δ),    δ ← σ′ Wᵀ δ,

from the loss's own Hessian in the outputs. Forwards from layer l, J = ∂a/∂z_l of every later
input, a diagonal until the first layer mixes it. Botev, Ritter and Barber, Practical Gauss-Newton
optimisation for deep learning (2017), have the recursion for S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workers.engine.autodiff.graph.assemble import Assembly
from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.autodiff.graph.nodes import Elementwise, Linear, Node, adjoint
from workers.engine.autodiff.graph.output import HESSIAN, Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.model.losses import Loss
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets

# More outputs than this take too many passes back for the Hessian of the loss.
MOST_OUTPUTS = 512


@dataclass
class ChainLayer:
    """A linear layer on a batch of B rows; `number` is its place among the chain's layers."""

    number: int
    linear: LinearLayer
    cotangent: Tensor  # (B, out)
    curvature: Tensor  # (B, out, out)

    @property
    def selected(self) -> bool:
        """Whether θ has the weight or the bias."""
        return self.linear.weight_slice is not None or self.linear.bias_slice is not None

    @property
    def multiplier_count(self) -> int:
        """d of `multipliers`."""
        inputs = 0 if self.linear.weight_slice is None else self.linear.weight.shape[1]
        return inputs + (self.linear.bias_slice is not None)

    @property
    def multipliers(self) -> Tensor:
        """What the selected parameters of an output are multiplied with: [a; 1], (d, B)."""
        inputs = self.linear.inputs
        rows: list[Tensor] = []
        if self.linear.weight_slice is not None:
            rows.append(inputs.T)
        if self.linear.bias_slice is not None:
            rows.append(inputs.new_ones(1, len(inputs)))
        return torch.cat(rows)


@dataclass(frozen=True)
class Crossing:
    """ChainLayer m as layer l < m reaches it: S_ml = ∂δ_m/∂z_l and J = ∂a_m/∂z_l."""

    upper: ChainLayer  # m
    lower: ChainLayer  # l
    curvature: Tensor  # (B, out_l, out_m)
    jacobian: Tensor  # (B, out_l, in_m), or its diagonal (B, out_l)


class Chain:
    """The nodes of a model that θ reaches, on one batch. Raises ValueError if they are no chain.

    Not `whole`: of those at the end that are one, where nothing before them has their weights.
    """

    def __init__(
        self,
        problem: Problem,
        graph: Traced,
        batch: Batch,
        *,
        whole: bool = True,
        first: str | None = None,
        term: Term = HESSIAN,
    ) -> None:
        """`first`: the node that the end begins with, as another batch has shown it."""
        assembly = Assembly(problem, graph, batch, None, fused=False)
        rows, nodes = len(assembly.output), list[Node](assembly.nodes)
        if not whole:
            nodes = list(_tail(nodes, rows) if first is None else _from_node(nodes, first))
        self._nodes = _in_a_row(nodes, assembly.output_name, rows)
        self._layers = _passed_back(self._nodes, problem.loss, assembly.output, batch.targets, term)

    @property
    def first(self) -> str:
        """The node that it begins with."""
        return self._nodes[0].target

    @property
    def layers(self) -> list[ChainLayer]:
        """The layers with a selected parameter, first to last."""
        return [each for each in self._layers.values() if each.selected]

    def crossings(self) -> Iterator[Crossing]:
        """Every pair of different layers that have selected parameters."""
        for place, lower in self._layers.items():
            if lower.selected:
                yield from self._from(place, lower)

    def _from(self, place: int, lower: ChainLayer) -> Iterator[Crossing]:
        last = max(place for place, layer in self._layers.items() if layer.selected)
        jacobian = torch.ones_like(lower.cotangent)
        for position in range(place + 1, last + 1):
            node = self._nodes[position]
            if isinstance(node, Elementwise):
                first = node.first
                jacobian = jacobian * (first if jacobian.ndim == 2 else first.unsqueeze(1))
            elif isinstance(node, Linear):
                full = torch.diag_embed(jacobian) if jacobian.ndim == 2 else jacobian
                jacobian = node.over_vectors(full.transpose(0, 1)).transpose(0, 1)
            else:
                upper = self._layers[position]
                weight = upper.linear.weight
                before, diagonal = jacobian, jacobian.ndim == 2
                # ∂z_m/∂z_l
                jacobian = jacobian.unsqueeze(2) * weight.T if diagonal else jacobian @ weight.T
                if upper.selected:
                    yield Crossing(upper, lower, torch.bmm(jacobian, upper.curvature), before)


def _is_by_row(node: Node, rows: int) -> bool:
    """Whether it takes one vector a row: not (B T, in), rows and positions together, nor (T, B, …), as in attention."""
    if isinstance(node, LinearLayer):
        return node.inputs.ndim == 2 and len(node.inputs) == rows
    return not isinstance(node, Linear) or node.before[:1] == (rows,)


def _tail(nodes: Sequence[Node], rows: int) -> Sequence[Node]:
    """From the last linear layer that nothing but a chain follows."""
    first = len(nodes)
    for place in reversed(range(len(nodes))):
        node = nodes[place]
        follows = place + 1 == len(nodes) or nodes[place + 1].sources == (node.target,)
        if not follows or not isinstance(node, LinearLayer | Elementwise | Linear):
            break
        if not _is_by_row(node, rows):
            break
        if isinstance(node, LinearLayer):
            first = place
    names = {each.name for node in nodes[first:] for each in getattr(node, "places", ())}
    if names & {each.name for node in nodes[:first] for each in getattr(node, "places", ())}:
        raise ValueError("layers at the end share weights with layers before")
    return nodes[first:]


def _from_node(nodes: Sequence[Node], first: str) -> Sequence[Node]:
    place = next(place for place, node in enumerate(nodes) if node.target == first)
    return nodes[place:]


def _in_a_row(nodes: Sequence[Node], output: str, rows: int) -> list[Node]:
    previous: str | None = None
    for node in nodes:
        if not isinstance(node, LinearLayer | Elementwise | Linear):
            raise ValueError(f"{node.target} is no node of a chain")
        if previous is not None and node.sources != (previous,):
            raise ValueError(f"{node.target} does not follow {previous}")
        if not _is_by_row(node, rows):
            raise ValueError(f"{node.target} has axes besides row and feature, or before the row")
        previous = node.target
    if not nodes or previous != output:
        raise ValueError("the output does not depend on the parameters")
    return list(nodes)


def _passed_back(
    nodes: list[Node], loss: Loss, outputs: Tensor, targets: Targets, term: Term
) -> dict[int, ChainLayer]:
    if outputs.ndim != 2 or outputs.shape[1] > MOST_OUTPUTS:
        raise ValueError("outputs with axes besides row and feature, or too many")
    cotangent, curvature = term.formed(loss, outputs, targets)
    if not term.bends:  # what is left without cotangents is Jᵀ S J
        cotangent = torch.zeros_like(cotangent)
    layers: dict[int, ChainLayer] = {}
    count = sum(isinstance(node, LinearLayer) for node in nodes)
    for place in reversed(range(len(nodes))):
        node = nodes[place]
        if isinstance(node, Elementwise):
            first = node.first
            curvature = curvature * first.unsqueeze(1) * first.unsqueeze(2)
            if node.second is not None:
                curvature.diagonal(dim1=1, dim2=2).addcmul_(cotangent, node.second)
            cotangent = cotangent * first
        elif isinstance(node, Linear):
            (cotangent,) = node.backward(cotangent)
            curvature = _twice(curvature, partial(_pulled, node))
        elif isinstance(node, LinearLayer):
            count -= 1
            layers[place] = ChainLayer(count, node, cotangent, curvature)
            if place:
                weight = node.weight
                cotangent = cotangent @ weight
                curvature = _twice(curvature, partial(_through, weight))
    return dict(sorted(layers.items()))


def _twice(curvature: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
    """Pull both sides of a symmetric (B, w, w) back."""
    half = pull(curvature)  # (B, w, v)
    return pull(half.transpose(1, 2).contiguous())


def _through(weight: Tensor, cotangent: Tensor) -> Tensor:
    return cotangent @ weight


def _pulled(node: Linear, cotangent: Tensor) -> Tensor:
    """The transpose of the node's function, applied to (B, w, ...)."""
    before = (cotangent.shape[1], *node.before)
    return adjoint(node.over_vectors, before, cotangent.transpose(0, 1)).transpose(0, 1)
