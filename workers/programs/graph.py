"""A module from a verified program: parameters under their own names, and a graph over them.

fx writes the graph out as Python and compiles it. Nothing a user wrote reaches that text but
names, which the schema holds to letters, digits and underscores, and literals, which fx prints.
"""

import keyword
import operator

import torch
from torch import fx, nn

from workers.engine.model.dtypes import RECORDED
from workers.programs.calls import CallBuilder
from workers.programs.errors import GraphInvalid, OperatorRefused
from workers.programs.fitting import called
from workers.programs.limits import Limits
from workers.programs.operators import FIRST_ALONE
from workers.programs.scalars import dtype_of
from workers.programs.schema import Graph
from workers.programs.signature import Binding, Interface
from workers.programs.values import Memory, Scope, Value
from workers.programs.weights import State


def build_module(exported: Graph, interface: Interface, state: State, limits: Limits) -> nn.Module:
    """The program as a module in evaluation mode that returns the interface's outputs."""
    module = fx.GraphModule(nn.Module(), fx.Graph())
    # The parameters first: named_parameters() then has the order of the user's model.
    held = [one for one in interface.bindings if one.role != "data"]
    for binding in sorted(held, key=lambda one: one.role != "parameter"):
        _register(module, binding, _tensor(binding, state))
    graph, scope = fx.Graph(), Scope()
    for binding in interface.bindings:
        if binding.role == "data":
            node = graph.placeholder(_placeholder_name(binding.name))
            memory = Memory(owner=f"input {binding.name!r}")
            if binding.name in exported.tensor_values:
                node.meta[RECORDED] = dtype_of(exported.tensor_values[binding.name].dtype)
            scope.bind(binding.name, Value(node, "tensor", (memory,)))
    for binding in held:
        node = graph.get_attr(binding.path)
        memory = Memory(owner=f"{binding.role} {binding.path!r}")
        scope.bind(binding.name, Value(node, "tensor", (memory,)))
    CallBuilder(graph, limits).append(exported, scope)
    found = tuple(scope.find(each.value, "tensor").node for each in interface.outputs)
    graph.output(found[0] if len(found) == 1 else found)
    _drop_unused(graph)
    _refuse_side_results(graph)
    module.graph = graph
    return module.eval()


def _tensor(binding: Binding, state: State) -> torch.Tensor:
    # Buffers that the user's state_dict leaves out are stored among the constants.
    tensor = state.weights.get(binding.path)
    if tensor is None and binding.role != "parameter":
        tensor = state.constants.get(binding.path)
    if tensor is None:
        raise GraphInvalid(f"the {binding.role} {binding.path!r} has no bytes in the archive")
    if isinstance(tensor, nn.Parameter) != (binding.role == "parameter"):
        raise GraphInvalid(f"{binding.path!r} is a parameter in one place, a buffer in another")
    return tensor


def _register(module: nn.Module, binding: Binding, tensor: torch.Tensor) -> None:
    *folders, name = binding.path.split(".")
    for folder in folders:
        child = module._modules.get(folder)
        if child is None:
            _check_free(module, folder, binding.path)
            child = nn.Module()
            module.add_module(folder, child)
        module = child
    _check_free(module, name, binding.path)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _check_free(module: nn.Module, name: str, path: str) -> None:
    if keyword.iskeyword(name) or hasattr(module, name):
        raise GraphInvalid(
            f"{path!r} has the name {name!r} in it, which Python or torch uses itself: rename "
            "that attribute of the model and export again"
        )


# Names that the text of a graph uses itself.
_TAKEN = frozenset({"self", "torch", "getattr", "device", "inf", "nan", "math", "_operator"})


def _placeholder_name(name: str) -> str:
    if keyword.iskeyword(name) or name in _TAKEN:
        return f"{name}_"
    return name


def _drop_unused(graph: fx.Graph) -> None:
    """Every operator is pure, so what nobody reads need not be computed."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _refuse_side_results(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target is operator.getitem and node.args[1] > 0:
            name = called(node.args[0].target)
            if name in FIRST_ALONE:
                raise OperatorRefused(
                    f"torch.ops.aten.{name}: the model uses what it returns beside its result, "
                    "which torch does not differentiate: compute that from the operator's input"
                )
