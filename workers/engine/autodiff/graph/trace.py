"""The model as a graph of nodes, and what is known of them by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from workers.engine.autodiff.graph.functional import without_writes
from workers.engine.model.dtypes import follow
from workers.engine.model.losses import ProgramLoss
from workers.engine.model.problem import Problem

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
    | {"erf", "hardsigmoid", "hardswish", "log", "reciprocal", "rsqrt", "sqrt"}
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
    | {"constant_pad_nd", "index", "index_select", "pad", "repeat", "roll"}
    | {"movedim", "narrow", "neg", "permute", "reshape", "select", "slice", "split", "squeeze"}
    | {"sum", "swapaxes", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"}
)
# Take a tensor, and nothing of its derivative.
CONSTANT_NAMES = frozenset(
    {"detach", "empty_like", "fill", "full_like", "new_empty", "new_full", "new_ones", "new_zeros"}
    | {"ones_like", "zeros_like"}
)
RESHAPING_MODULES = (nn.Dropout, nn.Flatten, nn.Identity, nn.Unflatten)
RESHAPING_NAMES = frozenset(
    {"_unsafe_view", "alias", "clone", "contiguous", "flatten", "reshape", "unflatten", "view"}
)
VIEW_NAMES = frozenset({"_unsafe_view", "view"})
# With something that does not move on the other side; a quotient only by that.
SCALING_NAMES = frozenset({"div", "imul", "mul", "truediv"})
DIAGONAL_NAMES = SCALING_NAMES | {"masked_fill", "where"}
SOFTMAX_NAMES = frozenset({"softmax", "_softmax", "_safe_softmax"})
LOG_SOFTMAX_NAMES = frozenset({"log_softmax", "_log_softmax"})


@dataclass(frozen=True)
class Traced:
    """A graph whose placeholders are the model's inputs."""

    module: fx.GraphModule
    nodes: tuple[fx.Node, ...]
    input_names: tuple[str, ...]
    parameter_names: dict[int, str]  # by the parameter's id
    # Matrices of convolutions over all places (`Convolution.over_places`), by node and space: the same for every batch.
    over_places: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict, compare=False)


def traced(problem: Problem) -> Traced | None:
    """The model's graph, None where it cannot be traced or the loss is a part of it."""
    return problem.once("graph", lambda: _traced(problem))


def untraced(problem: Problem) -> str:
    """Why there is no graph, in words; empty where there is one."""
    traced(problem)
    return problem.once("untraced", str)


def _traced(problem: Problem) -> Traced | None:
    if isinstance(problem.loss, ProgramLoss):
        problem.once("untraced", lambda: "the loss is a part of the program")
        return None
    module = problem.module
    if not isinstance(module, fx.GraphModule):
        graph = _graph_of(module, problem.dtype)
        if isinstance(graph, str):
            problem.once("untraced", lambda: graph)
            return None
        module = graph
    module = without_writes(module)
    nodes = tuple(node for node in module.graph.nodes if "_guards_fn" not in str(node.target))
    names = {id(value): name for name, value in problem.module.named_parameters()}
    inputs = tuple(node.name for node in nodes if node.op == "placeholder")
    return Traced(module, nodes, inputs, names)


def draw_with(module: nn.Module, draw: Callable[[nn.Module], fx.GraphModule]) -> None:
    """Has the graph of this live module, or of a copy of it, made by `draw` where products first ask for it."""
    module.drawn_with = draw  # type: ignore[assignment]


_GRAPHS: WeakKeyDictionary[nn.Module, fx.GraphModule | str] = WeakKeyDictionary()


def _graph_of(module: nn.Module, dtype: torch.dtype) -> fx.GraphModule | str:
    """Of a live module, once: over its own parameters, in its problem's type; or why there is none."""
    if module not in _GRAPHS:
        try:
            _GRAPHS[module] = _drawn(module, dtype)
        except Exception as error:  # a model may do anything while it is traced
            words = f"{type(module).__name__} has no graph: {error}"
            _GRAPHS[module] = words.partition("\n")[0]
    return _GRAPHS[module]


