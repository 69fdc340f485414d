"""What is known while a graph is run on a batch: the values of its nodes, and what has been made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from workers.engine.autodiff.graph.nodes import Node
from workers.engine.autodiff.graph.parameters import SharedParameter
from workers.engine.autodiff.graph.trace import Traced, called, elementwise, last_name
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class TraceScope:
    """`values` by a node's name; `active` are the nodes that θ, or `moving`, reaches.

    `fused`: a linear layer takes an image as it lies, instead of its entries flattened.
    """

    def __init__(
        self, problem: Problem, graph: Traced, batch: Batch, moving: str | None, fused: bool
    ) -> None:
        self.nodes: list[Node] = []
        self.active: set[str] = set() if moving is None else {moving}
        self.values: dict[str, Any] = dict(zip(graph.input_names, batch.inputs, strict=True))
        self.module, self.fused = graph.module, fused
        self.rows = len(batch)
        self.over_places = graph.over_places
        self._names = graph.parameter_names
        self._slices = {each.name: each for each in problem.layout}

    def put(self, node: Node, value: Tensor) -> None:
        """Add a node, and the value that it has on the batch."""
        self.nodes.append(node)
        self.active.add(node.target)
        self.values[node.target] = value

    def value_of(self, argument: Any) -> Any:
        """The value of an argument of a node."""
        return self.values.get(argument.name) if isinstance(argument, fx.Node) else argument

    def slice_of(self, value: Any) -> ParameterSlice | None:
        """Where a selected parameter lies in θ; None for anything else."""
        return self._slices.get(self._names.get(id(value), ""))

    def moving(self, node: fx.Node, count: int) -> tuple[str, ...]:
        """Names of the node's first arguments if all of them are nodes that move, else ()."""
        names = tuple(each.name for each in node.args[:count] if isinstance(each, fx.Node))
        return names if len(names) == count and self.active.issuperset(names) else ()

    def parameters_in(self, node: fx.Node) -> bool:
        """Whether the node takes a selected parameter."""
        if node.op == "call_module":
            owned = self.module.get_submodule(str(node.target)).parameters()
            return any(self.slice_of(each) is not None for each in owned)
        given = (self.values.get(each.name) for each in node.all_input_nodes)
        return any(self.slice_of(each) is not None for each in given)

    def enter_parameters(self, node: fx.Node) -> list[str]:
        """Makes nodes of the selected parameters that the node takes as tensors; answers their names."""
        found = []
        for each in node.all_input_nodes:
            place = self.slice_of(self.values.get(each.name))
            if place is not None and each.name not in self.active:
                self.put(SharedParameter(each.name, (), place), self.values[each.name].detach())
                found.append(each.name)
        return found

    def function_of(self, node: fx.Node, sources: list[str]) -> Callable[..., Any]:
        """The node as a function of those sources. Raises ValueError if it writes in place.

        It holds what else the node takes and nothing of this scope: the nodes made of it would hold, in a circle, the
        values of all others.
        """
        plain = called(node, self.module)
        curve = elementwise(node, self.module)
        name = last_name(node.target)
        writes = name.endswith("_") and not name.endswith("__")  # `__and__` does not
        if node.op != "call_module" and writes and curve is None:
            raise ValueError(f"{node.target} writes in place")
        if getattr(plain, "inplace", False) and curve is None:
            raise ValueError(f"{node.target} writes in place")

        taken = {each.name for each in node.all_input_nodes} - set(sources)
        fixed = {each: self.values.get(each) for each in taken}

        def function(*given: Tensor) -> Any:
            named = dict(zip(sources, given, strict=True))

            def value_of(each: fx.Node) -> Any:
                return named[each.name] if each.name in named else fixed[each.name]

            arguments = fx.node.map_arg(node.args, value_of)
            return plain(*arguments, **fx.node.map_arg(node.kwargs, value_of))

        return function
