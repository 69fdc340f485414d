"""Says which part of a module an export failed in, and what to do about it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from upweight.export.substitutes import instead

if TYPE_CHECKING:
    from torch import Tensor, nn

    from upweight.export.checkpoints import GradientLost

TORCH = os.path.join("site-packages", "torch", "")  # the frame wanted is the user's
LONGEST = 300  # characters of torch's own words

DATA_DEPENDENT = (
    "forward decides by the values of a tensor (an `if`, a loop, `.item()`, `.tolist()`), which a graph can't hold; "
    "use torch.where or masks, or keep that part out of the model"
)
STATIC_BATCH = (
    "the batch size is fixed somewhere in forward; take it from the input (`x.shape[0]`, "
    "`x.flatten(1)`, `expand`) instead of a number, and let no operation mix rows"
)
UNKNOWN = "see torch.export's own words; the part can often be rewritten in plain torch operations"


def explain(exc: BaseException, module: nn.Module) -> str:
    """One paragraph: the part, the cause, the way out, torch's words."""
    where, advice = _part(exc, module), _advice(exc)
    if advice == STATIC_BATCH and (second := _batch_second(module)):
        advice += f"; {second}"
    if advice == DATA_DEPENDENT and (reads := _compares_masks(module)):
        advice += f"; {reads}"
    return _paragraph(exc, where, advice)


def _paragraph(exc: BaseException, where: str, advice: str) -> str:
    words = " ".join(str(exc).split()) or type(exc).__name__
    short = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
    return f"{where}{': ' if advice else ''}{advice} ({type(exc).__name__}: {short})"


def explain_checkpoint(exc: GradientLost, module: nn.Module) -> str:
    """The part that is checkpointed, or that calls the checkpoint, and the way out."""
    name = next((name for name, part in module.named_modules() if part is exc.run), None)
    where = f"{name} ({type(exc.run).__name__})" if name else _part(exc, module)
    return f"{where}: {exc}"


def misfit(exc: BaseException, module: nn.Module, example: Sequence[Tensor]) -> str:
    """Why the module did not run on its example, in sizes where they are known."""
    found = _innermost(exc, module)
    shapes = " and ".join(
        f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in example
    )
    if found is not None:
        name, part, given = found
        where = f"{name} ({type(part).__name__})" if name else type(module).__name__
        sizes = _sizes(part, given)
        if sizes is not None:
            what, takes, gets = sizes
            if any(gets in one.shape for one in example):
                return f"the model takes {takes} {what}, the example has {gets} ({where}; the example: {shapes})"
            rows = _one_row(example, takes)
            return f"{where} takes {takes} {what} and gets {gets} from an example of {shapes}{rows}"
        if getattr(part, "batch_first", True) is False:
            return f"the model does not run on its example of {shapes}: " + _paragraph(
                exc, where, _batch_second(part, name)
            )
        wanted = next((p.dtype for p in part.parameters() if p.is_floating_point()), None)
        if wanted is not None and given.dtype != wanted:
            ours, theirs = (str(one).removeprefix("torch.") for one in (wanted, given.dtype))
            return f"{where} takes {ours} and gets {theirs} from an example of {shapes}; give it as {ours}"
    advice = _advice(exc)
    return f"the model does not run on its example of {shapes}: " + _paragraph(
        exc, _part(exc, module), "" if advice == UNKNOWN else advice
    )


def _one_row(example: Sequence[Tensor], takes: int) -> str:
    """The way out for an example that is one row, without the dimension of rows before it."""
    alone = any(tuple(one.shape) == (takes,) for one in example)
    return "; dimension 0 is the batch: give one row as x[None]" if alone else ""


def _innermost(exc: BaseException, module: nn.Module) -> tuple[str, nn.Module, Tensor] | None:
    """The innermost part that was running, torch's own ones, too, and the first tensor that it was given."""
    import torch

    names = {id(part): name for name, part in module.named_modules()}
    for frame in _frames(exc.__traceback__):
        held, code = frame.tb_frame.f_locals, frame.tb_frame.f_code
        part: Any = held.get("self")
        if id(part) not in names or code.co_name != "forward":
            continue
        given = held.get(code.co_varnames[1]) if code.co_argcount > 1 else None
        return (names[id(part)], part, given) if isinstance(given, torch.Tensor) else None
    return None


