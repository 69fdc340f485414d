"""Says which part of a module an export failed in, and what to do about it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

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
    where = _part(exc, module)
    words = " ".join(str(exc).split()) or type(exc).__name__
    short = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
    return f"{where}: {_advice(exc)} ({type(exc).__name__}: {short})"


def _advice(exc: BaseException) -> str:
    for cause in _causes(exc):
        text = f"{type(cause).__name__} {cause}"
        if any(mark in text for mark in ("DataDependent", "data-dependent", "GuardOnData")):
            return DATA_DEPENDENT
        if any(
            mark in text for mark in ("Constraints violated", "ConstraintViolation", "pecializ")
        ):
            return STATIC_BATCH
        if _is_shape_error(text):
            return STATIC_BATCH
    return UNKNOWN


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
