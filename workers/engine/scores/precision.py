"""The product of factors with gradients in lower precision, and how far it can be trusted.

Only that product: Hessian products and the solution stay in the problem's dtype, since errors there
are multiplied by the condition number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import BadParameter

Precision = Literal["full", "tf32", "bf16"]

# Below it the order of the scores is no longer that of float32.
TRUSTED_CORRELATION = 0.99


@dataclass(frozen=True)
class Agreement:
    """How well scores of a sample in low precision agree with the same ones in full."""

    correlation: float
    warning: str | None  # None where the correlation can be trusted


def product(factors: Tensor, gradients: Tensor, precision: Precision) -> Tensor:
    """factors (m, p) times gradients (b, p), transposed: (m, b), accumulated in float32."""
    if precision == "full" or factors.dtype != torch.float32:
        return factors @ gradients.T
    if precision == "tf32":
        with _tf32():
            return factors @ gradients.T
    left, right = factors.bfloat16(), gradients.bfloat16()
    if factors.is_cuda:
        return torch.mm(left, right.T, out_dtype=torch.float32)
    return left.float() @ right.float().T


def checked(precision: str) -> Precision:
    """The precision by its name. Raises BadParameter."""
    if precision not in ("full", "tf32", "bf16"):
        raise BadParameter("precision", precision, "full, tf32 or bf16")
    return precision  # type: ignore[return-value]


def agreement(factors: Tensor, gradients: Tensor, precision: Precision) -> Agreement:
    """How well scores in this precision agree with full precision on these gradients, which should be a sample."""
    low, full = product(factors, gradients, precision), product(factors, gradients, "full")
    both = torch.stack([low.flatten().double(), full.flatten().double()])
    both = both - both.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(both, dim=1).prod()
    # Two constants agree if they are equal, though their correlation is 0/0.
    found = (
        float((both[0] @ both[1]) / norms) if float(norms) > 0 else float(torch.equal(low, full))
    )
    warning = None
    if not found >= TRUSTED_CORRELATION:
        warning = (
            f"scores in {precision} correlate by {found:.4f} with those in full precision on a "
            "sample; use precision full"
        )
    return Agreement(found, warning)


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