def _sizes(part: Any, given: Tensor) -> tuple[str, int, int] | None:
    """What a part of torch's own takes, how many of it, and how many it was given, where the two differ."""
    from torch import nn

    if isinstance(part, nn.Embedding):
        largest = int(given.max()) if given.numel() and not given.is_floating_point() else 0
        wrong = largest >= part.num_embeddings
        return ("different tokens", part.num_embeddings, largest + 1) if wrong else None
    kinds: tuple[tuple[Any, str, str, int], ...] = (
        (nn.Linear, "features", "in_features", -1),
        (nn.RNNBase, "features", "input_size", -1),
        (nn.MultiheadAttention, "features", "embed_dim", -1),
        (nn.modules.conv._ConvNd, "channels", "in_channels", 1),
        (nn.modules.batchnorm._NormBase, "channels", "num_features", 1),
        (nn.GroupNorm, "channels", "num_channels", 1),
    )
    for kind, what, attribute, axis in kinds:
        if isinstance(part, kind) and given.ndim > max(axis, 0):
            takes, gets = int(getattr(part, attribute)), given.shape[axis]
            return (what, takes, gets) if takes != gets else None
    if isinstance(part, nn.LayerNorm) and given.ndim:
        takes, gets = int(part.normalized_shape[-1]), given.shape[-1]
        return ("features", takes, gets) if takes != gets else None
    return None


def _advice(exc: BaseException) -> str:
    for cause in _causes(exc):
        text = f"{type(cause).__name__} {cause}"
        other = instead(text)
        if other is not None:
            return other
        if any(mark in text for mark in ("DataDependent", "data-dependent", "GuardOnData")):
            return DATA_DEPENDENT
        if any(
            mark in text for mark in ("Constraints violated", "ConstraintViolation", "pecializ")
        ):
            return STATIC_BATCH
        if _is_shape_error(text):
            return STATIC_BATCH
    return UNKNOWN


def _batch_second(module: nn.Module, prefix: str = "") -> str:
    """Recurrent and attention modules that take the batch in dimension 1, which may be what fixes it."""
    found = [
        f"{prefix or name or 'the module'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if getattr(part, "batch_first", True) is False
    ]
    return (
        f"the batch is dimension 0 here, so {' and '.join(found)} needs batch_first=True"
        if found
        else ""
    )


def _compares_masks(module: nn.Module) -> str:
    """Stacks of torch's own that look at a mask's values unless they are told what it is."""
    from torch import nn

    found = [
        f"{name or 'the module'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if isinstance(part, nn.TransformerEncoder | nn.TransformerDecoder)
    ]
    return (
        f"{' and '.join(found)} compares a mask with a causal one: give is_causal=False beside mask= "
        "(tgt_is_causal=False beside tgt_mask=), which takes the mask as it is"
        if found
        else ""
    )


def _is_shape_error(text: str) -> bool:
    marks = ("is invalid for input of size", "Expected input batch_size", "must match the size")
    return any(mark in text for mark in marks)


def _part(exc: BaseException, module: nn.Module) -> str:
    """The innermost submodule whose code was running, with its line."""
    names = {id(part): name for name, part in module.named_modules()}
    found = type(module).__name__
    for cause in _causes(exc):
        for frame in _frames(cause.__traceback__):
            code = frame.tb_frame.f_code
            first = code.co_varnames[0] if code.co_argcount else ""  # `self`, by whatever name
            part = frame.tb_frame.f_locals.get(first)
            if id(part) not in names or TORCH in code.co_filename:
                continue
            line = traceback.extract_tb(frame, limit=1)[0].line or ""
            named = f"{names[id(part)]} ({type(part).__name__})" if names[id(part)] else found
            return f"{named}, `{line}`" if line else named
    return found


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    """From the innermost outwards."""
    chain = []
    while trace is not None:
        chain.append(trace)
        trace = trace.tb_next
    yield from reversed(chain)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
