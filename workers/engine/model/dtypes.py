"""The one floating-point type that a model is computed in, whatever types its parts were written in.

A program says its types in many places: parameters, buffers, casts, and `zeros` or `arange` that name none and take
torch's default. All of them follow the type that is asked for, so that float64 is float64 throughout, and parts in
several types meet. Rounding to half precision in between is not reproduced: the model is computed as it was meant.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

from workers.engine.errors import MixedPrecision

# Of a node: the dtype of its tensor in the user's model, as whoever read the program has noted it.
RECORDED = "dtype"
_SHOWN = 3
_aten = torch.ops.aten
_CAST = _aten._to_copy.default
_CASTS = frozenset({"_to_copy", "to", "type_as"})
# What hands a tensor on as it is: of these alone a model does not compute in a type.
_CARRIES = _CASTS | {"alias", "clone", "detach", "detach_", "lift_fresh", "lift_fresh_copy"}
# Arguments in which a cast to the type of its input changes nothing.
_CAST_OPTIONS = frozenset({"dtype", "non_blocking", "copy"})
# "half_to_float" would cast what is not half any more.
_HALF_TO_FLOAT = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_OF_HALF = {"half_to_float": False}
_MIXED = re.compile(
    r"same (?:d?type|scalar type)|expected scalar type|dtypes match|expected dtype|found dtype|double != float|"
    r"float != double|dtype to be equal|type \(\w+\) should be the same|can't be cast to|without overflow|"
    r"not implemented for '(?:Complex)?(?:Half|BFloat16|Float|Double)'",
    re.IGNORECASE,
)


def widest_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The type of real numbers that holds all of these; float32 where there is none."""
    floating = [_real(each) for each in dtypes if _is_real_valued(each)]
    if not floating:
        return torch.float32
    widest = floating[0]
    for each in floating[1:]:
        widest = torch.promote_types(widest, each)
    return widest


def own_dtype(module: nn.Module) -> torch.dtype:
    """What the model is computed in where nothing else is asked for: its widest type, and at least float32.

    Buffers, inputs and constants of a graph count where it computes in their type, and not where it only casts them.
    """
    found = [torch.float32, *(each.dtype for each in module.parameters())]
    if isinstance(module, fx.GraphModule):
        found += [dtype for node in module.graph.nodes for dtype in _computed(node)]
    else:
        found += [each.dtype for each in module.buffers()]
    return widest_dtype(found)


def half_precision_note(module: nn.Module) -> str | None:
    """Says which parameters, or nodes of a graph, are in half precision, whose rounding is not reproduced."""
    halves = [name for name, each in module.named_parameters() if is_half(each.dtype)]
    if not halves and isinstance(module, fx.GraphModule):
        halves = [
            named(node)
            for node in module.graph.nodes
            if node.op == "call_function" and is_half(recorded(node))
        ]
    if not halves:
        return None
    more = f" and {len(halves) - _SHOWN} more" if len(halves) > _SHOWN else ""
    return f"in half precision, computed in float32 or float64: {', '.join(halves[:_SHOWN])}{more}"


