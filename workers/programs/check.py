"""What a program must do before it is believed: run, row by row, at several batch sizes.

Meant for the isolated child. `check_program` is a command which `run_isolated` can name.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.programs.errors import EXPORT_LINE, GraphInvalid, OutputUnsupported
from workers.programs.factory import read_factory
from workers.programs.program import InputSpec, Program
from workers.programs.pt2 import Pt2Policy, read_pt2

ROWS = 3
# Rows computed alone and in a batch differ by the order of sums, more so in 16 bits.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
_COARSE = 5e-2


def check_program(
    format: str,
    path: str,
    pt2_policy: str = Pt2Policy.SANITIZED,
    factory: str = "",
    kwargs: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (),
) -> dict[str, Any]:
    """Reads the program and exercises it; `path` is the archive or, for a factory, the weights."""
    if format == "factory":
        program = read_factory(factory, kwargs or {}, Path(path), allowed=allowed)
        return program.describe()
    program = read_pt2(Path(path), policy=Pt2Policy(pt2_policy))
    return {**program.describe(), **exercise(program)}


def exercise(program: Program) -> dict[str, Any]:
    """Runs the program on made-up rows. Says which transforms it takes; None means it does."""
    generator = torch.Generator().manual_seed(0)
    rows = [made_up_rows(spec, generator) for spec in program.inputs]
    try:
        _check_rows(program, rows)
    except (RuntimeError, TypeError, ValueError, IndexError) as exc:
        raise GraphInvalid(
            f"the program fails on rows of the declared shape ({str(exc)[:300]}): does it hold "
            f"for every batch size? Export with: {EXPORT_LINE}"
        ) from exc
    return {"transforms": _transforms(program, rows)}


def made_up_rows(spec: InputSpec, generator: torch.Generator) -> torch.Tensor:
    """A few rows of an input: normal numbers, or zeros where it takes integers."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    shape = (ROWS, *spec.example[1:])
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def _check_rows(program: Program, rows: list[torch.Tensor]) -> None:
    with torch.no_grad():
        together = program.module(*rows)
        pairs = program.module(*(row[:2] for row in rows))
        alone = torch.cat([program.module(*(row[i : i + 1] for row in rows)) for i in range(ROWS)])
    if together.shape[:1] != (ROWS,) or alone.shape != together.shape or len(pairs) != 2:
        raise OutputUnsupported(
            f"of {ROWS} rows the program makes {list(together.shape)}: its output must have one "
            "row per example"
        )
    tolerance = _TOLERANCE.get(together.dtype, _COARSE)
    if not torch.allclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise OutputUnsupported(
            "an example's output depends on the other examples in its batch, so it has no "
            "influence of its own: call model.eval() before exporting, and take no means over "
            "the batch in forward"
        )


def _transforms(program: Program, rows: list[torch.Tensor]) -> dict[str, str | None]:
    module = program.module
    trainable = {
        name: value.detach() for name, value in module.named_parameters() if value.requires_grad
    }

    def total(parameters: dict[str, torch.Tensor], *row: torch.Tensor) -> torch.Tensor:
        output = functional_call(module, parameters, tuple(one.unsqueeze(0) for one in row))
        result: torch.Tensor = output.float().square().sum()
        return result

    def whole(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        output = functional_call(module, parameters, tuple(rows))
        result: torch.Tensor = output.float().square().sum()
        return result

    attempts = {
        "per_example_gradients": lambda: vmap(grad(total), (None, *(0 for _ in rows)))(
            trainable, *rows
        ),
        "forward_over_reverse": lambda: jvp(grad(whole), (trainable,), (trainable,)),
        "reverse_over_reverse": lambda: grad(lambda one: _summed(grad(whole)(one)))(trainable),
    }
    return {name: _complaint(attempt) for name, attempt in attempts.items()}


def _summed(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([one.float().sum() for one in tensors.values()]).sum()


def _complaint(attempt: Any) -> str | None:
    # The fused attention kernels have no second derivative.
    try:
        with sdpa_kernel(SDPBackend.MATH):
            attempt()
    except (RuntimeError, TypeError, ValueError, IndexError) as exc:
        return str(exc)[:300]
    return None
