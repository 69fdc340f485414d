"""Reads a `.pt2` archive without `torch.export.load`, which runs code that the archive carries.

Pickled members are never opened, guards never compiled, symbolic expressions never evaluated. The
weights are raw bytes; the graph is JSON which must follow a strict schema and use allowed
operators alone.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from upweight.export.outputs import Output
from workers.programs.archive import EXAMPLE, GRAPH, Archive
from workers.programs.documents import parse
from workers.programs.errors import (
    TORCH,
    GraphInvalid,
    InputUnsupported,
    PolicyRefused,
    ProgramError,
)
from workers.programs.graph import build_module
from workers.programs.limits import Limits
from workers.programs.program import InputSpec, Program, parameter_specs
from workers.programs.schema import ExportedProgram, GraphModule
from workers.programs.shapes import batch_maximum, check_expressions, input_spec, output_spec
from workers.programs.signature import forward_names, read_interface
from workers.programs.trusted import load_trusted
from workers.programs.weights import read_state


class Pt2Policy(StrEnum):
    """What is done with a `.pt2` archive; the operator's choice."""

    SANITIZED = "sanitized"
    """Read by this package; nothing in the archive is executed."""
    REJECT = "reject"
    """Not read at all."""
    TRUSTED = "trusted"
    """Given to `torch.export.load`, which RUNS CODE from the archive: only where every user who
    may upload may also run code on the workers."""


def read_pt2(
    path: Path,
    *,
    output: Output = None,
    policy: Pt2Policy = Pt2Policy.SANITIZED,
    limits: Limits | None = None,
) -> Program:
    """The program in the archive; raises nothing but ProgramError, whatever the bytes.

    `output` names what the loss takes of a model that returns several tensors.
    """
    try:
        match Pt2Policy(policy):
            case Pt2Policy.REJECT:
                raise PolicyRefused(
                    "this service takes no pt2 programs (pt2_policy is reject): use a factory "
                    "and safetensors weights"
                )
            case Pt2Policy.TRUSTED:
                return load_trusted(path, output)
            case Pt2Policy.SANITIZED:
                return _read_sanitized(path, output, limits or Limits())
    except ProgramError:
        raise
    # torch and fx raise errors of many kinds on graphs that only look right.
    except Exception as exc:
        raise GraphInvalid(
            f"the program can't be built ({type(exc).__name__}: {str(exc)[:300]}). "
            f"Export again with {TORCH}"
        ) from exc


def _read_sanitized(path: Path, output: Output, limits: Limits) -> Program:
    with Archive(path, limits) as archive:
        exported = parse(ExportedProgram, archive.read(GRAPH, limits.graph_bytes), GRAPH)
        state = read_state(archive, limits)
        sent = archive.read(EXAMPLE, limits.example_bytes) if EXAMPLE in archive else None
    graph = exported.graph_module.graph
    check_expressions(graph, limits)
    interface = read_interface(exported.graph_module, output)
    data = [one.name for one in interface.bindings if one.role == "data"]
    inputs = [input_spec(graph, name) for name in data]
    rows = read_example(bytes(sent), [spec for spec, _ in inputs]) if sent is not None else {}
    spelt = forward_names(*_arguments(exported.graph_module))
    batches = frozenset(symbol for _, symbol in inputs)
    module = build_module(graph, interface, state, limits)
    return Program(
        module=module,
        inputs=tuple(replace(spec, name=spelt.get(spec.name, spec.name)) for spec, _ in inputs),
        outputs=tuple(output_spec(graph, each) for each in interface.outputs),
        parameters=parameter_specs(module),
        format="pt2",
        batch_maximum=batch_maximum(exported, batches),
        example={spelt.get(name, name): each for name, each in rows.items()} or None,
    )


def _arguments(module: GraphModule) -> tuple[list[str], list[str] | None]:
    """The graph's inputs that are arguments of forward, constants among them, and their names there."""
    given = [
        spec.value.name if spec.kind == "constant_input" else spec.value.arg.value.name
        for spec in module.signature.input_specs
        if spec.kind == "constant_input"
        or (spec.kind == "user_input" and spec.value.arg.kind == "as_tensor")
    ]
    whole = next((entry.signature for entry in module.module_call_graph if not entry.fqn), None)
    return given, whole.forward_arg_names if whole else None


def read_example(encoded: bytes, inputs: Sequence[InputSpec]) -> dict[str, torch.Tensor]:
    """The rows by the inputs' names, from the file's bytes in base64. Raises InputUnsupported."""
    try:
        tensors = load(base64.b64decode(encoded, validate=True))
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise _refused(f"is not a whole safetensors file ({error})") from error
    names = [spec.name for spec in inputs]
    if sorted(tensors) != sorted(names):
        raise _refused(f"has {sorted(tensors)}, the program's inputs are {names}")
    counts = {len(each) if each.ndim else 0 for each in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise _refused("needs the same number of rows, at least one, in each tensor")
    for spec in inputs:
        _check_fits(spec, tensors[spec.name])
    return tensors


def _check_fits(spec: InputSpec, rows: torch.Tensor) -> None:
    dtype = str(rows.dtype).removeprefix("torch.")
    fits = len(rows.shape) == len(spec.shape) and all(
        wanted is None or wanted == given
        for wanted, given in zip(spec.shape[1:], rows.shape[1:], strict=False)
    )
    if not fits or dtype != spec.dtype:
        raise _refused(
            f"has {spec.name!r} as {dtype} {list(rows.shape)}, the program takes {spec.dtype} {list(spec.shape)}"
        )


def _refused(words: str) -> InputUnsupported:
    return InputUnsupported(
        f"the example in the archive {words}: it holds one tensor for each input, by its name"
    )
