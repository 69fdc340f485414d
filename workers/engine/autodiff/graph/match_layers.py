"""Parts of nodes with parameters."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from workers.engine.autodiff.graph.batched_ops import Raised
from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.graph_layers import Layer, layer_of, pooled
from workers.engine.autodiff.graph.linear import Embedding, LinearLayer, Scale
from workers.engine.autodiff.graph.nodes import Linear
from workers.engine.autodiff.graph.nonlinear import Normalised
from workers.engine.autodiff.graph.pooling import Picked
from workers.engine.autodiff.graph.scope import Board
from workers.engine.autodiff.graph.trace import is_reshaping, last_name
from workers.engine.model.parameters import ParameterSlice


def take_layer(board: Board, node: fx.Node, reached: bool) -> bool:
    """Whether the node is a layer that θ reaches; if so its parts are made."""
    layer = layer_of(node, board.module, board.look)
    if layer is None:
        return False
    weight, bias = board.slice_of(layer.weight), board.slice_of(layer.bias)
    if not reached and weight is None and bias is None:
        return False
    name, source = node.name, layer.source.name
    value = board.values[source]
    if layer.kind == "max_pool":
        result, places = pooled(value, layer.options)
        board.put(Picked(name, (source,), value.shape, result.shape, places), result)
    elif layer.kind == "embedding":
        assert layer.weight is not None
        assert weight is not None
        (padding,) = layer.options
        board.put(
            Embedding(name, (), layer.weight, weight, value, padding),
            F.embedding(value, layer.weight),
        )
    elif layer.kind == "linear":
        assert layer.weight is not None
        result = F.linear(value, layer.weight, layer.bias)
        source, value, image = _unflattened(board, layer.source, value)
        board.put(LinearLayer(name, (source,), layer.weight, weight, bias, value, image), result)
    elif layer.kind == "convolution":
        assert layer.weight is not None
        stride, padding, dilation = layer.options
        none = [0] * len(stride)
        result = torch.ops.aten.convolution(
            value, layer.weight, layer.bias, *layer.options, False, none, 1
        )
        result = result.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last
        options = (stride, padding, dilation, result.shape[2:])
        board.put(Convolution(name, (source,), layer.weight, weight, bias, value, *options), result)
    else:
        _norm(board, name, source, layer, weight, bias)
    return True


def _unflattened(
    board: Board, node: fx.Node, value: Tensor
) -> tuple[str, Tensor, torch.Size | None]:
    """What a linear layer takes: an image, where all that happened to it is to be flattened."""
    before = node.all_input_nodes[0].name if len(node.all_input_nodes) == 1 else ""
    image = board.values.get(before)
    if (
        board.fused
        and before in board.active
        and is_reshaping(node, board.module)
        and len(node.users) == 1
        and value.ndim == 2
        and isinstance(image, Tensor)
        and image.ndim > 2
        and value.shape[1] == image[0].numel()
    ):
        board.parts = [each for each in board.parts if each.target != node.name]
        board.active.discard(node.name)
        return before, image, image.shape[1:]
    return node.name, value, None


def _norm(
    board: Board,
    name: str,
    source: str,
    layer: Layer,
    weight: ParameterSlice | None,
    bias: ParameterSlice | None,
) -> None:
    value, hat = board.values[source], f"{name}#normalised"
    if layer.kind == "batch_norm":
        mean, variance, eps = layer.options
        shape = (mean.shape[0],) + (1,) * (value.ndim - 2)
        inverse = (variance + eps).rsqrt().view(shape)
        inside = (value - mean.view(shape)) * inverse
        if source in board.active:
            slope: Raised = lambda t: t * inverse  # noqa: E731
            board.put(Linear(hat, (source,), slope, value.shape, slope, diagonal=True), inside)
    else:
        shape, eps = tuple(layer.options[0]), layer.options[1]
        axes = tuple(range(-len(shape), 0))
        centred = value - value.mean(axes, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
        inside = centred * inverse
        if source in board.active:
            board.put(Normalised(hat, (source,), axes, inside, inverse), inside)
    result = inside
    if layer.weight is not None:
        result = result * layer.weight.view(shape)
    if layer.bias is not None:
        result = result + layer.bias.view(shape)
    board.put(Scale(name, (hat,), layer.weight, weight, bias, shape, inside), result)


def take_shift(board: Board, node: fx.Node, sources: list[str]) -> bool:
    """Whether the node adds a parameter; if so its part is made."""
    if last_name(node.target) != "add" or len(node.args) != 2 or node.kwargs:
        return False
    places = [board.slice_of(board.look(each)) for each in node.args]
    if (places[0] is None) == (places[1] is None):
        return False
    place, other = (places[0], node.args[1]) if places[0] else (places[1], node.args[0])
    value = board.look(other)
    assert place is not None
    if not isinstance(value, Tensor) or len(place.shape) >= value.ndim:
        raise ValueError("a parameter added to something smaller")
    result = value + board.look(node.args[0 if places[0] else 1])
    if result.shape != value.shape:
        raise ValueError("a parameter added to something smaller")
    board.put(Scale(node.name, tuple(sources), None, None, place, place.shape, value), result)
    return True
