"""The one floating-point type that a model is computed in, whatever types its parts were written in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_SHOWN = 3


def widest_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The type of real numbers that holds all of these; float32 where there is none."""
    floating = [_real(each) for each in dtypes if each.is_floating_point or each.is_complex]
    if not floating:
        return torch.float32
    widest = floating[0]
    for each in floating[1:]:
        widest = torch.promote_types(widest, each)
    return widest


def own_dtype(module: nn.Module) -> torch.dtype:
    """What the model is computed in where nothing else is asked for: its widest type, and at least float32."""
    return widest_dtype([torch.float32, *(each.dtype for each in module.parameters())])


def half_precision_note(module: nn.Module) -> str | None:
    """Says which parameters are in half precision, whose arithmetic is never reproduced."""
    halves = [name for name, each in module.named_parameters() if each.dtype.itemsize < 4]
    if not halves:
        return None
    more = f" and {len(halves) - _SHOWN} more" if len(halves) > _SHOWN else ""
    shown = ", ".join(halves[:_SHOWN]) + more
    return f"{shown}: stored in half precision, computed in float32 or float64"


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype
