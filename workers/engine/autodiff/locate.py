"""Which row is to blame for a NaN or an infinity in what was computed of many rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.errors import NotFinite
from workers.engine.model.nonfinite import refuse_nonfinite_losses, refuse_nonfinite_rows
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


def locate_nonfinite(problem: Problem, batch: Batch) -> None:
    """Raises NotFinite for the row of this batch to blame, if one is."""
    batch = problem.placed(batch)
    refuse_nonfinite_rows(batch)
    with torch.no_grad():
        refuse_nonfinite_losses(problem.losses(problem.theta, batch), batch)
    per_example_gradients(problem, batch)


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
