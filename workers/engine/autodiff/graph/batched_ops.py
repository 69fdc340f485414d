"""Linear functions without parameters, of many tensors at once: with an axis put before the others.

Axes that a node counts from the front move by one; those counted from the end stay. torch.func's
vmap can do as much, but costs over a second when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from workers.engine.autodiff.graph.trace import is_reshaping, last_name

Batched = Callable[[Tensor], Any]

_ROW_BY_ROW = frozenset({"adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d"})
_SAME = frozenset({"alias", "clone", "contiguous", "dropout"})
_ENTRY_BY_ENTRY = frozenset({"div", "mul", "neg", "truediv"})
_FIRST_ARGUMENT = frozenset(
    {"chunk", "narrow", "select", "slice", "split", "squeeze", "unbind", "unflatten", "unsqueeze"}
)


def batched(
    node: fx.Node,
    module: fx.GraphModule,
    function: Callable[[Tensor], Any],
    before: torch.Size,
    after: torch.Size | None,
    given: Sequence[Any],
) -> Batched | None:
    """The node's function with one more axis in front, None where it is not known.

    `given` are the node's arguments after the tensor; `after` is None for several tensors.
    """
    name = last_name(node.target)
    if is_reshaping(node, module) and after is not None and after.numel() == before.numel():
        return lambda t: t.reshape(len(t), *after)
    if node.op == "call_module" or name in _ROW_BY_ROW:
        if after is None or after[:1] != before[:1]:
            return None
        return lambda t: function(t.flatten(0, 1)).unflatten(0, t.shape[:2])
    if name in _SAME:
        return lambda t: t
    if name in _ENTRY_BY_ENTRY:
        return function
    if name == "getitem":
        index = given[0] if isinstance(given[0], tuple) else (given[0],)
        return lambda t: t[(slice(None), *index)]
    if name == "expand" and after is not None:
        missing = (None,) * (len(after) - len(before))
        return lambda t: t[(slice(None), *missing)].expand(len(t), *after)
    return _with_moved_axes(name, list(given), dict(node.kwargs))


def _with_moved_axes(name: str, given: list[Any], options: dict[str, Any]) -> Batched | None:
    if name == "t":
        return lambda t: t.transpose(1, 2)
    if name == "permute":
        axes = given if given and isinstance(given[0], int) else given[0]
        return lambda t: t.permute(0, *_moved(axes))
    if name in ("transpose", "swapaxes") and len(given) == 2:
        first, second = _moved(given)
        return lambda t: t.transpose(first, second)
    if name in ("mean", "sum"):
        axes = given[0] if given else options.pop("dim", None)
        if axes is None or options.keys() - {"keepdim"}:
            return None
        reduced = _moved([axes] if isinstance(axes, int) else axes)
        keep = given[1] if len(given) > 1 else options.get("keepdim", False)
        return lambda t: getattr(t, name)(reduced, keepdim=keep)
    if name not in _FIRST_ARGUMENT or not given:
        return None
    return _with_moved_axis(name, given, options)


def _with_moved_axis(name: str, given: list[Any], options: dict[str, Any]) -> Batched | None:
    if name in ("chunk", "split"):  # how many or how long, then the axis
        axis = given[1] if len(given) > 1 else options.get("dim", 0)
        (axis,) = _moved([axis])
        return lambda t: getattr(t, name)(given[0], axis)
    if options or not isinstance(given[0], int):
        return None
    (axis,) = _moved(given[:1])
    if name == "slice":
        start, stop, step = [*given[1:], None, None, None][:3]
        return lambda t: torch.ops.aten.slice(t, axis, start, stop, step or 1)
    return lambda t: getattr(t, name)(axis, *given[1:])


def _moved(axes: Sequence[int]) -> list[int]:
    return [axis if axis < 0 else axis + 1 for axis in axes]
