"""The model as a graph of nodes, and what is known of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from workers.engine.losses import Program
from workers.engine.problem import Problem

ELEMENTWISE_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
# By the last name of a function, a method or an aten operator; all take the tensor first.
ELEMENTWISE_NAMES = frozenset(
    {"celu", "cos", "elu", "exp", "gelu", "hardtanh", "leaky_relu", "logsigmoid", "mish", "pow"}
    | {"relu", "relu_", "selu", "sigmoid", "silu", "sin", "softplus", "square", "tanh", "relu6"}
)
LINEAR_MODULES = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.Dropout,  # in eval mode; `Problem` refuses any other
    nn.Flatten,
    nn.Identity,
    nn.Unflatten,
    nn.ZeroPad2d,
)
LINEAR_NAMES = frozenset(
    {"_unsafe_view", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "alias", "avg_pool1d", "chunk"}
    | {"avg_pool2d", "clone", "contiguous", "dropout", "expand", "flatten", "getitem", "mean"}
    | {"movedim", "narrow", "neg", "permute", "reshape", "select", "slice", "split", "squeeze"}
    | {"sum", "swapaxes", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"}
)
RESHAPING_MODULES = (nn.Dropout, nn.Flatten, nn.Identity, nn.Unflatten)
RESHAPING_NAMES = frozenset(
    {"_unsafe_view", "alias", "clone", "contiguous", "flatten", "reshape", "unflatten", "view"}
)
# With a number, not a node, on the other side.
SCALING_NAMES = frozenset({"mul", "div", "truediv"})


@dataclass(frozen=True)
class Traced:
    """A graph whose placeholders are the model's inputs."""

    module: fx.GraphModule
    nodes: tuple[fx.Node, ...]
    input_names: tuple[str, ...]
    parameter_names: dict[int, str]  # by the parameter's id


def traced(problem: Problem) -> Traced | None:
    """The model's graph, None where it cannot be traced or the loss is a part of it."""
    if isinstance(problem.loss, Program):
        return None
    module = problem.module
    if not isinstance(module, fx.GraphModule):
        try:
            module = fx.symbolic_trace(module)
        except Exception:  # a model may do anything while it is traced
            return None
    nodes = tuple(node for node in module.graph.nodes if "_guards_fn" not in str(node.target))
    names = {id(value): name for name, value in problem.module.named_parameters()}
    inputs = tuple(node.name for node in nodes if node.op == "placeholder")
    return Traced(module, nodes, inputs, names)


def last_name(target: Any) -> str:
    """What a function, a method or an aten operator is called, without its overload."""
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return str(getattr(target, "__name__", ""))


def called(node: fx.Node, module: fx.GraphModule) -> Callable[..., Any]:
    """The node as a function of its arguments."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda own, *arguments, **options: getattr(own, name)(*arguments, **options)
    function = node.target
    assert callable(function)
    return function


def elementwise(node: fx.Node, module: fx.GraphModule) -> Callable[[Tensor], Tensor] | None:
    """σ if the node is one."""
    if node.op == "call_module":
        own = module.get_submodule(str(node.target))
        return own if type(own) in ELEMENTWISE_MODULES else None
    name = last_name(node.target)
    if name not in ELEMENTWISE_NAMES or len(node.all_input_nodes) != 1:
        return None
    arguments, options = node.args[1:], node.kwargs
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        function: Any = node.target
    else:
        function = getattr(torch, name, None) or getattr(F, name)
    if name == "relu_":
        function = torch.relu
    return lambda z: function(z, *arguments, **options)


def is_linear(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether the node is a linear function, without parameters, of the only tensor it takes."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in LINEAR_MODULES
    name = last_name(node.target)
    if name == "dropout":
        return node.args[2:3] == (False,)
    if name in SCALING_NAMES:
        numbers = [each for each in node.args if not isinstance(each, fx.Node)]
        return len(numbers) == 1 and node.args[0] is not numbers[0]
    return name in LINEAR_NAMES


def is_reshaping(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether the node keeps all entries of its tensor in their order."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in RESHAPING_MODULES
    return last_name(node.target) in RESHAPING_NAMES
