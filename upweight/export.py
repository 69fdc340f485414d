"""A live `nn.Module` becomes a pt2 program: graph and weights, no source. torch is imported when called, not before."""

from __future__ import annotations

import copy
import gc
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

from upweight.blame import explain
from upweight.errors import UpweightError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

# Between the exported program and the module: different kernels round differently, nothing else may differ.
TOLERANCE = 1e-4


class ExportFailed(UpweightError):
    """A module that can't be made a program; the detail names the part and the way out."""

    type, title, status = "export-failed", "The model could not be exported", 0


def export_program(module: nn.Module, example: Any) -> bytes:
    """The module as pt2 bytes, in evaluation mode, for batches of any size.

    `example`: one tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch.
    The module is left as it was. Attention is exported as plain arithmetic, since fused kernels have no second
    derivative; operators that write to their arguments are replaced by ones that do not.
    """
    buffer = io.BytesIO()
    save_program(module, example, buffer)
    return buffer.getvalue()


def save_program(module: nn.Module, example: Any, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """`export_program` into a file."""
    save_exported(exported(module, example), file)


def save_exported(program: ExportedProgram, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """An ExportedProgram of your own into a file, without the example rows that it was traced with."""
    import torch

    if isinstance(file, str | os.PathLike):
        # Given a path, torch would call the archive's folder after it: the same program, other bytes.
        with open(file, "wb") as opened:
            save_exported(program, opened)
        return
    example, program._example_inputs = program._example_inputs, None
    try:
        with _uncollected(), _quiet():
            torch.export.save(program, file)
    finally:
        program._example_inputs = example


def exported(module: nn.Module, example: Any) -> ExportedProgram:
    """The module as an ExportedProgram with a free batch dimension, proven on one more batch size."""
    module = _on_cpu(module)
    args, kwargs = _batched(example)
    with ExitStack() as stack:
        stack.enter_context(_uncollected())
        stack.enter_context(_evaluating(module))
        stack.enter_context(_twice_differentiable())
        stack.enter_context(_quiet())
        _refuse_batch_statistics(module)
        try:
            program = _traced(module, args, kwargs)
            _prove(program, module, args, kwargs)
            _strip_source(program)
        except ExportFailed:
            raise
        except Exception as exc:
            raise ExportFailed(explain(exc, module)) from exc
    return program


def _traced(
    module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
) -> ExportedProgram:
    from torch.export import Dim, default_decompositions, export

    batch = {0: Dim("batch")}
    shapes: Any = dict.fromkeys(kwargs, batch) if kwargs else (batch,) * len(args)
    if args and _takes_any_number(module):
        shapes = (shapes,)
    program = export(module, args, kwargs or None, dynamic_shapes=shapes)
    attention = {
        operator: rule
        for operator, rule in default_decompositions().items()  # type: ignore[no-untyped-call]
        if "scaled_dot_product" in str(operator)
    }
    return program.run_decompositions(attention)


def _strip_source(program: ExportedProgram) -> None:
    """A program is a graph and weights: the tracer's notes of source lines and paths stay at home.

    So do its notes of which graph a node was copied from, by addresses in memory: without them the same module gives
    the same bytes, which the service knows again.
    """
    for part in program.graph_module.modules():
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
            node.meta.pop("from_node", None)


def _takes_any_number(module: nn.Module) -> bool:
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


def _prove(
    program: ExportedProgram,
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    kwargs: dict[str, torch.Tensor],
) -> None:
    """Three rows through both: what the tracer froze by accident shows here."""
    import torch
    from torch.utils import _pytree as pytree

    rows = [0, 1, 0]
    args = tuple(value[rows] for value in args)
    kwargs = {name: value[rows] for name, value in kwargs.items()}
    with torch.no_grad():
        wanted, _ = pytree.tree_flatten(module(*args, **kwargs))
        got, _ = pytree.tree_flatten(program.module()(*args, **kwargs))
    for want, have in zip(wanted, got, strict=True):
        if not torch.allclose(want, have, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            difference = (want - have).abs().max().item()
            raise ExportFailed(
                f"the exported program differs from the module by {difference:.2g} on another batch; forward "
                "depends on something that is fixed at export (random numbers, Python state, the batch size); "
                "compute it from the inputs with torch operations"
            )


def _batched(example: Any) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """The inputs as tensors with two rows at least: a batch of 0 or 1 would be fixed by the tracer."""
    named = isinstance(example, Mapping)
    values = list(example.values()) if named else _positional(example)
    names = list(example) if named else [f"input {at}" for at in range(len(values))]
    tensors = [_tensor(name, value) for name, value in zip(names, values, strict=True)]
    sizes = {name: len(tensor) for name, tensor in zip(names, tensors, strict=True)}
    if not tensors or len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ExportFailed(
            f"the example inputs need the same number of rows, at least one, in dimension 0; they have {sizes}"
        )
    tensors = [tensor[:2].repeat(2, *[1] * (tensor.ndim - 1)) for tensor in tensors]
    return ((), dict(zip(names, tensors, strict=True))) if named else (tuple(tensors), {})


def _positional(example: Any) -> Sequence[Any]:
    return example if isinstance(example, tuple) else (example,)


def _tensor(name: str, value: Any) -> torch.Tensor:
    import torch

    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ExportFailed(
            f"{name} of the example is no tensor ({type(value).__name__}: {exc}); give a tensor, a tuple of "
            "positional inputs, or a dict of keyword inputs, and wrap the module if forward takes other things"
        ) from exc
    if tensor.ndim == 0:
        raise ExportFailed(f"{name} of the example is a scalar; dimension 0 must be the batch")
    return tensor


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module itself, or a copy of it if it lies on an accelerator: a program names the devices it was traced on."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    return copy.deepcopy(module).cpu()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Attention as arithmetic: the fused kernels and torch's fast path know no second derivative."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: the tracer's imports make a million objects that stay, and it would look through
    all of them again and again, for a third of the time of a first export."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, nothing a user can act on
        yield


def _refuse_batch_statistics(module: nn.Module) -> None:
    from torch.nn.modules.batchnorm import _NormBase

    for name, part in module.named_modules():
        if part.training:
            raise ExportFailed(
                f"{name or 'the module'} ({type(part).__name__}) stays in training mode after eval(); "
                "its eval() or train() has been replaced"
            )
        batch_norm = isinstance(part, _NormBase) and "BatchNorm" in type(part).__name__
        if batch_norm and getattr(part, "running_mean", None) is None:
            raise ExportFailed(
                f"{name or 'the module'} ({type(part).__name__}, track_running_stats=False) normalises by the "
                "statistics of the batch, so no example has a loss of its own; use running statistics, or GroupNorm"
            )
