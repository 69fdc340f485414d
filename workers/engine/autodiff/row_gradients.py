"""Per-example gradients written out: of a layer, each row's error signal times its inputs.

No autograd over rows, and none of torch.func, whose first use costs over a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.linear import Embedding, LinearLayer, Scale
from workers.engine.autodiff.graph.linearized import Ready
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class WrittenOutGradients:
    """Of one model. Raises ValueError where a node of its graph has no rule."""

    def __init__(self) -> None:
        self._graph: Traced | None = None

    def __call__(self, problem: Problem, batch: Batch) -> Tensor:
        """(B, p), for a batch that is `placed`."""
        if self._graph is None:
            self._graph = traced(problem)
        if self._graph is None:
            raise ValueError("a model that cannot be traced")
        # A model that squeezes its output would lose the axis of a single row.
        given = batch.doubled() if len(batch) == 1 else batch
        ready = Ready.made(self._graph, problem, given, first_order=True)
        result = torch.zeros(len(given), problem.size, dtype=problem.dtype, device=problem.device)
        for part in ready.parts:
            if part.target not in ready.live:
                continue
            if isinstance(part, LinearLayer | Convolution | Scale | Embedding):
                part.row_gradients(result)
        return result[: len(batch)]
