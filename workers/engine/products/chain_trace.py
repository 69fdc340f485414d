"""Recognising chains: a model that is linear layers and elementwise functions, one after another."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from workers.engine.losses import Program
from workers.engine.problem import Problem


@dataclass(frozen=True)
class LinearStep:
    """z = a Wᵀ + b, by the names of its parameters."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class ElementwiseStep:
    """a = σ(z), each entry for itself."""

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FlattenStep:
    """All axes but the row's made one."""


Step = LinearStep | ElementwiseStep | FlattenStep

_ELEMENTWISE_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
# By the last name of a function, a method or an aten operator; all take the tensor first.
_ELEMENTWISE_NAMES = frozenset(
    {"celu", "cos", "elu", "exp", "gelu", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu"}
    | {"relu_", "selu", "sigmoid", "silu", "sin", "softplus", "square", "tanh"}
)
_PASSING = (nn.Identity, nn.Dropout)  # dropout in eval mode; `Problem` refuses any other


def chain_of(problem: Problem) -> list[Step] | None:
    """The model's steps from input 0 to output, None where it is anything but such a chain."""
    if isinstance(problem.loss, Program):
        return None
    graph_module = problem.module
    if not isinstance(graph_module, fx.GraphModule):
        try:
            graph_module = fx.symbolic_trace(graph_module)
        except Exception:  # a model may do anything while it is traced
            return None
    names = {id(value): name for name, value in problem.module.named_parameters()}
    return _Walk(graph_module, names).steps()


class _Walk:
    def __init__(self, graph_module: fx.GraphModule, names: dict[int, str]) -> None:
        self._module = graph_module
        self._names = names
        self._steps: list[Step] = []

    def steps(self) -> list[Step] | None:
        current: fx.Node | None = None
        for node in self._module.graph.nodes:
            if node.op == "get_attr" or "_guards_fn" in str(node.target):
                continue
            if node.op == "placeholder":
                if current is not None:
                    return None
                current = node
            elif node.op == "output":
                return self._steps if _unwrapped(node.args[0]) is current else None
            elif not node.args or node.args[0] is not current or not self._take(node):
                return None
            else:
                current = node
        return None

    def _take(self, node: fx.Node) -> bool:
        step = self._of_module(node) if node.op == "call_module" else self._of_function(node)
        if step is None:
            return False
        self._steps += step
        return True

    def _of_module(self, node: fx.Node) -> list[Step] | None:
        module = self._module.get_submodule(str(node.target))
        if type(module) is nn.Linear:
            return self._linear(module.weight, module.bias)
        if type(module) in _ELEMENTWISE_MODULES:
            return [ElementwiseStep(module)]
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return [FlattenStep()]
        return [] if type(module) in _PASSING else None

    def _of_function(self, node: fx.Node) -> list[Step] | None:
        name = _last_name(node.target)
        if name == "linear":
            given = [self._attribute(each) for each in node.args[1:]]
            return None if node.kwargs or not given else self._linear(*given)
        if name == "flatten" and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
            return [FlattenStep()]
        if name == "dropout" and node.op == "call_function":
            return [] if node.args[2:3] == (False,) else None
        if name in _ELEMENTWISE_NAMES and not _mentions_nodes(node):
            return [ElementwiseStep(_bound(node, name))]
        return None

    def _attribute(self, node: Any) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node.op != "get_attr":
            return _NOTHING
        return operator.attrgetter(str(node.target))(self._module)

    def _linear(self, weight: Any, bias: Any = None) -> list[Step] | None:
        named = self._names.get(id(weight))
        bias_named = None if bias is None else self._names.get(id(bias))
        if named is None or (bias is not None and bias_named is None):
            return None
        return [LinearStep(named, bias_named)]


_NOTHING = object()


def _last_name(target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return str(getattr(target, "__name__", ""))


def _bound(node: fx.Node, name: str) -> Callable[[Tensor], Tensor]:
    arguments, options = node.args[1:], node.kwargs
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        function: Any = node.target
    else:
        function = getattr(torch, name, None) or getattr(F, name)
    if name == "relu_":
        function = torch.relu
    return lambda z: function(z, *arguments, **options)


def _mentions_nodes(node: fx.Node) -> bool:
    return len(node.all_input_nodes) != 1


def _unwrapped(value: Any) -> Any:
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    return value
