"""What the graph's inputs and outputs are: parameters, buffers, data, results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from upweight.export.outputs import Output, Returned
from workers.programs.errors import (
    GraphInvalid,
    InputUnsupported,
    OperatorRefused,
    OutputUnsupported,
    TrainMode,
)
from workers.programs.origins import module_of
from workers.programs.outputs import chosen, returned_by
from workers.programs.schema import Argument, GraphModule

Role = Literal["parameter", "buffer", "constant", "data"]


@dataclass(frozen=True)
class Binding:
    """A graph input: the name it has in the graph, its role, and its name in the user's model."""

    name: str
    role: Role
    path: str = ""


@dataclass(frozen=True)
class Interface:
    """The graph's inputs in order, and the outputs that the loss takes; an output's value is its name in the graph."""

    bindings: tuple[Binding, ...]
    outputs: tuple[Returned, ...]


def read_interface(module: GraphModule, output: Output) -> Interface:
    """The signature, checked against the graph that it describes."""
    specs, inputs = module.signature.input_specs, module.graph.inputs
    if len(specs) != len(inputs):
        raise GraphInvalid(f"{len(inputs)} graph inputs, {len(specs)} in the signature")
    bindings = []
    for spec, argument in zip(specs, inputs, strict=True):
        if spec.kind == "constant_input":
            continue
        binding = _binding(spec.kind, spec.value)
        if argument.kind != "as_tensor" or argument.as_tensor.name != binding.name:
            raise GraphInvalid(f"the signature names {binding.name!r}, the graph does not")
        bindings.append(binding)
    if not any(binding.role == "data" for binding in bindings):
        raise InputUnsupported("the model takes no tensor; it needs the examples as an argument")
    _check_outputs(module)
    return Interface(tuple(bindings), chosen(returned_by(module), output))


def forward_names(graph_names: Sequence[str], arguments: Sequence[str] | None) -> dict[str, str]:
    """What forward calls the inputs that have these names in the graph, where torch writes them in small letters.

    `arguments`: those of forward, in order, as the archive says. One that is not the graph's name is passed over.
    """
    if arguments is None or len(arguments) != len(graph_names):
        return {}
    return {
        name: wish
        for name, wish in zip(graph_names, arguments, strict=True)
        if wish.isidentifier() and _plain(wish) == _plain(name)
    }


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower())


def _binding(kind: str, spec: object) -> Binding:
    match kind:
        case "user_input":
            return Binding(_data_name(spec.arg), "data")  # type: ignore[attr-defined]
        case "parameter":
            return Binding(spec.arg.name, "parameter", spec.parameter_name)  # type: ignore[attr-defined]
        case "buffer":
            return Binding(spec.arg.name, "buffer", spec.buffer_name)  # type: ignore[attr-defined]
        case _:
            return Binding(spec.arg.name, "constant", spec.tensor_constant_name)  # type: ignore[attr-defined]


def _data_name(argument: Argument) -> str:
    if argument.kind != "as_tensor":
        raise InputUnsupported(
            f"an input of the model is {argument.kind.removeprefix('as_')}, not a tensor: give "
            "numbers and flags fixed values, and export with tensors as the only arguments"
        )
    return argument.as_tensor.name


def _check_outputs(module: GraphModule) -> None:
    specs, outputs = module.signature.output_specs, module.graph.outputs
    if len(specs) != len(outputs):
        raise GraphInvalid(f"{len(outputs)} graph outputs, {len(specs)} in the signature")
    for spec in specs:
        _check_pure(spec.kind, module)


def _check_pure(kind: str, module: GraphModule) -> None:
    if kind == "buffer_mutation":
        raise TrainMode(
            "the model updates a buffer in forward, as batch normalisation does in training mode: "
            "call model.eval() before torch.export.export"
        )
    renorm = next((one for one in module.graph.nodes if "embedding_renorm" in one.target), None)
    if kind == "parameter_mutation" and renorm is not None:
        raise OperatorRefused(
            f"in {module_of(renorm.metadata)}: max_norm changes the embedding's weights in forward: "
            "scale the rows of the trained weight once (torch.renorm(weight, 2, 0, max_norm)), and "
            "set max_norm=None on the module"
        )
    if kind != "user_output":
        raise OutputUnsupported(
            f"the exported program has a {kind.replace('_', ' ')}: export the model's forward "
            "alone, which changes neither its inputs nor its parameters"
        )
