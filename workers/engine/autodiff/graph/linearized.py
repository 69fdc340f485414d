"""A model linearized on one batch: analytic products with second derivatives, node by node of its graph.

Pearlmutter, Fast exact multiplication by the Hessian (1994). With R the derivative along v, a pass
forward carries R of every node, its tangent, and a pass back R of every cotangent δ. Layers with
parameters are large matrix products or convolutions over rows and vectors together (`linear`,
`convolution`); what is between them is elementwise, linear or torch's own derivative of one node
(`nodes`, `nonlinear`). A pass back that goes on to the input is the mixed derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Derivative, LinearMap, Sums
from workers.engine.autodiff.graph.assemble import Assembly, ParameterNode
from workers.engine.autodiff.graph.nodes import BackwardContext, Cotangents, Node, Tangent
from workers.engine.autodiff.graph.output import HESSIAN, Term, output_cotangents
from workers.engine.autodiff.graph.parameters import SharedParameter
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


def analytic_hvp(problem: Problem, term: Term = HESSIAN) -> Derivative | None:
    """The analytic product with the Hessian, or its term, where the model can be traced, else None."""
    graph = traced(problem)
    return None if graph is None else AnalyticHvp(graph, term)


@dataclass(frozen=True)
class AnalyticHvp:
    """H v by the rules of the graph's nodes. Raises ValueError for a graph with a node without a rule."""

    graph: Traced
    term: Term = HESSIAN
    name: str = "graph"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Linearizes the model on the batch; the result takes vectors (k, p) to their products, (k, p)."""
        linearized = Linearized.made(self.graph, problem, batch.at_least_two(), term=self.term)
        return linearized.halved if len(batch) == 1 else linearized


@dataclass(frozen=True)
class AnalyticMixed:
    """∇ₓ ⟨v, ∇θ Σ L⟩ for the input of this position, by the same two passes."""

    graph: Traced
    position: int = 0
    name: str = "mixed_graph"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Linearizes the model on the batch; the result takes vectors (k, p) to (k, B, ...), shaped as the input."""
        source = self.graph.input_names[self.position]
        linearized = Linearized.made(self.graph, problem, batch.at_least_two(), moving=source)
        shape = batch.inputs[self.position].shape

        def apply(vectors: Tensor) -> Tensor:
            cotangents = linearized.pass_through(Tangent(vectors), None)
            found = cotangents.pop(source)
            if found is None:
                return vectors.new_zeros(len(vectors), *shape)
            return found[:, : len(batch)].contiguous()

        return apply


def rows_come_first(assembly: Assembly) -> bool:
    """Whether every layer has its rows one after the other, as whoever tells a row's gradient from another's assumes.

    Layers within `nn.MultiheadAttention` have not: positions come first there. What goes back from one row's outputs
    arrives at this row alone, where rows are independent, so that anything but 0 elsewhere is in another row's place.
    """
    linearized = Linearized(assembly.nodes, assembly.output_name, torch.zeros_like, assembly.active)
    output, rows = assembly.output, len(assembly.output)
    # No sum of them is 0, as that of equal ones is behind a norm or a softmax.
    uneven = torch.arange(1, output.numel() + 1, device=output.device).to(output.dtype).cos()
    for row in range(rows):
        seed = torch.zeros_like(output)
        seed[row] = uneven.view(output.shape)[row]
        linearized.live.clear()
        linearized.back(seed)
        for node in assembly.nodes:
            if not isinstance(node, ParameterNode) or node.target not in linearized.live:
                continue
            assert node.cotangent is not None
            if isinstance(node, SharedParameter) or node.cotangent.numel() % rows:
                return False
            others = node.cotangent.reshape(rows, -1).clone()
            others[row] = 0.0
            if bool((others != 0.0).any()):
                return False
    return True


