"""Finds the layers in a traced graph, and makes their nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from workers.engine.autodiff.graph.batched_ops import Batched
from workers.engine.autodiff.graph.convolution import Convolution, Picked
from workers.engine.autodiff.graph.grouped import GroupedConvolution
from workers.engine.autodiff.graph.linear import Embedding, LinearLayer, Scale
from workers.engine.autodiff.graph.nodes import Linear
from workers.engine.autodiff.graph.nonlinear import Normalised
from workers.engine.autodiff.graph.parameters import RepeatedParameter, TransposedLinear
from workers.engine.autodiff.graph.scope import TraceScope
from workers.engine.autodiff.graph.trace import is_operator, is_reshaping, last_name
from workers.engine.model.parameters import ParameterSlice


def take_layer(scope: TraceScope, node: fx.Node, reached: bool) -> bool:
    """Whether the node is a layer that θ reaches; if so its nodes are made."""
    layer = layer_of(node, scope.module, scope.value_of)
    if layer is None:
        return False
    weight, bias = scope.slice_of(layer.weight), scope.slice_of(layer.bias)
    if not reached and weight is None and bias is None:
        return False
    name, source = node.name, layer.source.name
    value = scope.values[source]
    if layer.kind == "max_pool":
        result, places = pooled(value, layer.options)
        scope.put(Picked(name, (source,), value.shape, result.shape, places), result)
    elif layer.kind == "embedding":
        assert layer.weight is not None
        assert weight is not None
        (padding,) = layer.options
        if value.ndim > 1 and len(value) == 1:  # the same tokens for each row: positions
            value = value.expand(scope.rows, *value.shape[1:])
        scope.put(
            Embedding(name, (), layer.weight, weight, value, padding),
            F.embedding(value, layer.weight),
        )
    elif layer.kind == "linear":
        assert layer.weight is not None
        result = F.linear(value, layer.weight, layer.bias)
        source, value, image = _unflattened(scope, layer.source, value)
        scope.put(LinearLayer(name, (source,), layer.weight, weight, bias, value, image), result)
    elif layer.kind == "transposed":
        assert layer.weight is not None
        result = value @ layer.weight
        result = result if layer.bias is None else result + layer.bias
        scope.put(TransposedLinear(name, (source,), layer.weight, weight, bias, value), result)
    elif layer.kind == "grouped":
        assert layer.weight is not None
        *lists, groups = layer.options
        none = [0] * len(lists[0])
        result = torch.ops.aten.convolution(
            value, layer.weight, layer.bias, *lists, False, none, groups
        )
        options = (*lists, groups, result.shape)
        scope.put(
            GroupedConvolution(name, (source,), layer.weight, weight, bias, value, *options), result
        )
    elif layer.kind == "convolution":
        assert layer.weight is not None
        stride, padding, dilation = layer.options
        none = [0] * len(stride)
        result = torch.ops.aten.convolution(
            value, layer.weight, layer.bias, *layer.options, False, none, 1
        )
        result = result.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last
        options = (stride, padding, dilation, result.shape[2:], scope.over_places)
        scope.put(Convolution(name, (source,), layer.weight, weight, bias, value, *options), result)
    else:
        _norm(scope, name, source, layer, weight, bias)
    return True


def _unflattened(
    scope: TraceScope, node: fx.Node, value: Tensor
) -> tuple[str, Tensor, torch.Size | None]:
    """What a linear layer takes: an image, where all that happened to it is to be flattened."""
    before = node.all_input_nodes[0].name if len(node.all_input_nodes) == 1 else ""
    image = scope.values.get(before)
    if (
        scope.fused
        and before in scope.active
        and is_reshaping(node, scope.module)
        and len(node.users) == 1
        and value.ndim == 2
        and isinstance(image, Tensor)
        and image.ndim > 2
        and value.shape[1] == image[0].numel()
    ):
        scope.nodes = [each for each in scope.nodes if each.target != node.name]
        scope.active.discard(node.name)
        return before, image, image.shape[1:]
    return node.name, value, None


def _norm(
    scope: TraceScope,
    name: str,
    source: str,
    layer: LayerMatch,
    weight: ParameterSlice | None,
    bias: ParameterSlice | None,
) -> None:
    value, hat = scope.values[source], f"{name}#normalised"
    if layer.kind == "batch_norm":
        mean, variance, eps = layer.options
        shape = (mean.shape[0],) + (1,) * (value.ndim - 2)
        inverse = (variance + eps).rsqrt().view(shape)
        inside = (value - mean.view(shape)) * inverse
        if source in scope.active:
            slope: Batched = lambda t: t * inverse  # noqa: E731
            scope.put(Linear(hat, (source,), slope, value.shape, slope, diagonal=True), inside)
    else:
        shape, eps = tuple(layer.options[0]), layer.options[1]
        axes = tuple(range(-len(shape), 0))
        centred = value - value.mean(axes, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
        inside = centred * inverse
        if source in scope.active:
            scope.put(Normalised(hat, (source,), axes, inside, inverse), inside)
    result = inside
    if layer.weight is not None:
        result = result * layer.weight.view(shape)
    if layer.bias is not None:
        result = result + layer.bias.view(shape)
    scope.put(Scale(name, (hat,), layer.weight, weight, bias, shape, inside), result)


def take_parameter(scope: TraceScope, node: fx.Node, sources: list[str]) -> bool:
    """Whether the node adds a parameter, multiplies with one, or gives one to each row; if so its node is made."""
    name = last_name(node.target)
    if name == "expand":
        return _repeated(scope, node)
    if name not in ("add", "mul") or len(node.args) != 2 or node.kwargs:
        return False
    left, right = node.args
    first, second = (scope.slice_of(scope.value_of(each)) for each in (left, right))
    place = second if first is None else first
    if place is None or (first is not None and second is not None):
        return False
    own, other = (left, right) if second is None else (right, left)
    value, parameter = scope.value_of(other), scope.value_of(own)
    shape = place.shape
    if isinstance(value, Tensor) and len(shape) == value.ndim and shape[:1] == (1,):
        shape = shape[1:]
    if not isinstance(value, Tensor) or len(shape) >= value.ndim or len(value) != scope.rows:
        return False
    if torch.broadcast_shapes(value.shape, shape) != value.shape:
        return False
    if name == "add":
        made = Scale(node.name, tuple(sources), None, None, place, shape, value)
        scope.put(made, value + parameter)
    else:
        made = Scale(node.name, tuple(sources), parameter, place, None, shape, value)
        scope.put(made, value * parameter)
    return True


def _repeated(scope: TraceScope, node: fx.Node) -> bool:
    """Whether the node gives each row a parameter (1, ...)."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    parameter = scope.value_of(node.args[0])
    place = scope.slice_of(parameter)
    if place is None:
        return False
    value = scope.function_of(node, [])()
    if place.shape[:1] != (1,) or value.shape != (scope.rows, *place.shape[1:]):
        return False
    made = RepeatedParameter(node.name, (), place, tuple(value.shape))
    scope.put(made, value)
    return True


