"""The nodes of a graph, one at a time, as calls of allowed operators in an fx graph."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from workers.engine.model.dtypes import RECORDED
from workers.engine.model.training import training_behaviour
from workers.programs.arguments import ArgumentReader
from workers.programs.errors import GraphInvalid, OperatorRefused, RandomOperator, TrainMode
from workers.programs.fitting import fitting
from workers.programs.limits import Limits
from workers.programs.operators import ASSERTIONS, SYMBOLIC, resolve, resolve_in_place
from workers.programs.origins import last_node, module_of, note_origin
from workers.programs.scalars import dtype_of
from workers.programs.schema import Argument, Graph, Node, Subgraph
from workers.programs.values import Memory, Scope, Value, result_memory

_NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
_SYMBOL_KINDS = frozenset({"as_sym_int", "as_sym_float", "as_sym_bool"})
_ENUMERATIONS = ("ScalarType", "Layout", "MemoryFormat", "Device")
Arguments = Mapping[str, Any]


class CallBuilder:
    """Appends the nodes of exported graphs to one fx graph."""

    def __init__(self, graph: fx.Graph, limits: Limits) -> None:
        self._graph = graph
        self._limits = limits
        self._nodes = 0

    def append(self, exported: Graph, scope: Scope, depth: int = 0) -> None:
        """All the nodes of `exported`, whose inputs are in `scope`."""
        if depth > self._limits.graph_depth:
            raise GraphInvalid(f"graphs within graphs, deeper than {self._limits.graph_depth}")
        for node in exported.nodes:
            self._nodes += 1
            if self._nodes > self._limits.nodes:
                raise GraphInvalid(f"more than {self._limits.nodes} nodes")
            before = last_node(self._graph)
            try:
                self._append_node(node, exported, scope, depth)
            except OperatorRefused as exc:
                raise exc.within(module_of(node.metadata)) from exc
            note_origin(self._graph, before, node.metadata)
            _note_dtypes(node, exported, scope)

    def _append_node(self, node: Node, exported: Graph, scope: Scope, depth: int) -> None:
        if node.target in ASSERTIONS:
            return
        if node.target in {_NO_GRAD, _AUTOCAST}:
            self._inline(node, scope, depth)
            return
        reader = ArgumentReader(scope, self._limits.list_length)
        if node.target in SYMBOLIC:
            self._call_symbolic(node, scope, reader)
            return
        in_place = resolve_in_place(node.target)
        if in_place is not None:
            self._call_in_place(in_place, node, exported, scope, reader)
            return
        op = resolve(node.target)
        args, kwargs = _arguments(op, node, reader)
        self._bind(node, op, self._graph.call_function(fitting(op), args, kwargs), scope, reader)

    def _call_symbolic(self, node: Node, scope: Scope, reader: ArgumentReader) -> None:
        args = tuple(reader.read(named.arg) for named in node.inputs)
        if reader.tensors:
            raise GraphInvalid(f"{node.target} is for sizes, not for tensors")
        result = self._graph.call_function(SYMBOLIC[node.target], args)
        for output in node.outputs:
            scope.bind(_symbol_name(output), Value(result, "symbol"))

    def _call_in_place(
        self, op: OpOverload, node: Node, exported: Graph, scope: Scope, reader: ArgumentReader
    ) -> None:
        args, kwargs = _arguments(op, node, reader)
        names = _output_names(node)
        if not reader.tensors or len(names) != 1:
            raise GraphInvalid(f"{node.target} must write to one tensor and return it")
        result = self._graph.call_function(fitting(op), args, kwargs)
        meta = exported.tensor_values.get(names[0])
        if meta is not None:
            # Writing keeps the dtype of what is written to; computing anew may promote it.
            to_dtype = torch.ops.aten.to.dtype
            result = self._graph.call_function(to_dtype, (result, dtype_of(meta.dtype)))
        written = reader.tensors[0]
        written.overwrite(result, node.target)
        scope.bind(names[0], written)

    def _bind(
        self, node: Node, op: OpOverload, result: fx.Node, scope: Scope, reader: ArgumentReader
    ) -> None:
        if node.outputs and node.outputs[0].kind in _SYMBOL_KINDS:
            scope.bind(_symbol_name(node.outputs[0]), Value(result, "symbol"))
            return
        memory = result_memory(op, reader.tensors)
        names = _output_names(node)
        if not _returns_several(op):
            if len(names) != 1:
                raise GraphInvalid(f"{node.target} returns one tensor, not {len(names)}")
            scope.bind(names[0], Value(result, "tensor", memory))
            return
        for index, name in enumerate(names):
            item = self._graph.call_function(operator.getitem, (result, index))
            scope.bind(name, Value(item, "tensor", memory))

    def _inline(self, node: Node, scope: Scope, depth: int) -> None:
        """A region of `torch.no_grad` or of autocast, written out where it stands."""
        inner, passed = _region(node)
        names = [_tensor_or_symbol(argument) for argument in inner.graph.inputs]
        if len(names) != len(passed):
            raise GraphInvalid(f"{inner.name} takes {len(names)} inputs and gets {len(passed)}")
        inside = Scope()
        for (name, _), argument in zip(names, passed, strict=True):
            inside.bind(name, _passed_in(scope.find(*_tensor_or_symbol(argument)), node.target))
        self.append(inner.graph, inside, depth + 1)
        results = [inside.find(*_tensor_or_symbol(one)) for one in inner.graph.outputs]
        outer = [_tensor_or_symbol(one) for one in _flat(node.outputs)]
        if len(outer) != len(results):
            raise GraphInvalid(f"{inner.name} returns {len(results)} values, not {len(outer)}")
        for (name, _), value in zip(outer, results, strict=True):
            scope.bind(name, self._detached(value) if node.target == _NO_GRAD else value)

    def _detached(self, value: Value) -> Value:
        if value.kind == "symbol":
            return value
        node = self._graph.call_function(torch.ops.aten.detach.default, (value.node,))
        return Value(node, "tensor", value.memory)


def _note_dtypes(node: Node, exported: Graph, scope: Scope) -> None:
    for output in _flat(node.outputs):
        meta = exported.tensor_values.get(output.as_tensor.name)
        if output.kind == "as_tensor" and meta is not None:
            made = scope.find(output.as_tensor.name, "tensor").node
            made.meta.setdefault(RECORDED, dtype_of(meta.dtype))


def _arguments(
    op: OpOverload, node: Node, reader: ArgumentReader
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments in the order of the operator's schema, each name known to it."""
    schema = op._schema.arguments
    # dropout_ calls `self` what dropout calls `input`; both come first.
    own = "self" if any(argument.name == "self" for argument in schema) else schema[0].name
    given = {own if named.name == "self" else named.name: named for named in node.inputs}
    unknown = given.keys() - {argument.name for argument in schema}
    if unknown or len(given) != len(node.inputs):
        raise GraphInvalid(f"{node.target} has no argument {sorted(unknown)}, or has one twice")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    values: dict[str, Any] = {}
    skipped = False
    for argument in schema:
        if argument.name not in given:
            if not argument.has_default_value():
                raise GraphInvalid(f"{node.target} needs the argument {argument.name!r}")
            skipped = True
            continue
        value = values[argument.name] = reader.read(given[argument.name].arg)
        _refuse_number_for_enumeration(argument, value, node)
        if argument.kwarg_only or skipped:
            kwargs[argument.name] = value
        else:
            args.append(value)
    check_arguments(op, values)
    return tuple(args), kwargs


