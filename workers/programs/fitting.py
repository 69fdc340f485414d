"""What a graph calls for an operator: mostly itself.

Some kernels don't compare the shapes of what they are given, and read past the end of a tensor instead. torch's own
modules compare them first; a graph calls the kernel itself. So the comparison is made here, before each call: the
shapes are only known then. `tests/programs/guarded.py` looks for kernels that belong here. Others have no right second
derivative, and are `rewritten`.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch._ops import OpOverload

from workers.programs.errors import OperatorRefused
from workers.programs.operators import ALLOWED, SIZES, SYMBOLIC
from workers.programs.rewritten import REWRITTEN

_GATES = {"lstm": 4, "gru": 3, "rnn_relu": 1, "rnn_tanh": 1}
_FITTED = "fitted_"
_OF_SIZES = frozenset(SYMBOLIC.values()) | frozenset(SIZES.values())
_LARGEST = 1 << 20  # layers


class ShapesDoNotFit(ValueError):
    """Raised while the program runs, where torch would raise RuntimeError if it looked."""


def fitting(op: OpOverload) -> Callable[..., Any]:
    """What a graph calls in the operator's place: itself, or a function of the same arguments.

    Raises OperatorRefused for an overload on packed sequences, whose sizes are data.
    """
    name = op._schema.name.removeprefix("aten::")
    if name in _GATES and op._overloadname != "input":
        raise OperatorRefused(
            f"{name}.{op._overloadname} takes packed sequences, which are not supported: pass padded rows to the model"
        )
    if name not in _CHECKS and name not in REWRITTEN:
        return op
    check, rewritten = _CHECKS.get(name), REWRITTEN.get(name)
    names = [each.name for each in op._schema.arguments]
    defaults = {
        each.name: each.default_value for each in op._schema.arguments if each.has_default_value()
    }

    def fitted(*args: Any, **kwargs: Any) -> Any:
        given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        if check is not None:
            check(name, given)
        return op(*args, **kwargs) if rewritten is None else rewritten(**given)

    fitted.fitted = True  # type: ignore[attr-defined]
    fitted.operator_name = name  # type: ignore[attr-defined]
    fitted.__name__ = _FITTED + name  # what the graph's text calls it
    return fitted


def write_out(module: fx.GraphModule) -> None:
    """Has a graph of torch's own call what is `rewritten`, in place."""
    for node in module.graph.nodes:
        if isinstance(node.target, OpOverload) and called(node.target) in REWRITTEN:
            node.target = fitting(node.target)
    module.recompile()


def called(target: Any) -> str:
    """The operator's name of what `fitting` returned."""
    if isinstance(target, OpOverload):
        return target._schema.name.removeprefix("aten::")
    return str(getattr(target, "__name__", "")).removeprefix(_FITTED)


def only_verified(module: nn.Module) -> bool:
    """Whether the module is a graph that calls only operators whose second derivatives are tested."""
    if not isinstance(module, fx.GraphModule):
        return False
    return all(_is_verified(node) for node in module.graph.nodes)


def _is_verified(node: fx.Node) -> bool:
    if node.op == "call_module":
        return False
    if node.op != "call_function":
        return node.op in ("placeholder", "get_attr", "output")
    if node.target is operator.getitem or node.target in _OF_SIZES:
        return True
    ours = isinstance(node.target, OpOverload) or getattr(node.target, "fitted", False)
    return ours and called(node.target) in ALLOWED


def _same(name: str, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ShapesDoNotFit(f"{name}: {what} is {found}, where {wanted} fits")


def _batch_norm(name: str, given: Mapping[str, Any]) -> None:
    rows: Tensor = given["input"]
    if rows.dim() < 2:
        raise ShapesDoNotFit(f"{name}: the input has {rows.dim()} dimensions, where at least 2 fit")
    statistics = ("running_mean", "running_var")
    for each in ("weight", "bias", *statistics):
        if given.get(each) is not None:
            _same(name, f"the shape of {each}", tuple(given[each].shape), (rows.shape[1],))
    if given.get("training", False) is not True:
        _same(
            name,
            "running statistics",
            [given.get(each) is None for each in statistics],
            [False, False],
        )


def _weight_norm(name: str, given: Mapping[str, Any]) -> None:
    direction, length, dim = given["v"], given["g"], given["dim"]
    if not -1 <= dim < direction.dim():
        raise ShapesDoNotFit(f"{name}: dim is {dim}, where -1 to {direction.dim() - 1} fits")
    wanted = tuple(size if axis == dim else 1 for axis, size in enumerate(direction.shape))
    wanted = wanted if dim >= 0 else ()  # the norm of all of it
    _same(name, "the shape of g", tuple(length.shape), wanted)
    _same(name, "the dtype of g", length.dtype, direction.dtype)
    if direction.numel() == 0:
        raise ShapesDoNotFit(f"{name}: v is empty")


def _recurrent(name: str, given: Mapping[str, Any]) -> None:
    rows, layers = given["input"], given["num_layers"]
    states = [*given["hx"]] if name == "lstm" else [given["hx"]]
    _same(name, "the number of states", len(states), 2 if name == "lstm" else 1)
    if rows.dim() != 3 or any(each.dim() != 3 for each in states):
        raise ShapesDoNotFit(f"{name}: input and states must have 3 dimensions")
    if not 1 <= layers <= _LARGEST:
        raise ShapesDoNotFit(f"{name}: num_layers is {layers}")
    directions = 2 if given["bidirectional"] else 1
    batch = rows.shape[0 if given["batch_first"] else 1]
    hidden, out = states[-1].shape[2], states[0].shape[2]
    _same(
        name,
        "the shape of the first state",
        tuple(states[0].shape),
        (layers * directions, batch, out),
    )
    _same(
        name,
        "the shape of the last state",
        tuple(states[-1].shape),
        (layers * directions, batch, hidden),
    )
    gates, biases, projected = _GATES[name] * hidden, given["has_biases"], out != hidden
    wanted: list[tuple[int, ...]] = []
    for layer in range(layers):
        size = rows.shape[2] if layer == 0 else out * directions
        one = [
            (gates, size),
            (gates, out),
            *([(gates,)] * 2 if biases else []),
            *([(out, hidden)] if projected else []),
        ]
        wanted += one * directions
        if len(wanted) > len(given["params"]):
            break
    _same(
        name,
        "the shapes of its parameters",
        [tuple(each.shape) for each in given["params"]],
        wanted,
    )


_CHECKS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm,
    **dict.fromkeys(_GATES, _recurrent),
}
