"""The R-operator written out for a model's graph, node by node.

Pearlmutter, Fast exact multiplication by the Hessian (1994). With R the derivative along v, a pass
forward carries R of every node, a pass back R of every error signal δ. Layers with parameters are
large matrix products or convolutions over rows and vectors together (`layers`), what is between
them is elementwise, linear or torch's own derivative of one node (`parts`). A pass back that goes
on to the input is the perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.problem import Problem, doubled
from workers.engine.products import Apply, Product
from workers.engine.products.graph_parts import Assembly
from workers.engine.products.graph_trace import Traced, traced
from workers.engine.products.parts import Part
from workers.engine.rows import Batch

# Up to this many outputs a row's (c, c) Hessian of the loss is formed once and applied by a product.
FORMED_OUTPUTS = 64

Signals = dict[str, Tensor]


def graph_product(problem: Problem) -> Product | None:
    """The written-out product where the model can be traced, else None."""
    graph = traced(problem)
    return None if graph is None else GraphProduct(graph)


@dataclass(frozen=True)
class GraphProduct:
    """See the module. Refuses (ValueError) graphs with a node that it has no rule for."""

    graph: Traced
    name: str = "graph"

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """See `Product`."""
        alone = len(batch) == 1  # a model that squeezes its output would lose the row's axis
        ready = _Ready.made(self.graph, problem, doubled(batch) if alone else batch)

        def apply(vectors: Tensor) -> Tensor:
            result = torch.zeros_like(vectors)
            ready.pass_through(vectors, result)
            return result / 2 if alone else result

        return apply


@dataclass(frozen=True)
class GraphMixed:
    """∇ₓ ⟨v, ∇θ Σ L⟩ for the input of this position, by the same two passes."""

    graph: Traced
    position: int = 0
    name: str = "mixed_graph"

    def prepare(self, problem: Problem, batch: Batch) -> Apply:
        """See `Product`."""
        source = self.graph.input_names[self.position]
        alone = len(batch) == 1
        given = doubled(batch) if alone else batch
        ready = _Ready.made(self.graph, problem, given, moving=source)
        shape = batch.inputs[self.position].shape

        def apply(vectors: Tensor) -> Tensor:
            signals = ready.pass_through(vectors, torch.zeros_like(vectors))
            found = signals.get(source)
            if found is None:
                return vectors.new_zeros(len(vectors), *shape)
            return found.transpose(0, 1)[:, : len(batch)].contiguous()

        return apply


@dataclass
class _Ready:
    """The parts on one batch, with their error signals."""

    parts: Sequence[Part]
    output: str
    curved: Apply
    reaching: set[str]  # nodes whose error signals are wanted
    live: set[str] = field(default_factory=set)  # nodes with an error signal

    @classmethod
    def made(
        cls, graph: Traced, problem: Problem, batch: Batch, moving: str | None = None
    ) -> _Ready:
        assembly = Assembly(problem, graph, batch, moving)
        outputs = assembly.output.detach().requires_grad_()
        with torch.enable_grad():
            total = problem.loss(outputs, batch.targets).sum()
            (delta,) = torch.autograd.grad(total, outputs, create_graph=True)
        if assembly.output_name not in assembly.active:
            raise ValueError("the output does not depend on the parameters")
        ready = cls(
            assembly.parts,
            assembly.output_name,
            _loss_curvature(delta, outputs),
            assembly.active,
        )
        ready._backward(delta.detach())
        return ready

    def _backward(self, delta: Tensor) -> None:
        signals: Signals = {self.output: delta}
        for part in reversed(self.parts):
            found = signals.pop(part.target, None)
            if found is None:
                continue
            self.live.add(part.target)
            part.delta = found
            _add(signals, part.sources, part.backward(found), self.reaching)

    def pass_through(self, vectors: Tensor, result: Tensor) -> Signals:
        """Add H v to result; returns what arrives at the inputs: R of their error signals."""
        tangents: dict[str, Tensor | None] = {}
        for part in self.parts:
            entering = [tangents.get(each) for each in part.sources]
            tangents[part.target] = part.forward(entering, vectors)
        leaving = tangents[self.output]
        if leaving is None:
            return {}
        signals: Signals = {self.output: self.curved(leaving)}
        for part in reversed(self.parts):
            if part.target not in self.live:
                continue
            signal = signals.pop(part.target, None)
            if signal is None:
                continue
            entering = [tangents.get(each) for each in part.sources]
            wanted = any(each in self.reaching for each in part.sources)
            found = part.r_backward(entering, signal, vectors, result, wanted)
            tangents.pop(part.target)
            _add(signals, part.sources, found, self.reaching)
        return signals


def _add(
    signals: Signals, names: Sequence[str], found: Sequence[Tensor | None], reaching: set[str]
) -> None:
    for name, each in zip(names, found, strict=True):
        if each is not None and name in reaching:
            signals[name] = signals[name] + each if name in signals else each


def _loss_curvature(delta: Tensor, outputs: Tensor) -> Apply:
    """R of the outputs (B, k, ...) to R of their error signal."""
    if not delta.requires_grad:  # a loss linear in the outputs
        return torch.zeros_like
    width = outputs[0].numel()
    if width > FORMED_OUTPUTS:
        return lambda tangent: torch.autograd.grad(
            delta, outputs, tangent.transpose(0, 1), retain_graph=True, is_grads_batched=True
        )[0].transpose(0, 1)
    units = torch.eye(width, dtype=outputs.dtype, device=outputs.device)
    seeds = units.view(width, 1, *outputs.shape[1:]).expand(width, *outputs.shape)
    (rows,) = torch.autograd.grad(delta, outputs, seeds, is_grads_batched=True)
    formed = rows.flatten(2).transpose(0, 1).contiguous()  # (B, c, c), symmetric
    return lambda tangent: torch.bmm(tangent.flatten(2), formed).view(tangent.shape)