def _refuse_number_for_enumeration(argument: torch.Argument, value: Any, node: Node) -> None:
    # torch takes the number of a dtype, too, and reads past its table for one that there is none of.
    kind = str(argument.real_type)
    if type(value) is int and any(each in kind for each in _ENUMERATIONS):
        raise GraphInvalid(f"{node.target} has a number for its {argument.name}")


def _region(node: Node) -> tuple[Subgraph, list[Argument]]:
    arguments = [named.arg for named in node.inputs]
    at = next((i for i, one in enumerate(arguments) if one.kind == "as_graph"), None)
    if at is None or arguments[at].as_graph is None:
        raise GraphInvalid(f"{node.target} has no graph")
    switches = [one.as_bool for one in arguments[:at] if one.kind == "as_bool"]
    # The first switch of either says whether gradients, or autocast, are on. Autocast is passed over: all is computed
    # in one type, and what it would have rounded to half precision is not rounded.
    if not switches or (switches[0] and node.target != _AUTOCAST):
        raise OperatorRefused(
            f"{node.target} switches gradients on inside the model, which the reader can't follow: export the "
            "model without torch.enable_grad"
        )
    inner = arguments[at].as_graph
    assert inner is not None
    return inner, arguments[at + 1 :]


def _returns_several(op: OpOverload) -> bool:
    returns = op._schema.returns
    return len(returns) != 1 or isinstance(returns[0].type, torch.ListType)


