"""A live `nn.Module` becomes a pt2 program: graph and weights, no source. torch is imported when called, not before."""

from __future__ import annotations

import copy
import gc
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import IO, TYPE_CHECKING, Any

from upweight.errors import UpweightError
from upweight.export.checkpoints import GradientLost, refusing_lost_gradients
from upweight.export.compare import Call, Chosen, Difference, NoGradient, first_difference
from upweight.export.errors import explain, explain_checkpoint, misfit
from upweight.export.locate import own_backward, written, wrong_backward
from upweight.export.outputs import Output, choose, tensors_of
from upweight.export.tracing import as_exported, as_graph, quiet, strip_source, traced

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

OLDEST_TORCH = (2, 9)  # the first whose archives the service was seen to read; the newest is 2.15
PROVEN_ROWS = 3  # unlike the rows that the tracer sees: what it froze by accident shows
REWRITE = (
    "Write it so that torch's own derivative is the one you mean: a straight-through estimator as "
    "x + (f(x) - x).detach(), a reversed gradient as (1 + a) * x.detach() - a * x; or remove it from the module that "
    "you register, where it serves training alone (clipping, logging)"
)
UNSEEN = (
    "a hook on a tensor in forward, or a tensor written to under torch.no_grad or through .data"
)
FROZEN = (
    "forward depends on something that is fixed at export (random numbers, Python state, the batch size); "
    "compute it from the inputs with torch operations"
)


class ExportFailed(UpweightError):
    """A module that can't be made a program; the detail names the part and the way out."""

    type, title, status = "export-failed", "The model could not be exported", 0


def export_program(
    module: nn.Module,
    example: Any,
    *,
    parameters: Sequence[str] | None = None,
    output: Output = None,
) -> bytes:
    """The module as pt2 bytes, in evaluation mode, for batches of any size.

    `example`: one tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch.
    The module is left as it was. Attention is exported as plain arithmetic, since fused kernels have no second
    derivative; operators that write to their arguments are replaced by ones that do not. What runs without gradients
    in the module (`torch.no_grad`) is detached in the program.

    The program's outputs and gradients are compared with the module's, for the parameters that train, or those that
    the globs `parameters` choose. Of a module that returns several tensors the program has those that `output` names,
    one or two, as a dict. Raises ExportFailed, which names the part, and OutputUnclear.
    """
    buffer = io.BytesIO()
    save_program(module, example, buffer, parameters=parameters, output=output)
    return buffer.getvalue()


def save_program(
    module: nn.Module,
    example: Any,
    file: str | os.PathLike[str] | IO[bytes],
    *,
    parameters: Sequence[str] | None = None,
    output: Output = None,
    with_rows: bool = False,
) -> None:
    """`export_program` into a file; `with_rows`: and the example's first rows, for the service to try it on."""
    sent = example if with_rows else None
    save_exported(exported(module, example, parameters, output), file, sent)


def save_exported(
    program: ExportedProgram, file: str | os.PathLike[str] | IO[bytes], sent: Any = None
) -> None:
    """An ExportedProgram of your own into a file, without the example rows that it was traced with.

    The first rows of the example `sent` go with it.
    """
    import torch

    from upweight.export.example_rows import MEMBER, encoded_rows

    if isinstance(file, str | os.PathLike):
        # Given a path, torch would call the archive's folder after it: the same program, other bytes.
        with open(file, "wb") as opened:
            save_exported(program, opened, sent)
        return
    _require_torch()
    rows = encoded_rows(program, sent) if sent is not None else None
    example, program._example_inputs = program._example_inputs, None
    try:
        with _uncollected(), quiet():
            torch.export.save(program, file, extra_files={MEMBER: rows} if rows else None)
    finally:
        program._example_inputs = example


def exported(
    module: nn.Module,
    example: Any,
    parameters: Sequence[str] | None = None,
    output: Output = None,
) -> ExportedProgram:
    """The module as an ExportedProgram with a free batch dimension, compared with it on other rows.

    Raises ExportFailed, and OutputUnclear where the module returns several tensors and `output` names none.
    """
    _require_torch()
    _refuse_scripted(module)
    module = _on_cpu(module)
    args, kwargs = _batched(example)
    with _uncollected(), as_exported(module):
        _refuse_batch_statistics(module)
        _refuse_scaled_gradients(module)
        with refusing_lost_gradients(_trained(module, parameters)):
            result = _run_once(module, args, kwargs, _given(example))
        rows = len(next(iter((*args, *kwargs.values()))))
        chosen = choose(tensors_of(result, rows), output)
        returning = _returning(module, [each.name for each in chosen], output)
        try:
            program = traced(module, args, kwargs)
            _prove(program, module, _proven(example), parameters)
            strip_source(program)
        except ExportFailed:
            raise
        except Exception as exc:
            raise ExportFailed(explain(exc, module)) from exc
        finally:
            returning()
    return program


def _returning(module: nn.Module, names: list[str], output: Output) -> Callable[[], None]:
    """Has the module return what is chosen alone: as it is, or by the names asked for. Call the result to end that.

    A program can hold any tensors, but not every kind of object around them; and what is not in it can't refuse it.
    """

    def alone(_module: nn.Module, _inputs: Any, result: Any) -> Any:
        found = [each.value for each in choose(tensors_of(result), output)]
        return found[0] if output is None else dict(zip(names, found, strict=True))

    handle = module.register_forward_hook(alone)
    return handle.remove