def _drawn(module: nn.Module, dtype: torch.dtype) -> fx.GraphModule:
    draw = getattr(module, "drawn_with", None)
    if draw is None:
        return fx.symbolic_trace(module)
    found: fx.GraphModule = draw(module)
    follow(found, dtype)
    # By name, and as often as it has one: tied parameters are one again.
    for name, value in module.named_parameters(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        with suppress(AttributeError):  # the graph has no use for it
            owner = found.get_submodule(path)
            if hasattr(owner, last):
                setattr(owner, last, value)
    return found


def last_name(target: Any) -> str:
    """What a function, a method or an aten operator is called, without its overload.

    A function that stands for an operator says so by its `operator_name`.
    """
    if isinstance(target, str):
        return target
    stands_for = getattr(target, "operator_name", None)
    if isinstance(stands_for, str):
        return stands_for
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return str(getattr(target, "__name__", ""))


def is_operator(target: Any) -> bool:
    """Whether it is an aten operator, or stands for one."""
    return isinstance(target, torch._ops.OpOverload) or hasattr(target, "operator_name")


def called(node: fx.Node, module: fx.GraphModule) -> Callable[..., Any]:
    """The node as a function of its arguments."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target))
    if last_name(node.target) in VIEW_NAMES and isinstance(node.target, torch._ops.OpOverload):
        return torch.reshape  # our values may lie in another order than the model's
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
    # F.relu(x, inplace=…) says how and not what; torch.relu has no such argument.
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    arguments = node.args[1:]
    if node.op == "call_function" and is_operator(node.target):
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
    if name in ("constant_pad_nd", "pad"):
        given = (*node.args[2:], *node.kwargs.values())
        return all(each in ("constant", None, 0, 0.0) for each in given)
    return name in LINEAR_NAMES


def slope_of(
    node: fx.Node, source: str, value_of: Callable[[Any], Any]
) -> Callable[[Tensor], Tensor] | None:
    """The node's derivative in its only source that moves, where that is the same everywhere.

    It may be taken of any number of tensors at once that are stacked along an axis in front.
    """
    name, given = last_name(node.target), node.args
    at = [i for i, each in enumerate(given) if isinstance(each, fx.Node) and each.name == source]
    if len(at) != 1 or node.op == "call_module":
        return None
    moving = value_of(given[at[0]])
    others = [value_of(each) for i, each in enumerate(given) if i != at[0]]
    fits = all(not isinstance(o, Tensor) or o.ndim <= moving.ndim for o in others)
    if not fits or node.kwargs:
        return None
    if name in SCALING_NAMES and len(given) == 2:
        if name in ("mul", "imul"):
            return lambda t: t * others[0]
        return (lambda t: t / others[0]) if at == [0] else None
    if name in ("bmm", "matmul") and len(given) == 2:
        if others[0].ndim < 2 or moving.ndim < 2:
            return None
        return (lambda t: t @ others[0]) if at == [0] else (lambda t: others[0] @ t)
    if name == "masked_fill" and at == [0] and isinstance(others[0], Tensor):
        return lambda t: t.masked_fill(others[0], 0.0)
    if name == "where" and len(given) == 3 and at != [0]:
        mask = others[0]
        return lambda t: torch.where(mask, t, 0.0) if at == [1] else torch.where(mask, 0.0, t)
    return None


def softmax_axis(node: fx.Node, module: fx.GraphModule) -> int | None:
    """The axis of a softmax or its logarithm; None where the node is neither, or casts as well."""
    if node.op == "call_module":
        own = module.get_submodule(str(node.target))
        return own.dim if type(own) in (nn.Softmax, nn.LogSoftmax) else None  # type: ignore[return-value]
    if last_name(node.target) not in SOFTMAX_NAMES | LOG_SOFTMAX_NAMES:
        return None
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    casts = [*node.args[2:], node.kwargs.get("dtype")]
    plain = not any(each not in (None, False, 3) for each in casts)  # 3: torch's own stack level
    return axis if isinstance(axis, int) and plain else None


def is_logarithm(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether a softmax node is the logarithm of it."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.LogSoftmax
    return last_name(node.target) in LOG_SOFTMAX_NAMES


def attention_arguments(
    node: fx.Node, value_of: Callable[[Any], Any]
) -> tuple[Tensor | None, float] | None:
    """What is added to the scores and what the keys are multiplied with; None for other attention."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    if given.get("dropout_p") or given.get("enable_gqa") or len(node.args) < 3:
        return None
    query, key = value_of(given["query"]), value_of(given["key"])
    if query.ndim < 2 or query.shape[:-2] != key.shape[:-2]:
        return None
    mask = value_of(given.get("attn_mask"))
    if given.get("is_causal"):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        mask = mask.tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    return mask, given.get("scale") or query.shape[-1] ** -0.5


def is_reshaping(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether the node keeps all entries of its tensor in their order."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in RESHAPING_MODULES
    return last_name(node.target) in RESHAPING_NAMES
