"""Functions of torch that can't be exported for batches of any size: what stands in for them, or should be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def exportable() -> Iterator[None]:
    """`torch.cdist` decides by the number of rows how it computes; here, as with few of them, by differences."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Substituting(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.cdist and len(args) < 4:
                kwargs["compute_mode"] = "donot_use_mm_for_euclid_dist"
            return function(*args, **kwargs)

    with Substituting():
        yield
