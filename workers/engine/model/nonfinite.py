"""NaN and infinity: refused wherever they appear, and named by the row that they come from."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.errors import NotFinite
from workers.engine.model.rows import Batch


def refuse_nonfinite_rows(batch: Batch) -> None:
    """Raises NotFinite naming the first row whose input or target has a NaN or Inf."""
    named = [(f"input {i}", each) for i, each in enumerate(batch.inputs)]
    named += [(f"target {i}", each) for i, each in enumerate(batch.target_tensors)]
    for name, each in named:
        if not each.is_floating_point():
            continue
        finite = torch.isfinite(each.reshape(len(batch), -1)).all(1)
        if not bool(finite.all()):
            raise NotFinite(name, row=batch.start + int((~finite).nonzero()[0, 0]))


def refuse_nonfinite_losses(losses: Tensor, batch: Batch) -> None:
    """Raises NotFinite naming the first row of the batch whose loss is one."""
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        raise NotFinite("the loss", row=batch.start + int((~finite).nonzero()[0, 0]))
