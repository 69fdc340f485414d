"""Functions of torch that can't be exported for batches of any size: what stands in for them, or should be used."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


# By what torch calls the operator at which it gives up.
INSTEAD = {
    "ctc_loss": "has no second derivative in torch, which influence needs; write the sum over alignments with "
    "torch.logsumexp over time steps, or train on aligned labels with cross_entropy",
    "linalg_lstsq": "can't be in a graph; use torch.linalg.pinv(a) @ b",
    "sparse": "is for sparse tensors, which have no second derivative; use dense ones, or index_add and gather over "
    "the positions that are not zero",
}
_OPERATOR = re.compile(r"\baten[.:]+(\w+)")


def instead(words: str) -> str | None:
    """What to use in place of the operator that torch's error names, if we know it."""
    for name in _OPERATOR.findall(words):
        for part, advice in INSTEAD.items():
            if part in name:
                return f"{name} {advice}"
    return None


def _gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """torch's own, without its look at whether a variance is negative, by whose answer no graph can go on."""
    import torch

    variance = torch.full_like(input, var) if isinstance(var, float | int) else var
    if variance.ndim == input.ndim - 1:
        variance = variance.unsqueeze(-1)
    # As torch has it: what lies below eps is held there, and its gradient is let through.
    variance = variance + (variance.clamp(min=eps) - variance).detach()
    losses = 0.5 * (variance.log() + (input - target) ** 2 / variance)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


@contextmanager
def exportable() -> Iterator[None]:
    """What torch decides by values or by the number of rows is computed in one way.

    `torch.cdist`, as with few rows, by differences; `gaussian_nll_loss` without a look at the variances' signs.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Substituting(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.nn.functional.gaussian_nll_loss:
                return _gaussian_nll_loss(*args, **kwargs)
            if function is torch.cdist and len(args) < 4:
                kwargs["compute_mode"] = "donot_use_mm_for_euclid_dist"
            return function(*args, **kwargs)

    with Substituting():
        yield


@contextmanager
def replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """`owner.name` does something else, in this thread alone: others may be training meanwhile."""
    before, thread = getattr(owner, name), threading.get_ident()
    own = vars(owner).get(name)
    here = getattr(replacement, "__func__", replacement)

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (here if threading.get_ident() == thread else before)(*args, **kwargs)

    setattr(owner, name, staticmethod(chosen) if here is not replacement else chosen)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
