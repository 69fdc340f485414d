"""From a traced graph and one batch to the nodes that analytic derivatives are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from workers.engine.autodiff.graph.batched_ops import Batched, batched
from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.grouped import GroupedConvolution
from workers.engine.autodiff.graph.linear import Embedding, LinearLayer, Scale
from workers.engine.autodiff.graph.match_layers import (
    FIXED_BATCH_NORM,
    take_layer,
    take_parameter,
)
from workers.engine.autodiff.graph.match_nonlinear import take_nonlinear
from workers.engine.autodiff.graph.nodes import Linear, Node, Smooth
from workers.engine.autodiff.graph.parameters import (
    RepeatedParameter,
    SharedParameter,
    TransposedLinear,
)
from workers.engine.autodiff.graph.scope import TraceScope
from workers.engine.autodiff.graph.trace import (
    CONSTANT_NAMES,
    DIAGONAL_NAMES,
    Traced,
    is_linear,
    last_name,
    slope_of,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory

# Nodes with parameters: their `places` in θ, and each row's gradient.
ParameterNode = (
    LinearLayer
    | TransposedLinear
    | Convolution
    | GroupedConvolution
    | Scale
    | Embedding
    | SharedParameter
    | RepeatedParameter
)


class Assembly:
    """Runs the graph on a batch and collects a node of ours for every node that θ, or `moving`, reaches.

    `fused`: a linear layer takes an image as it lies, instead of its entries flattened. Raises
    ValueError for a node without a rule.
    """

    def __init__(
        self,
        problem: Problem,
        graph: Traced,
        batch: Batch,
        moving: str | None,
        *,
        fused: bool = True,
    ) -> None:
        self._scope = TraceScope(problem, graph, batch, moving, fused)
        # A node whose value is several tensors is none of ours: its items are, as functions of its input.
        self._several: dict[str, tuple[str, Callable[[Tensor], Any], Batched | None]] = {}
        self._firsts: set[str] = set()  # of several tensors, whose value is the first of them
        for node in graph.nodes:
            if node.op == "output":
                self._finish(node)
            elif node.op == "get_attr":
                value = operator.attrgetter(str(node.target))(graph.module)
                self._scope.values[node.name] = value
            elif node.op != "placeholder":
                try:
                    self._take(node)
                except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
                    if is_out_of_memory(error):
                        raise
                    words = str(error).partition("\n")[0]
                    raise ValueError(f"{_place_of(node)}: {words}") from error

    @property
    def nodes(self) -> list[Node]:
        """The nodes made, in the order of the graph."""
        return self._scope.nodes

    @property
    def active(self) -> set[str]:
        """Nodes that θ, or `moving`, reaches."""
        return self._scope.active

    def _finish(self, node: fx.Node) -> None:
        result: Any = node.args[0]
        while isinstance(result, tuple | list) and len(result) == 1:
            result = result[0]
        if not isinstance(result, fx.Node):
            raise ValueError("several outputs")
        self.output_name, self.output = result.name, self._scope.values[result.name]

    def _take(self, node: fx.Node) -> None:
        sources = [each.name for each in node.all_input_nodes if self._moves(each)]
        if take_layer(self._scope, node, bool(sources)):
            if last_name(node.target) == FIXED_BATCH_NORM:
                self._firsts.add(node.name)
            return
        if take_parameter(self._scope, node, sources) or self._first(node):
            return
        if self._scope.parameters_in(node):
            if node.op == "call_module":
                raise ValueError(f"no rule for parameters in {node.target}")
            self._scope.enter_parameters(node)
            sources = [each.name for each in node.all_input_nodes if self._moves(each)]
        function = self._scope.function_of(node, sources)
        if not sources or _is_constant(node, sources):
            self._scope.values[node.name] = function(*(self._scope.values[s] for s in sources))
        elif sources[0] in self._several:
            self._item(node, sources)
        elif not take_nonlinear(self._scope, node, sources) and not self._line(
            node, sources, function
        ):
            self._smooth(
                node.name, sources, function, [self._scope.values[each] for each in sources]
            )

    def _first(self, node: fx.Node) -> bool:
        """Whether the node takes the first tensor of one that stands for it."""
        source = node.all_input_nodes[0].name if node.all_input_nodes else ""
        if source not in self._firsts:
            return False
        if last_name(node.target) != "getitem" or node.args[1] != 0:
            raise ValueError(f"{node.target} of several tensors")
        value = self._scope.values[source]
        same: Batched = lambda t: t  # noqa: E731
        self._scope.put(Linear(node.name, (source,), same, value.shape, same, diagonal=True), value)
        return True

    def _item(self, node: fx.Node, sources: list[str]) -> None:
        """Takes one of the tensors of a node that has several."""
        source, before, batched_before = self._several[sources[0]]
        if last_name(node.target) != "getitem" or len(sources) > 1:
            raise ValueError(f"{node.target} of several tensors")
        item = node.args[1]
        together: Batched | None = None
        if batched_before is not None:
            together = lambda given: batched_before(given)[item]  # noqa: E731
        self._linear(node.name, source, lambda given: before(given)[item], together)

    def _line(self, node: fx.Node, sources: list[str], function: Callable[..., Any]) -> bool:
        """Whether the node is linear in one node that moves; if so its node is made."""
        if len(sources) != 1:
            return False
        value = self._scope.values[sources[0]]
        slope = slope_of(node, sources[0], self._scope.value_of)
        if slope is not None:
            after = function(value)
            diagonal = last_name(node.target) in DIAGONAL_NAMES and after.shape == value.shape
            made = Linear(node.name, (sources[0],), slope, value.shape, slope, diagonal=diagonal)
            self._scope.put(made, after)
            return True
        if not is_linear(node, self._scope.module) or node.all_input_nodes[0].name != sources[0]:
            return False
        after = function(value)
        shape = after.shape if isinstance(after, Tensor) else None
        given = [fx.node.map_arg(each, self._scope.value_of) for each in node.args[1:]]
        over = batched(node, self._scope.module, function, value.shape, shape, given)
        self._linear(node.name, sources[0], function, over, _plain_index(node, given))
        return True

    def _moves(self, node: fx.Node) -> bool:
        return node.name in self._scope.active or node.name in self._several

    def _linear(
        self,
        name: str,
        source: str,
        function: Callable[[Tensor], Any],
        over: Batched | None,
        index: tuple[int | slice, ...] | None = None,
    ) -> None:
        value = function(self._scope.values[source])
        if isinstance(value, tuple | list):
            self._scope.values[name] = value
            self._several[name] = (source, function, over)
            return
        before = self._scope.values[source].shape
        self._scope.put(Linear(name, (source,), function, before, over, index), value)

    def _smooth(
        self, name: str, sources: list[str], function: Callable[..., Any], values: list[Tensor]
    ) -> None:
        value = function(*values)
        several = value if isinstance(value, tuple | list) else ()
        if any(isinstance(each, Tensor) for each in several):
            raise ValueError(f"several tensors out of {name}")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            self._scope.values[name] = value  # a shape, a number or a mask
            return
        self._scope.put(Smooth(name, tuple(sources), function, tuple(values)), value)


def _is_constant(node: fx.Node, sources: list[str]) -> bool:
    """Whether nothing of the derivative passes: the tensor that it takes gives its shape alone, or was detached."""
    first = node.args[0] if node.args else None
    return (
        last_name(node.target) in CONSTANT_NAMES
        and isinstance(first, fx.Node)
        and sources == [first.name]
    )


def _place_of(node: fx.Node) -> str:
    """The node's operator, and the module that it stands in, in words."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [each[0] for each in stack.values() if each[0]]
    name = str(node.target) if node.op == "call_module" else last_name(node.target)
    return f"{name} in module {entries[-1]!r}" if entries else f"{name}, node {node.name!r}"


def _plain_index(node: fx.Node, given: list[Any]) -> tuple[int | slice, ...] | None:
    """What a node takes of a tensor, if that is plain indexing."""
    if last_name(node.target) != "getitem":
        return None
    index = given[0] if isinstance(given[0], tuple) else (given[0],)
    return index if all(isinstance(each, int | slice) for each in index) else None
