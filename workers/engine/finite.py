"""NaN and infinity: refused wherever they appear, and named by the row that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.engine.errors import NotFinite
from workers.engine.rows import Batch

if TYPE_CHECKING:
    from workers.engine.problem import Problem


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


def locate_nonfinite(problem: Problem, batch: Batch) -> None:
    """Raises NotFinite for the row of this batch to blame, if one is."""
    batch = problem.placed(batch)
    refuse_nonfinite_rows(batch)
    with torch.no_grad():
        refuse_nonfinite_losses(problem.losses(problem.theta, batch), batch)
    problem.gradients(batch)


def refuse_nonfinite_product(
    result: Tensor, vectors: Tensor, problem: Problem, batches: Iterable[Batch]
) -> None:
    """Raises NotFinite for a product of the Hessian over these batches with vectors, naming what is to blame."""
    # A sum needs no mask in memory; one that overflows is looked into.
    if bool(torch.isfinite(result.sum())) or bool(torch.isfinite(result).all()):
        return
    if not bool(torch.isfinite(vectors).all()):
        raise NotFinite("the vectors to multiply the Hessian with")
    for batch in batches:
        locate_nonfinite(problem, batch)
    raise NotFinite("a product with the Hessian")
