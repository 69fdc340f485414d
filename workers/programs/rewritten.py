"""Operators whose second derivative torch has wrong, or not at all, written out in others that have it right.

Each takes the arguments of the operator's schema by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _hardsigmoid(self: Tensor) -> Tensor:
    return torch.nn.functional.hardtanh(self + 3, 0.0, 6.0) / 6


def _weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    return _weight_norm_interface(v, g, dim)[0]


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """torch differentiates the fused kernel's backward as if the norm were a constant."""
    others = [axis for axis in range(v.dim()) if axis != dim]
    # dim -1 stands for the norm of all of v, not for the last axis.
    norm = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1) if others else v.abs()
    return v * (g / norm), norm


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    return _length(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _pdist(self: Tensor, p: float = 2.0) -> Tensor:
    first, second = torch.triu_indices(len(self), len(self), 1, device=self.device)
    return _length(self.index_select(0, first) - self.index_select(0, second), p)


def _length(difference: Tensor, p: float) -> Tensor:
    """The p-norm along the last axis. A difference of zero has no derivative: 0, as torch's first one is."""
    if p == 0.0:
        return (difference != 0).to(difference.dtype).sum(-1)
    apart = (difference != 0).any(-1)
    safe = torch.where(apart.unsqueeze(-1), difference, 1.0)
    return torch.where(apart, torch.linalg.vector_norm(safe, p, dim=-1), 0.0)


REWRITTEN: dict[str, Callable[..., Any]] = {
    "hardsigmoid": _hardsigmoid,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm_interface,
    "cdist": _cdist,
    "_cdist_forward": _cdist,
    "pdist": _pdist,
    "_pdist_forward": _pdist,
}