@dataclass
class Linearized:
    """The nodes on one batch, with their cotangents; an `LinearMap` that is `AccumulatingMap`."""

    nodes: Sequence[Node]
    output: str
    output_hessian: LinearMap  # from the output's tangent to R of its cotangent
    reaching: set[str]  # nodes whose cotangents are wanted
    bends: bool = True  # whether products have what the model's own curvature adds
    live: set[str] = field(default_factory=set)  # nodes with a cotangent

    @classmethod
    def made(
        cls,
        graph: Traced,
        problem: Problem,
        batch: Batch,
        moving: str | None = None,
        *,
        first_order: bool = False,
        term: Term = HESSIAN,
    ) -> Linearized:
        """Raises ValueError for a graph with a node that there is no rule for.

        `first_order`: for gradients alone, without the loss's own curvature.
        """
        assembly = Assembly(problem, graph, batch, moving)
        if assembly.output_name not in assembly.active:
            raise ValueError("the output does not depend on the parameters")
        if first_order:
            cotangent = output_cotangents(problem.loss, assembly.output, batch.targets)
            output_hessian: LinearMap = torch.zeros_like
        else:
            cotangent, output_hessian = term.derivatives(
                problem.loss, assembly.output, batch.targets
            )
        linearized = cls(
            assembly.nodes, assembly.output_name, output_hessian, assembly.active, term.bends
        )
        linearized.back(cotangent)
        return linearized

    def rows(self, indices: Tensor) -> Linearized | None:
        """The same of these rows of the batch; None where a node does not say which of its tensors have a row each."""

        def taken(one: object) -> Any:
            fields = {name: getattr(one, name) for name in one.ROWS}  # type: ignore[attr-defined]
            return replace(
                one,  # type: ignore[type-var]
                **{name: None if each is None else each[indices] for name, each in fields.items()},
            )

        if not all(hasattr(each, "ROWS") for each in (*self.nodes, self.output_hessian)):
            return None
        nodes = [taken(each) for each in self.nodes]
        return replace(self, nodes=nodes, output_hessian=taken(self.output_hessian))

    def back(self, cotangent: Tensor) -> None:
        """Every node's cotangent from that of the output, (B, ...)."""
        cotangents = Cotangents(self.reaching, {self.output: cotangent})
        for node in reversed(self.nodes):
            found = cotangents.pop(node.target)
            if found is None:
                continue
            self.live.add(node.target)
            node.cotangent = found
            if any(each in self.reaching for each in node.sources):
                cotangents.add(node.sources, node.backward(found))

    def __call__(self, vectors: Tensor) -> Tensor:
        """H v of the batch, (k, p)."""
        result = torch.zeros_like(vectors)
        sums = Sums(result)
        self.add(vectors, sums)
        sums.settle()
        return result

    def halved(self, vectors: Tensor) -> Tensor:
        """H v of a single row, which was given twice: half of what comes out, (k, p)."""
        return self(vectors).div_(2)

    def add(self, vectors: Tensor, sums: Sums) -> None:
        """Add H v of the batch to the sums."""
        self.pass_through(Tangent(vectors), sums)

    def pass_through(
        self, theta_tangent: Tangent, sums: Sums | None, lowest: int = 0
    ) -> Cotangents:
        """Add H v to the sums; returns what arrives at the inputs: R of their cotangents.

        From the node with this number on, before which v moves nothing: what those before it would
        add to the sums is left out.
        """
        nodes = self.nodes[lowest:]
        tangents: dict[str, Tensor | None] = {}
        for node in nodes:
            input_tangents = [tangents.get(each) for each in node.sources]
            tangents[node.target] = node.forward(input_tangents, theta_tangent)
        output_tangent = tangents.get(self.output)
        reaching = {node.target for node in nodes} if lowest else self.reaching
        if output_tangent is None:
            return Cotangents(reaching, {})
        cotangents = Cotangents(reaching, {self.output: self.output_hessian(output_tangent)})
        if not self.bends:  # as if nothing moved on the way back: what is left is Jᵀ
            tangents, theta_tangent = {}, Tangent(theta_tangent.vectors, frozenset())
        for node in reversed(nodes):
            r_cotangent = cotangents.pop(node.target)
            output_tangent = tangents.pop(node.target, None)
            if node.target not in self.live or r_cotangent is None:
                continue
            wanted = any(each in reaching for each in node.sources)
            input_tangents = [tangents.get(each) for each in node.sources]
            found = node.r_backward(
                BackwardContext(
                    theta_tangent, input_tangents, output_tangent, r_cotangent, sums, wanted
                )
            )
            cotangents.add(node.sources, found)
        return cotangents
