"""Random samples of rows: all rows are linearized once, and a sample takes its own, where that is small enough.

The nodes on a batch of some hundred rows are hundreds of small calls, and more time than their products with a few
vectors. A row's part in them does not depend on the other rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import Derivative
from workers.engine.autodiff.graph.linearized import AnalyticHvp, Linearized
from workers.engine.autodiff.graph.output import FormedHessian, OuterProduct
from workers.engine.autodiff.select import PROBE_ROWS, SECOND_ORDER, agrees, probe_vectors
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable

# Tensors of a row's loss, each as large as its Hessian in the outputs, that are alive while these are formed.
ALIVE = 24


class SampledRows:
    """The rows that samples are taken from; `row_bytes` of activations each, within `budget_bytes` for all."""

    def __init__(self, problem: Problem, rows: Rows, row_bytes: int, budget_bytes: int) -> None:
        self._problem, self._rows = problem, rows
        self._row_bytes, self._budget = row_bytes, budget_bytes
        self._asked = 0
        self._whole: Linearized | None = None
        self._refused = False

    def linearized(self, derivative: Derivative, indices: Tensor) -> Linearized | None:
        """On the rows with these numbers, as `derivative` would be; None before all rows pay, or where they cannot be.

        The first time some of the rows are compared with what that makes of them alone.
        """
        self._asked += len(indices)
        if self._refused or self._asked < len(self._rows):
            return None
        if not isinstance(derivative, AnalyticHvp):
            self._refused = True
            return None
        if self._whole is None:
            try:
                with twice_differentiable():
                    self._whole = self._made(derivative, indices[:PROBE_ROWS])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._refused = self._whole is None
        return None if self._whole is None else self._whole.rows(indices)

    def _made(self, derivative: AnalyticHvp, indices: Tensor) -> Linearized | None:
        some = derivative.prepare(self._problem, self._problem.placed(self._rows.take(indices)))
        if not isinstance(some, Linearized) or some.rows(torch.arange(1)) is None:
            return None
        assert isinstance(some.output_hessian, FormedHessian | OuterProduct)
        bytes_of_row = self._row_bytes + ALIVE * some.output_hessian.row_bytes
        if bytes_of_row * len(self._rows) > self._budget:
            return None
        every = self._problem.placed(next(iter(self._rows.batches(len(self._rows)))))
        whole = derivative.prepare(self._problem, every)
        if not isinstance(whole, Linearized):
            return None
        found = whole.rows(indices)
        assert found is not None
        vectors = probe_vectors(self._problem)
        expected = some(vectors)
        if not bool(torch.isfinite(expected).all()):
            return None
        return whole if agrees(found(vectors), expected, SECOND_ORDER) else None