def cast(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None) -> nn.Module:
    """The module with all its real and complex numbers in this type, in place; integers stay."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=_in(dtype, tensor.dtype))

    return module._apply(moved)  # unlike `to`, complex numbers stay complex


def follow(graph_module: fx.GraphModule, dtype: torch.dtype) -> None:
    """Lets the graph compute in `dtype`, in place, whatever types it was exported with."""
    graph, writes = graph_module.graph, _writes(graph_module)
    for node in list(graph.nodes):
        # The tracer wrote its example's dtype into assertions, too.
        if "_assert_tensor_metadata" in str(node.target):
            graph.erase_node(node)
        elif node.op == "call_function":
            node.args = fx.node.map_aggregate(node.args, lambda each: _literal(each, dtype))
            node.kwargs = fx.node.map_aggregate(node.kwargs, lambda each: _literal(each, dtype))
            if isinstance(node.target, OpOverload):
                _follow_node(graph_module, node, dtype)
                if not writes:
                    _drop_cast(graph_module, node)
    for node in graph.nodes:
        if recorded(node) is not None:
            _noted(node, _in(dtype, recorded(node)))
    graph_module.recompile()


def _follow_node(graph_module: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> None:
    name = _name(node)
    if name in _HALF_TO_FLOAT:
        node.args = (*node.args[:2], *(False for _ in node.args[2:]))
        node.kwargs = {key: _OF_HALF.get(key, value) for key, value in node.kwargs.items()}
    if (
        name == "float_power" and dtype != torch.float64
    ):  # its result is float64 whatever it is given
        _cast_result(graph_module.graph, node, dtype)
        return
    mine = recorded(node)
    given = [_type_of(graph_module, each) for each in node.all_input_nodes]
    if _is_real_valued(mine) and not any(map(_is_real_valued, given)):
        _follow_default(graph_module, node, _in(dtype, mine))


def _follow_default(graph_module: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> None:
    """Of numbers out of none, or out of integers, torch makes its default type where nothing is said."""
    names = [each.name for each in _schema(node).arguments]
    if "dtype" in names:
        if len(node.args) <= names.index("dtype") and node.kwargs.get("dtype") is None:
            node.kwargs = {**node.kwargs, "dtype": dtype}
        return
    graph, real = graph_module.graph, _real(dtype)
    integers = [each for each in node.all_input_nodes if _type_of(graph_module, each) is not None]
    if _name(node) == "where":
        integers = [each for each in integers if each is not node.args[0]]
    with graph.inserting_before(node):
        for each in integers:
            node.replace_input_with(
                each, _noted(graph.call_function(_CAST, (each,), {"dtype": real}), real)
            )
        if _name(node) == "where" and not integers:
            full = graph.call_function(
                _aten.full_like.default, (node.args[0], node.args[2]), {"dtype": real}
            )
            node.args = (*node.args[:2], _noted(full, real))
            node.target = _aten.where.ScalarSelf


def _cast_result(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    with graph.inserting_after(node):
        result = graph.call_function(_CAST, (node,), {"dtype": _in(dtype, recorded(node))})
    _noted(result, dtype).meta.update(node.meta)
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def _drop_cast(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A cast between types that are one now is left out, where nothing can tell."""
    source, mine = node.args[0] if node.args else None, recorded(node)
    if _name(node) not in _CASTS or not isinstance(source, fx.Node) or not node.users:
        return
    given = _type_of(graph_module, source)
    plain = set(node.kwargs) <= _CAST_OPTIONS and not any(
        isinstance(each, torch.device | torch.layout | torch.memory_format) for each in node.args
    )
    if not plain or mine is None or given is None or given.is_complex != mine.is_complex:
        return
    # A module that does nothing but cast would lose its only node, and with it its name.
    if _is_real_valued(given) and _is_real_valued(mine) and _stack(node) <= _stack(source):
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)


def _writes(graph_module: fx.GraphModule) -> bool:
    return any(
        isinstance(node.target, OpOverload) and node.target._schema.is_mutable
        for node in graph_module.graph.nodes
    )


