"""The policy `trusted`: `torch.export.load`, which executes what an archive carries.

For operators whose users may run code on the workers anyway, and need operators which the reader
refuses. Nothing here protects from the archive.
"""

from pathlib import Path

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from upweight.export.outputs import Output, tensors_of_program
from workers.programs.errors import EXPORT_LINE, BatchNotDynamic, GraphInvalid
from workers.programs.fitting import write_out
from workers.programs.outputs import chosen, return_chosen
from workers.programs.program import InputSpec, OutputSpec, Program, dtype_name, parameter_specs
from workers.programs.signature import forward_names


def load_trusted(path: Path, output: Output = None) -> Program:
    """The program as torch itself loads it. RUNS CODE from the archive."""
    try:
        exported = torch.export.load(str(path))
        module = exported.module()
        if isinstance(module, fx.GraphModule):
            write_out(module)
    except Exception as exc:
        raise GraphInvalid(f"torch.export.load refuses the archive: {str(exc)[:300]}") from exc
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    names = [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(values.get(spec.arg.name), torch.Tensor)
    ]
    found = chosen(tensors_of_program(exported), output)
    return_chosen(module, output)
    given = [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    called = exported.module_call_graph[0].signature
    spelt = forward_names(given, called.forward_arg_names if called else None)
    return Program(
        module=module,
        inputs=tuple(_input(spelt.get(name, name), values[name]) for name in names),
        outputs=tuple(OutputSpec(each.name, each.dtype, each.shape) for each in found),
        parameters=parameter_specs(module),
        format="pt2",
    )


def _input(name: str, value: torch.Tensor) -> InputSpec:
    shape = _shape(value)
    if not shape or shape[0] is not None:
        raise BatchNotDynamic(f"input {name!r} has no dynamic batch. Export with: {EXPORT_LINE}")
    example = tuple(_example(size) for size in value.shape)
    return InputSpec(name, dtype_name(value.dtype), shape, example)


def _example(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint or 2)


def _shape(value: torch.Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in value.shape)
