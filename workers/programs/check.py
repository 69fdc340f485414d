"""What a program must do before it is believed: run, row by row, at several batch sizes.

Meant for the isolated child. `check_program` is a command which `run_isolated` can name.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from upweight.export.outputs import Output
from workers.engine import RowsMixed
from workers.engine.model.independence import RowTest
from workers.programs.errors import EXPORT_LINE, GraphInvalid, OutputUnsupported
from workers.programs.factory import read_factory
from workers.programs.made_up import rows_to_try
from workers.programs.outputs import as_tuple
from workers.programs.program import OutputSpec, Program, dtype_name
from workers.programs.pt2 import Pt2Policy, read_pt2

_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)


def check_program(
    format: str,
    path: str,
    pt2_policy: str = Pt2Policy.SANITIZED,
    factory: str = "",
    kwargs: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (),
    output: Output = None,
) -> dict[str, Any]:
    """Reads the program and exercises it; `path` is the archive or, for a factory, the weights."""
    if format == "factory":
        program = read_factory(factory, kwargs or {}, Path(path), allowed=allowed, output=output)
        return program.describe()
    program = read_pt2(Path(path), output=output, policy=Pt2Policy(pt2_policy))
    report, rows = exercise(program)
    refuse_mixed_outputs(program, rows)
    return {**program.describe(), **report}


def exercise(
    program: Program,
) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    """Runs the program on the example's rows, or on made-up ones. Answers its report, and the rows.

    The report says which transforms it takes; None means it does.
    """
    rows = _rows_that_run(program)
    with torch.no_grad():
        together = as_tuple(program.module(*rows))
    for size in (1, 2, len(rows[0])):
        shapes = _shapes_of(program, rows, size)
        for spec, made, whole in zip(program.outputs, shapes, together, strict=True):
            if made != (size, *whole.shape[1:]):
                raise OutputUnsupported(
                    f"of {size} rows the program makes {list(made)} as {spec.name!r}: what the loss takes must "
                    "have one row per example, in front (for a loss: one number per example, reduction='none')"
                )
    outputs = [_seen(*each) for each in zip(program.outputs, together, strict=True)]
    return {"outputs": outputs, "transforms": _transforms(program, list(rows))}, rows


def _seen(spec: OutputSpec, found: torch.Tensor) -> dict[str, Any]:
    if not found.is_floating_point():
        raise OutputUnsupported(
            f"the output {spec.name!r} is {dtype_name(found.dtype)}, and a loss takes floating-point numbers: return "
            "scores, not the classes that they choose",
            field="/output",
        )
    shape = spec.shape
    if len(shape) != found.ndim:  # torch's own notes of shapes are wrong for some losses
        shape = (None, *found.shape[1:])
    return {"name": spec.name, "dtype": dtype_name(found.dtype), "shape": list(shape)}


def _shapes_of(
    program: Program, rows: tuple[torch.Tensor, ...], size: int
) -> list[tuple[int, ...]]:
    """Of what the program makes of the first rows."""
    try:
        with torch.no_grad():
            found = as_tuple(program.module(*(each[:size] for each in rows)))
    except _ERRORS as exc:
        refuse_mixed_outputs(
            program, rows, elsewhere=False
        )  # names the node, where that is the cause
        raise GraphInvalid(
            f"the program takes {len(rows[0])} rows, but not {size} ({str(exc)[:300]}): each row is computed alone, "
            f"too. Let forward take the batch size from its input. Export with: {EXPORT_LINE}"
        ) from exc
    return [tuple(each.shape) for each in found]


def _finite_rows(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    """Which rows have finite numbers alone; None where what the program makes has no rows."""
    if not all(each.ndim for each in outputs) or len({len(each) for each in outputs}) != 1:
        return None
    return torch.stack(
        [torch.isfinite(each.reshape(len(each), -1)).all(1) for each in outputs]
    ).all(0)


def _rows_that_run(program: Program) -> tuple[torch.Tensor, ...]:
    """The first set of rows for which all the program's numbers are finite; else those of the set with the most."""
    best: tuple[float, tuple[torch.Tensor, ...]] | None = None
    failed: Exception | None = None
    for made in rows_to_try(program):
        try:
            with torch.no_grad():
                outputs = as_tuple(program.module(*made.rows))
        except _ERRORS as exc:
            failed = exc if failed is None or made.of_example else failed
            continue
        finite = _finite_rows(outputs)
        share = 1.0 if finite is None else float(finite.double().mean())
        if best is None or share > best[0]:
            # Rows that have no value for the model (a set of none, a logarithm of 0) show nothing.
            some = finite is not None and len(finite) == len(made.rows[0]) and int(finite.sum()) > 1
            best = share, tuple(each[finite] for each in made.rows) if some else made.rows
        if share == 1.0:
            break
    if best is None:
        raise _fails(failed, of_example=bool(program.example)) from failed
    return best[1]


def _fails(failed: Exception | None, *, of_example: bool) -> GraphInvalid:
    if of_example:
        return GraphInvalid(
            f"the program fails on its example's rows ({str(failed)[:300]}): does it hold for every batch size? "
            f"Export with: {EXPORT_LINE}"
        )
    return GraphInvalid(
        f"the program fails on rows made up for the declared shapes ({str(failed)[:300]}). If it takes certain values "
        "only, register it with an example (client.models.register(name, net, example=(x[:8], y[:8]), …) sends the "
        f"example's rows along). Otherwise: does it hold for every batch size? Export with: {EXPORT_LINE}"
    )


def refuse_mixed_outputs(
    program: Program, rows: tuple[torch.Tensor, ...], *, elsewhere: bool = True
) -> None:
    """Raises OutputUnsupported where what the program gives for a row depends on the other rows."""

    def evaluate(given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return as_tuple(program.module(*given))

    test = RowTest(evaluate, program.module, len(rows))
    try:
        test.beside_others(rows)
        if elsewhere:
            test.elsewhere(rows)
    except RowsMixed as error:
        raise OutputUnsupported(str(error)) from error


def _transforms(program: Program, rows: list[torch.Tensor]) -> dict[str, str | None]:
    module = program.module
    trainable = {
        name: value.detach() for name, value in module.named_parameters() if value.requires_grad
    }

    def total(parameters: dict[str, torch.Tensor], *row: torch.Tensor) -> torch.Tensor:
        return _squared(functional_call(module, parameters, tuple(one.unsqueeze(0) for one in row)))

    def whole(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return _squared(functional_call(module, parameters, tuple(rows)))

    attempts = {
        "per_example_gradients": lambda: vmap(grad(total), (None, *(0 for _ in rows)))(
            trainable, *rows
        ),
        "forward_over_reverse": lambda: jvp(grad(whole), (trainable,), (trainable,)),
        "reverse_over_reverse": lambda: grad(lambda one: _summed(grad(whole)(one)))(trainable),
    }
    return {name: _failure(attempt) for name, attempt in attempts.items()}


def _squared(outputs: Any) -> torch.Tensor:
    return torch.stack([each.float().square().sum() for each in as_tuple(outputs)]).sum()


def _summed(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([one.float().sum() for one in tensors.values()]).sum()


def _failure(attempt: Any) -> str | None:
    # The fused attention kernels have no second derivative.
    try:
        with sdpa_kernel(SDPBackend.MATH):
            attempt()
    except (RuntimeError, TypeError, ValueError, IndexError) as exc:
        return str(exc)[:300]
    return None
