"""The check of a model, as it runs in an isolated child: read, forward, backward, second derivative, with its loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from upweight.errors import UpweightError
from upweight.schema import CrossEntropy, Loss, Nll
from workers.engine import (
    BadParameter,
    Batch,
    EngineError,
    NoSuchParameter,
    NotFinite,
    NothingTrains,
    Problem,
    check_problem,
)
from workers.engine.curvature.row_sums import convolution_bytes
from workers.engine.model.batching import activation_bytes_between
from workers.engine.model.dtypes import half_precision_note, is_half, refuse_mixed, widest_dtype
from workers.engine.model.flatness import NOTHING_KNOWN, Flatness, flatness
from workers.programs.check import exercise
from workers.programs.factory import read_factory
from workers.programs.huggingface import read_huggingface
from workers.programs.models import (
    described_frozen,
    described_layout,
    engine_loss,
    penalty_of,
)
from workers.programs.program import (
    InputSpec,
    OutputSpec,
    Program,
    dtype_name,
    parameter_specs,
)
from workers.programs.pt2 import Pt2Policy, read_pt2
from workers.programs.state import stored_dtypes
from workers.refusals import refusal


def check_model(
    format: str,
    path: str,
    loss: Mapping[str, Any],
    parameters: Sequence[str] | None,
    pt2_policy: str,
    factory: str = "",
    kwargs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    task: str = "",
    inputs: Sequence[str] = (),
    allowed: Collection[str] = (),
    frozen: Sequence[str] | None = None,
    output: str | int | Sequence[str | int] | None = None,
    adapter: Mapping[str, Any] | None = None,
    adapter_path: str = "",
) -> dict[str, Any]:
    """What the record says of a good model, or `{"refusal": problem}`. Raises ProgramError for a bad program."""
    contract_loss: Loss = TypeAdapter(Loss).validate_python(loss)
    if format == "factory":
        program = read_factory(factory, kwargs or {}, Path(path), allowed=allowed, output=output)
    elif format == "huggingface":
        # Of few rows, all derivatives together take less time than to draw a graph.
        program = read_huggingface(
            config or {}, task, inputs, Path(path), allowed=allowed, frozen=frozen, output=output, drawn=False,
            adapter=None if adapter is None else (adapter, Path(adapter_path)),
        )  # fmt: skip
    else:
        program = read_pt2(Path(path), output=output, policy=Pt2Policy(pt2_policy))
    return _judged(program, contract_loss, parameters, Path(path))


# Of the report and of the model's record: bytes that a row takes of memory, and convolutions whatever the rows.
_TAKEN = ("activation_bytes", "window_bytes", "reached_bytes", "place_matrix_bytes")


def prepare() -> None:
    """All that a check does for the first time, most of it imports of torch's, on a small network of our own."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).eval()
    inputs = (InputSpec("input", "float32", (None, 3), (2, 3)),)
    outputs = (OutputSpec("output", "float32", (None, 2)),)
    program = Program(network, inputs, outputs, parameter_specs(network), "pt2")
    _judged(program, CrossEntropy(name="cross_entropy"), None, Path())


def _judged(
    program: Program, loss: Loss, parameters: Sequence[str] | None, path: Path
) -> dict[str, Any]:
    report, flat = program.describe(), NOTHING_KNOWN
    taken: dict[str, int | None] = dict.fromkeys(_TAKEN)
    try:
        refuse_mixed(program.module, [_one_row(spec) for spec in program.inputs])
        problem = Problem(program.module, engine_loss(loss), parameters)
        penalty_of(problem, loss)
        if program.format != "factory":
            found, rows = exercise(program)
            report |= found
            flat, taken = _tried_out(problem, rows, loss)
    except EngineError as error:
        return {
            "refusal": _refused(error, parameters or (), loss).problem().model_dump(mode="json")
        }
    return report | {
        "selected": described_layout(problem),
        "parameter_count": problem.size,
        "held_fixed": described_frozen(problem, parameters),
        **asdict(flat),
        **taken,
        **_precision(program, path, problem),
    }


def _precision(program: Program, path: Path, problem: Problem) -> dict[str, Any]:
    """Of the selected parameters as they are stored, and what jobs compute in by default."""
    given = dict(program.module.named_parameters())
    note = half_precision_note(program.module)
    if note is None and program.format != "pt2" and any(map(is_half, stored_dtypes(path))):
        note = "the weights are in half precision, computed in float32 or float64"
    return {
        "dtype": dtype_name(widest_dtype(given[each.name].dtype for each in problem.layout)),
        "precision": dtype_name(problem.dtype),
        "precision_note": note,
    }


def _refused(error: EngineError, parameters: Sequence[str], loss: Loss) -> UpweightError:
    pointer, terms = "/program", [each.parameters for each in loss.l2]
    if isinstance(error, NoSuchParameter) and error.glob in terms:
        pointer = f"/loss/l2/{terms.index(error.glob)}/parameters"
    elif isinstance(error, NoSuchParameter) and error.glob in parameters:
        pointer = f"/parameters/{list(parameters).index(error.glob)}"
    elif isinstance(error, NothingTrains):
        pointer = "/parameters"
    elif isinstance(error, BadParameter):
        pointer = "/parameters" if error.field == "parameters" else "/loss"
    return refusal(error, pointer)


def _one_row(spec: InputSpec) -> Tensor:
    return torch.zeros((2, *spec.example[1:]), dtype=getattr(torch, spec.dtype))


def _tried_out(
    problem: Problem, inputs: tuple[Tensor, ...], loss: Loss
) -> tuple[Flatness, dict[str, int | None]]:
    """One forward, one backward and one second derivative on rows to try, and whether these see each other.

    Answers where they show the loss to be flat, and the bytes that a row takes of memory.
    """
    targets = None if loss.name == "program" else _targets(problem, inputs, loss)
    batch = Batch(inputs, targets, 0)
    try:
        check_problem(problem, batch)
    except NotFinite as error:
        # Made-up rows may lie where a model has no value (a logarithm); weights that are NaN are another matter.
        if error.parameter is not None:
            raise
    sizes = [batch.narrow(0, rows) for rows in (1, 2) if rows <= len(batch)]
    of_convolutions = convolution_bytes(problem, problem.placed(batch))
    taken = (
        activation_bytes_between(problem, sizes),
        of_convolutions.windows,
        of_convolutions.reached,
        of_convolutions.matrices,
    )
    return flatness(problem, batch), dict(zip(_TAKEN, taken, strict=True))


def _targets(problem: Problem, inputs: tuple[Tensor, ...], loss: Loss) -> Tensor | None:
    with torch.no_grad():
        outputs = problem.outputs(problem.theta, problem.placed(Batch(inputs, None, 0)))
    if isinstance(outputs, tuple):  # of mean and variance
        return torch.zeros_like(outputs[0])
    first = outputs
    assert isinstance(first, Tensor)
    if loss.name == "gaussian_nll":
        return torch.zeros_like(first[..., : first.shape[-1] // 2])
    if not isinstance(loss, CrossEntropy | Nll):
        return torch.zeros_like(first)
    positions = first.shape[2:] if loss.class_axis == 1 else first.shape[1:-1]
    return torch.zeros((len(first), *positions), dtype=torch.int64, device=first.device)
