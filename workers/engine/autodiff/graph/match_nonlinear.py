"""Finds functions, sums, products, softmax and attention in a traced graph, and makes their nodes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from workers.engine.autodiff.graph.batched_ops import Batched
from workers.engine.autodiff.graph.nodes import (
    Concatenation,
    Elementwise,
    Linear,
    Sum,
    lying_as,
)
from workers.engine.autodiff.graph.nonlinear import LogSoftmax, MatrixProduct, Product, Softmax
from workers.engine.autodiff.graph.scope import TraceScope
from workers.engine.autodiff.graph.trace import (
    attention_arguments,
    elementwise,
    is_logarithm,
    last_name,
    softmax_axis,
)

SUMS = ("add", "iadd", "sub")
PRODUCTS = ("mul", "imul")
MATRIX_PRODUCTS = ("bmm", "matmul")
SAFE = "_safe_softmax"


def take_nonlinear(scope: TraceScope, node: fx.Node, sources: list[str]) -> bool:
    """Whether the node is nonlinear, or a sum, and has a rule; if so its node is made."""
    name = last_name(node.target)
    curve = elementwise(node, scope.module)
    if curve is not None:
        _bend(scope, node.name, sources[0], curve)
    elif name in SUMS and not node.kwargs and len(node.args) == 2:
        _sum(scope, node, sources)
    elif name == "cat" and _concatenated(scope, node):
        pass
    elif name == "scaled_dot_product_attention":
        return _attention(scope, node)
    elif (axis := softmax_axis(node, scope.module)) is not None:
        logarithm = is_logarithm(node, scope.module)
        value = scope.value_of(node.args[0])
        _softmax(scope, node.name, sources[0], value, axis, logarithm=logarithm, safe=name == SAFE)
    elif name in PRODUCTS and (factors := scope.moving(node, 2)) and len(node.args) == 2:
        left, right = (scope.values[each] for each in factors)
        value = scope.function_of(node, [])()
        scope.put(Product(node.name, factors, left, right), value)
    elif name in MATRIX_PRODUCTS and (factors := scope.moving(node, 2)) and _alike(scope, factors):
        _matrix_product(scope, node.name, *factors)
    else:
        return False
    return True


def _bend(scope: TraceScope, name: str, source: str, function: Callable[[Tensor], Tensor]) -> None:
    value = scope.values[source].detach().clone().requires_grad_()
    with torch.enable_grad():
        result = function(value.clone())  # a copy, since the function may work in place
        (first,) = torch.autograd.grad(result.sum(), value, create_graph=True)
        second = None
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), value, allow_unused=True)
    if second is not None and not bool(second.any()):
        second = None  # piecewise linear
    curve = Elementwise(
        name,
        (source,),
        lying_as(first.detach(), value),
        None if second is None else lying_as(second, value),
    )
    scope.put(curve, lying_as(result.detach(), value))


def _sum(scope: TraceScope, node: fx.Node, sources: list[str]) -> None:
    value = scope.function_of(node, [])()
    minus = -1.0 if last_name(node.target) == "sub" else 1.0
    terms = [
        (each.name, sign)
        for each, sign in zip(node.args, (1.0, minus), strict=True)
        if isinstance(each, fx.Node) and each.name in scope.active
    ]
    names, signs = zip(*terms, strict=True)
    shapes = tuple(scope.values[each].shape for each in names)
    scope.put(Sum(node.name, names, shapes, signs, value.shape), value)


def _softmax(
    scope: TraceScope,
    name: str,
    source: str,
    value: Tensor,
    axis: int,
    *,
    logarithm: bool = False,
    safe: bool = False,
) -> None:
    """`safe`: where all entries are −∞ it is zero, and so is its derivative."""
    axis = axis if axis < 0 else axis - value.ndim
    if logarithm:
        result = torch.log_softmax(value, axis)
        scope.put(LogSoftmax(name, (source,), axis, result.exp()), result)
    else:
        result = torch.softmax(value, axis)
        if safe:
            result = result.masked_fill((value == -torch.inf).all(axis, keepdim=True), 0.0)
        scope.put(Softmax(name, (source,), axis, result), result)


def _matrix_product(scope: TraceScope, name: str, first: str, second: str) -> None:
    left, right = scope.values[first], scope.values[second]
    scope.put(MatrixProduct(name, (first, second), left, right), left @ right)


def _alike(scope: TraceScope, factors: tuple[str, ...]) -> bool:
    """Whether two matrices, or stacks of them, are multiplied without being broadcast."""
    left, right = (scope.values[each] for each in factors)
    return left.ndim >= 2 and right.ndim >= 2 and left.shape[:-2] == right.shape[:-2]


def _concatenated(scope: TraceScope, node: fx.Node) -> bool:
    """Whether a concatenation along an axis is made; its parts may move or not, each once."""
    parts = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(parts, list | tuple) or not isinstance(axis, int):
        return False
    values = [scope.value_of(each) for each in parts]
    if not all(isinstance(each, Tensor) and each.ndim == values[0].ndim for each in values):
        return False
    axis = axis if axis < 0 else axis - values[0].ndim
    found: dict[str, tuple[int, int]] = {}
    first = 0
    for part, value in zip(parts, values, strict=True):
        last = first + value.shape[axis]
        if isinstance(part, fx.Node) and part.name in scope.active:
            if part.name in found:
                return False
            found[part.name] = (first, last)
        first = last
    result = torch.cat(values, axis)
    names, places = tuple(found), tuple(found.values())
    scope.put(Concatenation(node.name, names, places, axis, result.shape), result)
    return True


def _attention(scope: TraceScope, node: fx.Node) -> bool:
    """Softmax(q kᵀ / √width + mask) v, node by node."""
    given, heads = attention_arguments(node, scope.value_of), scope.moving(node, 3)
    if given is None or not heads:
        return False
    query, key, value = heads
    mask, factor = given
    keys = f"{node.name}#keys"
    swapped: Batched = lambda t: t.transpose(-2, -1) * factor  # noqa: E731
    before = scope.values[key].shape
    scope.put(Linear(keys, (key,), swapped, before, swapped), swapped(scope.values[key]))
    scores = f"{node.name}#scores"
    _matrix_product(scope, scores, query, keys)
    if mask is not None:
        # A shift that does not move: only the values of the scores know of it.
        scope.values[scores] = scope.values[scores] + mask
    chances = f"{node.name}#chances"
    _softmax(scope, chances, scores, scope.values[scores], -1)
    _matrix_product(scope, node.name, chances, value)
    return True