# Returns what it saves for its own pass back, too; the first tensor is the normalised one.
FIXED_BATCH_NORM = "_native_batch_norm_legit_no_training"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ValueOf = Callable[[Any], Any]  # an argument of a node to its value


Kind = Literal[
    "linear",
    "transposed",
    "convolution",
    "grouped",
    "batch_norm",
    "layer_norm",
    "max_pool",
    "embedding",
]


@dataclass(frozen=True)
class LayerMatch:
    """A node with parameters, however it was written: as a module, a function or an operator."""

    kind: Kind
    source: fx.Node
    weight: Tensor | None = None
    bias: Tensor | None = None
    options: tuple[Any, ...] = ()


def layer_of(node: fx.Node, module: fx.GraphModule, value_of: ValueOf) -> LayerMatch | None:
    """The layer that this node is, None if it is none of those."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if last_name(node.target) == "embedding" and node.op == "call_function":
        return _embedding(node, value_of)
    if last_name(node.target) in ("addmm", "matmul", "mm") and node.op == "call_function":
        return _transposed(node, value_of)
    if node.op == "call_module":
        return _of_module(node.args[0], module.get_submodule(str(node.target)))
    if node.op != "call_function" or node.kwargs:
        return None
    given = [value_of(each) for each in node.args[1:]]
    return _of_function(node.args[0], node, given)


def _of_module(source: fx.Node, own: nn.Module) -> LayerMatch | None:
    if type(own) is nn.Linear:
        return LayerMatch("linear", source, own.weight, own.bias)
    if isinstance(own, _CONVOLUTIONS) and own.padding_mode == "zeros":
        return _convolution(
            source, own.weight, own.bias, (own.stride, own.padding, own.dilation), own.groups
        )
    if isinstance(own, _BATCH_NORMS) and own.running_mean is not None:
        assert own.running_var is not None
        fixed = (own.running_mean, own.running_var, own.eps)
        return LayerMatch("batch_norm", source, own.weight, own.bias, fixed)
    if type(own) is nn.LayerNorm:
        return LayerMatch(
            "layer_norm", source, own.weight, own.bias, (own.normalized_shape, own.eps)
        )
    if type(own) is nn.Embedding and own.max_norm is None and not own.scale_grad_by_freq:
        return LayerMatch("embedding", source, own.weight, options=(own.padding_idx,))
    if type(own) is nn.MaxPool2d and not own.return_indices:
        window = (own.kernel_size, own.stride, own.padding, own.dilation, own.ceil_mode)
        return LayerMatch("max_pool", source, options=window)
    return None


def _of_function(source: fx.Node, node: fx.Node, given: list[Any]) -> LayerMatch | None:
    name, aten = last_name(node.target), is_operator(node.target)
    if name == "linear" and given:
        return LayerMatch("linear", source, *given)
    if name in ("conv1d", "conv2d", "conv3d") and given:
        axes = given[0].ndim - 2
        defaults: list[Any] = [None, None, 1, 0, 1, 1]
        weight, bias, *options = [*given, *defaults[len(given) :]]
        lists = tuple((each,) * axes if isinstance(each, int) else each for each in options[:3])
        return _convolution(source, weight, bias, lists, options[3])
    if name == "batch_norm" and aten and len(given) > 6 and given[2] is not None:
        return LayerMatch("batch_norm", source, given[0], given[1], (given[2], given[3], given[6]))
    if name == FIXED_BATCH_NORM and len(given) > 5 and given[2] is not None:
        return LayerMatch("batch_norm", source, given[0], given[1], (given[2], given[3], given[5]))
    if name == "layer_norm" and given:
        shape, weight, bias, eps = [*given, None, None, 1e-5][:4] if len(given) < 4 else given[:4]
        return LayerMatch("layer_norm", source, weight, bias, (shape, eps))
    if name == "max_pool2d" and given:
        options = [*given, *[None, None, 0, 1, False][len(given) :]]
        return LayerMatch("max_pool", source, options=tuple(options))
    return None


def _convolution(
    source: fx.Node,
    weight: Tensor,
    bias: Tensor | None,
    lists: tuple[Any, ...],
    groups: int,
) -> LayerMatch | None:
    """`lists` are stride, padding and dilation along each axis."""
    if any(isinstance(each, str) for each in lists):
        return None
    if groups != 1:
        options = (*(list(each) for each in lists), groups)
        return LayerMatch("grouped", source, weight, bias, options)
    _, padding, dilation = lists
    reach = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(pad > each for pad, each in zip(padding, reach, strict=True)):
        return None  # a window that lies in the padding as a whole
    return LayerMatch("convolution", source, weight, bias, tuple(list(each) for each in lists))


def _transposed(node: fx.Node, value_of: ValueOf) -> LayerMatch | None:
    """a W, or b + a W as Conv1D of GPT-2 has it, with a parameter W as (in, out)."""
    if node.kwargs:
        return None
    adds = last_name(node.target) == "addmm"
    bias, source, weight = node.args if adds else (None, *node.args)
    matrix, shift = value_of(weight), value_of(bias)
    plain = shift is None or (isinstance(shift, Tensor) and shift.shape == matrix.shape[1:])
    given = value_of(source)
    if not (isinstance(source, fx.Node) and isinstance(matrix, Tensor) and matrix.ndim == 2):
        return None
    if not plain or not isinstance(given, Tensor) or given.ndim < 2:
        return None
    if not isinstance(matrix, nn.Parameter) or not (
        shift is None or isinstance(shift, nn.Parameter)
    ):
        return None
    return LayerMatch("transposed", source, matrix, shift)


def _embedding(node: fx.Node, value_of: ValueOf) -> LayerMatch | None:
    """embedding(tokens, weight, padding) of torch.nn.functional, (weight, tokens, ...) of aten."""
    aten = is_operator(node.target)
    source, other = (node.args[1], node.args[0]) if aten else node.args[:2]
    padding: Any = node.kwargs.get("padding_idx", node.args[2] if len(node.args) > 2 else None)
    plain = not any(node.kwargs.get(each) for each in ("max_norm", "scale_grad_by_freq", "sparse"))
    if not plain or any(node.args[3:]) or not isinstance(source, fx.Node):
        return None
    weight = value_of(other)
    padding = None if padding is None or (aten and padding < 0) else padding % len(weight)
    return LayerMatch("embedding", source, weight, options=(padding,))


def pooled(value: Tensor, options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Maxima over windows of (B, C, H, W), channels last, and each one's place, (B, windows, C)."""
    size, stride, padding, dilation, ceil = options
    result, places = F.max_pool2d(
        value, size, stride or None, padding, dilation, ceil, return_indices=True
    )
    lying = result.movedim(1, -1).contiguous().movedim(-1, 1)
    return lying, places.flatten(2).transpose(1, 2).contiguous()