class Following(TorchFunctionMode):
    """While it is entered, a live module's own casts and factories make `dtype`: what `follow` does to a graph."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What `func` gives, in the type to follow."""
        dtype = self._dtype
        if func in _CASTING_METHODS:
            return args[0].to(dtype)
        args = [_literal(each, dtype) for each in args]
        kwargs = {name: _literal(each, dtype) for name, each in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not _is_real_valued(result.dtype):
            return result
        wanted = _in(dtype, result.dtype)
        if result.dtype == wanted or any(map(_is_floating_tensor, _flat(args, kwargs))):
            return result
        if func in _FACTORIES and kwargs.get("dtype") is None:
            return func(*args, **{**kwargs, "dtype": wanted})
        if func is torch.where:
            return func(args[0], *(torch.as_tensor(each, dtype=dtype) for each in args[1:]))
        return func(*(_floating(each, dtype) for each in args), **kwargs).to(wanted)


_CASTING_METHODS = frozenset({Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16})
_FACTORIES = frozenset(
    {torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.logspace, torch.ones}
    | {torch.scalar_tensor, torch.tensor, torch.zeros, torch.asarray, torch.as_tensor}
)


def needs_following(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a live module would compute in other types than this one."""
    if isinstance(module, fx.GraphModule):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    return any(_is_real_valued(each.dtype) and _real(each.dtype) != dtype for each in tensors)


def refuse_mixed(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Follows a graph's types in every precision, without computing. Raises MixedPrecision naming the node.

    `inputs` are a few rows, of which only types and shapes matter.
    """
    if not isinstance(module, fx.GraphModule):
        return
    for dtype in (torch.float32, torch.float64):
        outline = _outline(module, dtype)
        rows = [each.to("meta", _in(dtype, each.dtype)) for each in inputs]
        try:
            with torch.no_grad():
                _Watched(outline, dtype).run(*rows)
        except MixedPrecision:
            raise
        except Exception:  # an operator that needs numbers: whoever computes with some will see
            continue


def _outline(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A copy in `dtype`, whose tensors have types and shapes and no memory."""
    held: dict[int, Tensor] = {id(each): each.to("meta") for each in module.buffers()}
    for each in module.parameters():
        held[id(each)] = nn.Parameter(each.detach().to("meta"), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying its tree specs
        ours = copy.deepcopy(module, dict[int, Any](held))
    follow(ours, dtype)
    for node in ours.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, _on_meta)
        node.kwargs = fx.node.map_aggregate(node.kwargs, _on_meta)
    ours.recompile()
    cast(ours, dtype, "meta")
    return ours


def _on_meta(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value


class _Watched(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__(module)
        self._dtype = dtype

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and "_guards_fn" in str(n.target):
            return None
        try:
            result = super().run_node(n)
        except RuntimeError as error:
            if is_mixed(error):
                raise MixedPrecision(named(n), self._dtype, _first_line(error)) from error
            raise
        for each in result if isinstance(result, tuple | list) else [result]:
            found = each.dtype if isinstance(each, Tensor) else None
            if n.op != "call_function" or found is None or _name(n) == "float_power":
                continue
            if found != _in(self._dtype, found):
                raise MixedPrecision(named(n), self._dtype, f"its result is {_plain(found)}")
        return result


def is_mixed(error: BaseException) -> bool:
    """Whether torch says that tensors of several types meet."""
    return isinstance(error, RuntimeError | TypeError) and bool(_MIXED.search(str(error)))


def mixed(error: BaseException, dtype: torch.dtype | None = None) -> MixedPrecision:
    """Torch's message that tensors of several types meet."""
    return MixedPrecision(None, dtype, _first_line(error))


def named(node: fx.Node) -> str:
    """The node with its operator, and the innermost module that it came from."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    where = f" in module {paths[-1]!r}" if paths else ""
    return f"node {node.name} ({node.target}){where}"


def recorded(node: fx.Node) -> torch.dtype | None:
    """The dtype that the node's tensor has in the user's model; None if unknown, or no tensor."""
    found = node.meta.get(RECORDED)
    if found is None:
        found = getattr(node.meta.get("val"), "dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _computed(node: fx.Node) -> Iterator[torch.dtype]:
    found = recorded(node)
    if node.op == "call_function" and found is not None and _name(node) not in _CARRIES:
        yield found


def _type_of(graph_module: fx.GraphModule, node: fx.Node) -> torch.dtype | None:
    if node.op != "get_attr":
        return recorded(node)
    found: Any = graph_module
    for part in str(node.target).split("."):
        found = getattr(found, part, None)
    return found.dtype if isinstance(found, Tensor) else None


def _noted(node: fx.Node, dtype: torch.dtype) -> fx.Node:
    node.meta[RECORDED] = dtype
    return node


def _literal(value: Any, dtype: torch.dtype) -> Any:
    """An argument as the graph in `dtype` has it."""
    if isinstance(value, torch.dtype):
        return _in(dtype, value)
    # The lowest number stands for "no number here"; it has no other meaning that a narrower type could keep.
    if isinstance(value, float) and abs(value) == _LARGEST and dtype != torch.float64:
        largest = torch.finfo(dtype).max
        return largest if value > 0 else -largest
    return value


_LARGEST = torch.finfo(torch.float64).max


def _in(dtype: torch.dtype, kind: torch.dtype | None) -> torch.dtype:
    """`dtype` for real numbers, its complex type for complex ones, other kinds as they are."""
    if kind is None or not _is_real_valued(kind):
        return dtype if kind is None else kind
    return dtype.to_complex() if kind.is_complex else dtype


def _is_real_valued(dtype: torch.dtype | None) -> bool:
    return dtype is not None and (dtype.is_floating_point or dtype.is_complex)


def is_half(dtype: torch.dtype | None) -> bool:
    """Whether this is a floating-point type of two bytes, or of one."""
    return dtype is not None and dtype.is_floating_point and dtype.itemsize < 4


def _is_floating_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and _is_real_valued(value.dtype)


def _floating(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) else value


def _flat(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
    for each in (*args, *kwargs.values()):
        yield from each if isinstance(each, tuple | list) else (each,)


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _schema(node: fx.Node) -> Any:
    target: Any = node.target
    return target._schema


def _name(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.removeprefix("aten::")
    return str(getattr(node.target, "__name__", node.target))


def _stack(node: fx.Node) -> set[str]:
    return {path for path, _ in node.meta.get("nn_module_stack", {}).values()}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
