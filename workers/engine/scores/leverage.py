"""What rows take away with them: the roots of their Gauss-Newton matrices, and the step without them.

Removing a set G leaves C + λI − (1/n) Σ Bᵀ B over its rows, where Bᵀ B = Jᵀ S J is a row's Gauss-Newton matrix. By the
Woodbury identity its inverse needs I − (1/n) B (C + λI)⁻¹ Bᵀ alone: 1 − leverage, for one row with one output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.autodiff.graph.output import formed_curvature
from workers.engine.errors import BadParameter
from workers.engine.model.losses.per_row import PerRow
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows, Targets
from workers.engine.scores.contraction import row_gradients

NO_DIRECTION = 1e-12  # of the largest eigenvalue of S: one so small takes nothing away
CONVEX = 1e-6  # how far below 0, as a part of the largest, an eigenvalue of S may come out


@dataclass(frozen=True)
class Coordinate(PerRow):
    """One number of a model's output, as if it were the loss: its gradient is a row of J."""

    index: int = 0

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        return outputs.reshape(outputs.shape[0], -1)[:, self.index]


class Roots:
    """The rows B of Gauss-Newton matrices, of any rows of one problem."""

    def __init__(self, problem: Problem, **options: Any) -> None:
        self._problem, self._options = problem, options
        self._coordinates: list[Problem] = []

    def of(self, rows: Rows) -> Tensor:
        """(directions, p) of some rows together. Raises BadParameter for a loss that is not convex in the outputs."""
        curvature = self._of_outputs(rows.take(torch.arange(len(rows))))  # (k, C, C)
        values, vectors = torch.linalg.eigh(curvature.double())
        largest = float(values.abs().max())
        if float(values.min()) < -CONVEX * largest:
            raise BadParameter(
                "rescale",
                True,
                "the loss is not convex in the outputs, so that rows take no positive matrix away; leave it out",
            )
        derivative = self._derivative(rows, curvature.shape[1])  # (k, C, p)
        roots = values.clamp(min=0).sqrt()[:, None] * vectors  # S = roots rootsᵀ
        found = torch.einsum("kca,kcp->kap", roots.to(derivative), derivative)
        return found[values > NO_DIRECTION * largest].contiguous()

    def _of_outputs(self, batch: Batch) -> Tensor:
        """S, the loss's Hessian in the outputs: (k, C, C)."""
        problem, batch = self._problem, self._problem.placed(batch)
        with torch.no_grad():
            outputs = problem.outputs(problem.theta, batch)
        if not isinstance(outputs, Tensor):
            raise BadParameter("rescale", True, "the model returns no single tensor; leave it out")
        return formed_curvature(problem.loss, outputs, batch.targets)[1].cpu()

    def _derivative(self, rows: Rows, outputs: int) -> Tensor:
        """J, (k, C, p)."""
        problem = self._problem
        if not self._coordinates:
            self._coordinates = [problem.with_loss(Coordinate(index=at)) for at in range(outputs)]
        found = torch.empty(
            (len(rows), outputs, problem.size), dtype=problem.dtype, device=problem.device
        )
        for at, each in enumerate(self._coordinates):
            for here, block in row_gradients(each, rows, **self._options):
                found[here, at] = block
        return found