def _require_torch() -> None:
    """Raises ExportFailed where torch is too old to write archives that the service reads."""
    import torch

    version = tuple(int(each) for each in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        raise ExportFailed(
            f"this is torch {torch.__version__}, whose archives hold pickles and are never read; exporting needs torch "
            f"{needed} or newer: pip install 'torch>={needed}'"
        )


def _run_once(
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    kwargs: dict[str, torch.Tensor],
    given: list[torch.Tensor],
) -> Any:
    """What the module returns. An example that it does not take is told from a module that can't be exported.

    `given`: the example as it was given, whose shapes the words name.
    """
    try:
        return module(
            *(one.clone() for one in args), **{n: one.clone() for n, one in kwargs.items()}
        )
    except GradientLost as exc:
        raise ExportFailed(explain_checkpoint(exc, module)) from exc
    except Exception as exc:
        raise ExportFailed(misfit(exc, module, given)) from exc


def _trained(module: nn.Module, parameters: Sequence[str] | None) -> list[nn.Parameter]:
    """Those that influence is taken over, as far as they have gradients now."""
    chosen = _chosen(parameters)
    return [
        value
        for name, value in module.named_parameters()
        if value.requires_grad and chosen(name, value)
    ]


def _chosen(parameters: Sequence[str] | None) -> Chosen:
    def chosen(name: str, value: nn.Parameter) -> bool:
        if parameters is None:
            return value.requires_grad
        # Whole numbers have no gradient to be compared; the service refuses them by name.
        numbers = value.is_floating_point() or value.is_complex()
        return numbers and any(fnmatchcase(name, glob) for glob in parameters)

    return chosen


def _prove(
    program: ExportedProgram, module: nn.Module, call: Call, parameters: Sequence[str] | None
) -> None:
    chosen = _chosen(parameters)
    try:
        found = first_difference(program.module(), module, call, chosen)
    except NoGradient as exc:
        raise ExportFailed(
            f"{type(module).__name__} runs on its example, but its backward fails ({exc}): it could not be trained "
            "like this either; change forward, or choose by 'parameters' those that it can be differentiated for"
        ) from exc
    if found is not None:
        raise ExportFailed(_message(found, module, call, chosen))


def _message(found: Difference, module: nn.Module, call: Call, chosen: Chosen) -> str:
    def differs(part: nn.Module, call: Call) -> bool:
        try:
            alone = as_graph(part, call)
            return (
                first_difference(alone, part, call, lambda _, value: value.requires_grad)
                is not None
            )
        except Exception:
            return False  # not to be exported alone: the part around it is named

    name, part = wrong_backward(module, call, differs)
    where = f"{name} ({type(part).__name__})" if name else type(module).__name__
    by = "" if found.size == float("inf") else f" by {found.size:.2g} of its size"
    if found.kind == "failure":
        return f"{where}: the exported program fails on another batch ({found.what}); {FROZEN}"
    if found.kind == "output":
        hidden = ", ".join(written(part, call))
        return f"{where}: {found.what} of the exported program differs{by}" + (
            f": it lacks {hidden}; write y = f(x), and go on with y"
            if hidden
            else f" on another batch; {FROZEN}"
        )
    own = ", ".join(own_backward(part, call)) or UNSEEN
    return (
        f"{where}: its backward is not the derivative of what its forward computes ({own}), and a program holds "
        f"forward alone: the gradient of {found.what} differs{by}. {REWRITE}"
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


def _given(example: Any) -> list[torch.Tensor]:
    values = example.values() if isinstance(example, Mapping) else _positional(example)
    return [_tensor(f"input {at}", value) for at, value in enumerate(values)]


def _proven(example: Any) -> Call:
    """Rows of the example, in a number that the tracer has not seen."""
    named = isinstance(example, Mapping)
    values: dict[Any, Any] = dict(example) if named else dict(enumerate(_positional(example)))
    chosen: dict[Any, Any] = {
        name: tensor[[at % len(tensor) for at in range(PROVEN_ROWS)]]
        for name, value in values.items()
        for tensor in [_tensor(str(name), value)]
    }
    return ((), chosen) if named else (tuple(chosen.values()), {})


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
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    # `nn.utils.weight_norm` keeps the weight that it computed, which torch does not copy.
    computed = {
        id(each): each.detach().clone()
        for part in module.modules()
        for each in vars(part).values()
        if isinstance(each, torch.Tensor) and not each.is_leaf
    }
    copied = copy.deepcopy(module, computed).cpu()
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        for hook in (original._backward_hooks or {}).values():  # copying leaves them behind
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return copied


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: the tracer's imports make a million objects that stay, and it would look through
    all of them again and again, for a third of the time of a first export.

    In the end they count as old at once: as young ones they would be looked through again when it is let go on.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if not gc.get_freeze_count():  # what somebody has frozen would be thawed with the rest
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _refuse_scripted(module: nn.Module) -> None:
    import torch

    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            called = f"{name} (scripted {part.original_name})" if name else part.original_name
            raise ExportFailed(
                f"{called} is TorchScript, which can't be exported: give the module that torch.jit.script or "
                "torch.jit.trace was called with; or an instance of its class, after load_state_dict of the scripted "
                "one's state_dict()"
            )


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


def _refuse_scaled_gradients(module: nn.Module) -> None:
    from torch import nn

    options = (
        ("sparse", False, "its gradients are sparse, which have no second derivative"),
        ("scale_grad_by_freq", False, "its gradient depends on the batch, and is that of no loss"),
        (
            "max_norm",
            None,
            "forward changes its weights; scale them once, weight.data = torch.renorm(weight.data, 2, 0, max_norm)",
        ),
    )
    for name, part in module.named_modules():
        if not isinstance(part, nn.Embedding | nn.EmbeddingBag):
            continue
        for option, none, why in options:
            if getattr(part, option):
                raise ExportFailed(
                    f"{name or 'the module'} ({type(part).__name__}) has {option}={getattr(part, option)}: {why}. "
                    f"Set {option}={none} on the trained module before registering it; what it computes stays"
                )