def _passed_in(value: Value, target: str) -> Value:
    """What a region without gradients is given: writing to it there has no functional twin."""
    if target != _NO_GRAD or value.kind == "symbol":
        return value
    return Value(value.node, "tensor", (Memory(owner="tensor from outside torch.no_grad"),))


def _flat(outputs: list[Argument]) -> list[Argument]:
    return [
        one
        for output in outputs
        for one in (
            [Argument(as_tensor=name) for name in output.as_tensors]
            if output.kind == "as_tensors"
            else [output]
        )
    ]


def _output_names(node: Node) -> list[str]:
    outputs = _flat(node.outputs)
    if any(output.kind != "as_tensor" for output in outputs):
        raise GraphInvalid(f"{node.target} returns something that is not a tensor")
    return [output.as_tensor.name for output in outputs]


def _tensor_or_symbol(argument: Argument) -> tuple[str, Any]:
    if argument.kind == "as_tensor":
        return argument.as_tensor.name, "tensor"
    return _symbol_name(argument), "symbol"


def _symbol_name(argument: Argument) -> str:
    if argument.kind not in _SYMBOL_KINDS or argument.value.kind != "as_name":
        raise GraphInvalid(f"a name was expected, not {argument.kind}")
    return str(argument.value.value)


def check_arguments(op: OpOverload, arguments: Arguments) -> None:
    """Refuses a call by its arguments; what is absent counts as the operator's default."""
    name = op._schema.name.removeprefix("aten::")
    match training_behaviour(op, arguments):
        case "chance":
            raise RandomOperator(
                f"{name} draws random numbers: the model was exported in training mode. "
                "Call model.eval() before torch.export.export"
            )
        case "statistics":
            raise TrainMode(
                f"{name} normalises by the statistics of the batch, so an example's output depends on "
                "the others: the model was exported in training mode. "
                "Call model.eval() before torch.export.export"
            )
    if name in _TABLES:
        _refuse_gradient_of_no_loss(name, arguments)
    if name in ("view", "view_copy"):
        _refuse_another_reading(name, arguments)


_TABLES = frozenset({"embedding", "embedding_bag", "_embedding_bag"})


def _refuse_gradient_of_no_loss(name: str, arguments: Arguments) -> None:
    if arguments.get("sparse", False) is not False:
        raise OperatorRefused(
            f"{name} has sparse gradients, which have no second derivative: build it with "
            "sparse=False (set it on the trained module, its output stays the same)"
        )
    if arguments.get("scale_grad_by_freq", False) is not False:
        raise OperatorRefused(
            f"{name} divides its gradient by how often a row is looked up in the batch "
            "(scale_grad_by_freq=True), which is the gradient of no loss: set "
            "scale_grad_by_freq=False on the trained module, its output stays the same"
        )


def _refuse_another_reading(name: str, arguments: Arguments) -> None:
    if "dtype" in arguments:
        raise OperatorRefused(
            f"{name} reads the bytes of a tensor as {arguments['dtype']}, which has a meaning in one precision alone: "
            "compute the values instead, or convert them with .to(...)"
        )
