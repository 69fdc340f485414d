"""From the nodes of a graph and one batch to the parts of a written-out product."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vjp
from torch.nn import functional as F

from workers.engine.problem import ParameterSlice, Problem
from workers.engine.products.graph_layers import Layer, layer_of, normalised, pooled
from workers.engine.products.graph_trace import (
    Traced,
    called,
    elementwise,
    is_linear,
    is_reshaping,
    last_name,
)
from workers.engine.products.layers import Convolution, LinearLayer, Scale
from workers.engine.products.parts import Elementwise, Linear, Part, Rearranged, Smooth, Sum
from workers.engine.rows import Batch


class Assembly:
    """Runs the graph on a batch and collects a part for every node that θ, or `moving`, reaches.

    Raises ValueError for a node without a rule.
    """

    def __init__(self, problem: Problem, graph: Traced, batch: Batch, moving: str | None) -> None:
        self.parts: list[Part] = []
        self.active: set[str] = set() if moving is None else {moving}
        self._module, self._names = graph.module, graph.parameter_names
        self._slices = {each.name: each for each in problem.layout}
        self._values: dict[str, Any] = dict(zip(graph.input_names, batch.inputs, strict=True))
        # A node whose value is several tensors is no part: its items are, as functions of its input.
        self._several: dict[str, tuple[str, Callable[[Tensor], Any]]] = {}
        for node in graph.nodes:
            if node.op == "output":
                self._finish(node)
            elif node.op == "get_attr":
                self._values[node.name] = operator.attrgetter(str(node.target))(graph.module)
            elif node.op != "placeholder":
                self._take(node)

    def _finish(self, node: fx.Node) -> None:
        result: Any = node.args[0]
        while isinstance(result, tuple | list) and len(result) == 1:
            result = result[0]
        if not isinstance(result, fx.Node):
            raise ValueError("several outputs")
        self.output_name, self.output = result.name, self._values[result.name]

    def _take(self, node: fx.Node) -> None:
        sources = [each.name for each in node.all_input_nodes if self._moves(each)]
        if self._layer(node, bool(sources)) or self._shift(node, sources):
            return
        if self._parameters_in(node):
            raise ValueError(f"no rule for parameters in {node.target}")
        function = self._function_of(node, sources)
        if not sources:
            self._values[node.name] = function()
            return
        values = [self._values[each] for each in sources]
        if len(sources) == 1 and sources[0] in self._several:
            source, before = self._several[sources[0]]
            item = node.args[1]
            self._linear(node.name, source, lambda given: before(given)[item])
            return
        curve = elementwise(node, self._module)
        if curve is not None:
            self._bend(node.name, sources[0], curve)
        elif last_name(node.target) in ("add", "sub", "iadd"):
            self._sum(node, sources)
        elif len(sources) == 1 and self._reshapes(node, function(*values), values[0]):
            after = function(*values)
            part = Rearranged(node.name, (sources[0],), values[0].shape, after.shape)
            self._put(part, after)
        elif len(sources) == 1 and is_linear(node, self._module):
            self._linear(node.name, sources[0], function)
        else:
            self._smooth(node.name, sources, function, values)

    def _reshapes(self, node: fx.Node, after: Any, before: Tensor) -> bool:
        """Whether each row keeps its entries, in their order."""
        if not is_reshaping(node, self._module) or not isinstance(after, Tensor):
            return False
        # The order of all entries is kept, so rows are where their number is.
        return after.shape[:1] == before.shape[:1] and after.numel() == before.numel()

    def _moves(self, node: fx.Node) -> bool:
        return node.name in self.active or node.name in self._several

    def _parameters_in(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            owned = self._module.get_submodule(str(node.target)).parameters()
            return any(self._slice(each) is not None for each in owned)
        given = (self._values.get(each.name) for each in node.all_input_nodes)
        return any(self._slice(each) is not None for each in given)

    def _slice(self, value: Any) -> ParameterSlice | None:
        return self._slices.get(self._names.get(id(value), ""))

    def _function_of(self, node: fx.Node, sources: list[str]) -> Callable[..., Any]:
        plain = called(node, self._module)
        curve = elementwise(node, self._module)
        if node.op != "call_module" and last_name(node.target).endswith("_") and curve is None:
            raise ValueError(f"{node.target} writes in place")
        if getattr(plain, "inplace", False) and curve is None:
            raise ValueError(f"{node.target} writes in place")

        def function(*given: Tensor) -> Any:
            named = dict(zip(sources, given, strict=True))

            def look(each: fx.Node) -> Any:
                return named.get(each.name, self._values.get(each.name))

            arguments = fx.node.map_arg(node.args, look)
            return plain(*arguments, **fx.node.map_arg(node.kwargs, look))

        return function

    def _put(self, part: Part, value: Tensor) -> None:
        self.parts.append(part)
        self.active.add(part.target)
        self._values[part.target] = value

    def _bend(self, name: str, source: str, function: Callable[[Tensor], Tensor]) -> None:
        value = self._values[source].detach().clone().requires_grad_()
        with torch.enable_grad():
            result = function(value.clone())  # a copy, since the function may work in place
            (first,) = torch.autograd.grad(result.sum(), value, create_graph=True)
            second = None
            if first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), value, allow_unused=True)
        if second is not None and not bool(second.any()):
            second = None  # piecewise linear
        self._put(Elementwise(name, (source,), first.detach(), second), result.detach())

    def _sum(self, node: fx.Node, sources: list[str]) -> None:
        function = self._function_of(node, sources)
        value = function(*(self._values[each] for each in sources))
        if node.kwargs or len(node.args) != 2 or len(set(sources)) != len(sources):
            raise ValueError("a sum with a factor, or of a node with itself")
        # k stands after the first axis, so that axis must be nobody's broadcast.
        shapes = tuple(self._values[each].shape for each in sources)
        if any(shape[:1] != value.shape[:1] or len(shape) != value.ndim for shape in shapes):
            raise ValueError("a sum that broadcasts the first axis")
        sign = -1.0 if last_name(node.target) == "sub" else 1.0
        if sign < 0.0 and node.args[0] is not node.all_input_nodes[0]:
            raise ValueError("a difference from a constant")
        if sign < 0.0 and sources[0] != node.all_input_nodes[0].name:
            raise ValueError("a difference from a constant")
        rows = tuple(shape[1:] for shape in shapes)
        self._put(Sum(node.name, tuple(sources), rows, sign, value.shape[1:]), value)

    def _linear(self, name: str, source: str, function: Callable[[Tensor], Any]) -> None:
        value, pull = vjp(function, self._values[source])[:2]
        if isinstance(value, tuple | list):
            self._values[name] = value
            self._several[name] = (source, function)
            return
        self._put(Linear(name, (source,), function, pull), value)

    def _smooth(
        self, name: str, sources: list[str], function: Callable[..., Any], values: list[Tensor]
    ) -> None:
        value = function(*values)
        several = value if isinstance(value, tuple | list) else ()
        if any(isinstance(each, Tensor) for each in several):
            raise ValueError(f"several tensors out of {name}")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            self._values[name] = value  # a shape, a number or a mask
            return
        self._put(Smooth(name, tuple(sources), function, tuple(values)), value)

    def _layer(self, node: fx.Node, reached: bool) -> bool:
        """Whether the node is a layer that θ reaches; if so its parts are made."""
        layer = layer_of(node, self._module, self._look)
        if layer is None:
            return False
        weight, bias = self._slice(layer.weight), self._slice(layer.bias)
        if not reached and weight is None and bias is None:
            return False
        name, source = node.name, layer.source.name
        value = self._values[source]
        if layer.kind == "max_pool":
            result, places = pooled(value, layer.options)
            part = Rearranged(name, (source,), value.shape, result.shape, places)
            self._put(part, result)
        elif layer.kind == "linear":
            assert layer.weight is not None
            linear = LinearLayer(name, (source,), layer.weight, weight, bias, value)
            self._put(linear, F.linear(value, layer.weight, layer.bias))
        elif layer.kind == "convolution":
            assert layer.weight is not None
            lists = layer.options
            none = [0] * len(lists[0])
            result = torch.ops.aten.convolution(
                value, layer.weight, layer.bias, *lists, False, none, 1
            )
            stride, padding, dilation = lists
            conv = Convolution(
                name,
                (source,),
                layer.weight,
                weight,
                bias,
                value,
                stride,
                padding,
                dilation,
                result.shape[2:],
            )
            self._put(conv, result)
        else:
            self._norm(name, source, layer, weight, bias)
        return True

    def _norm(
        self,
        name: str,
        source: str,
        layer: Layer,
        weight: ParameterSlice | None,
        bias: ParameterSlice | None,
    ) -> None:
        value, hat = self._values[source], f"{name}#normalised"
        if layer.kind == "batch_norm":
            mean, variance, eps = layer.options
            shape = (mean.shape[0],) + (1,) * (value.ndim - 2)
            inverse = (variance + eps).rsqrt().view(shape)
            inside = (value - mean.view(shape)) * inverse
            if source in self.active:
                self._put(
                    Linear(hat, (source,), lambda t: t * inverse, lambda s: (s * inverse,)), inside
                )
        else:
            shape, eps = tuple(layer.options[0]), layer.options[1]
            function = normalised(shape, eps)
            inside = function(value)
            if source in self.active:
                self._put(Smooth(hat, (source,), function, (value,)), inside)
        result = inside
        if layer.weight is not None:
            result = result * layer.weight.view(shape)
        if layer.bias is not None:
            result = result + layer.bias.view(shape)
        self._put(Scale(name, (hat,), layer.weight, weight, bias, shape, inside), result)

    def _shift(self, node: fx.Node, sources: list[str]) -> bool:
        """Whether the node adds a parameter; if so its part is made."""
        if last_name(node.target) != "add" or len(node.args) != 2 or node.kwargs:
            return False
        places = [self._slice(self._look(each)) for each in node.args]
        if (places[0] is None) == (places[1] is None):
            return False
        place, other = (places[0], node.args[1]) if places[0] else (places[1], node.args[0])
        value = self._look(other)
        assert place is not None
        if not isinstance(value, Tensor) or len(place.shape) >= value.ndim:
            raise ValueError("a parameter added to something smaller")
        result = value + self._look(node.args[0 if places[0] else 1])
        if result.shape != value.shape:
            raise ValueError("a parameter added to something smaller")
        self._put(Scale(node.name, tuple(sources), None, None, place, place.shape, value), result)
        return True

    def _look(self, argument: Any) -> Any:
        return self._values.get(argument.name) if isinstance(argument, fx.Node) else argument
