"""The influence of removing sets of rows together: at the curvature that is left without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upweight.errors import ComputationFailed
from workers.engine.model.rows import ChosenRows
from workers.engine.progress import Progress
from workers.engine.scores.leverage import Roots
from workers.jobs.inputs import JobInputs
from workers.jobs.plan import Plan
from workers.jobs.table import Table

MOST_DIRECTIONS = 4096  # of one group: the square of it is in memory, and factorised
NEARLY_ALL = 1 - 1e-6  # of the curvature along a direction: what is left there is rounding

Solve = Callable[[Tensor], Tensor]  # (k, p) -> (L, k, p) with each λ


@dataclass(frozen=True)
class Rescaling:
    """Of one job. `solve`: (C + λI)⁻¹ of any vectors; `gradients`: of rows of training positions, (k, p)."""

    inputs: JobInputs
    plan: Plan
    table: Table
    solve: Solve
    gradient_sum: Callable[[ChosenRows], Tensor]
    roots: Roots
    progress: Progress

    def columns(self, factors: Callable[[slice], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Group by group: (L, rows of the result) in float64, and the largest leverage with each λ, (L,)."""
        members = self.table.members["train"]
        for group in range(members.count):
            self.progress("rescale", group, members.count, "groups")
            positions = members.positions[members.groups == group]
            yield self._of_group(
                group, ChosenRows(self.inputs.train, torch.from_numpy(positions)), factors
            )

    def _of_group(
        self, group: int, rows: ChosenRows, factors: Callable[[slice], Tensor]
    ) -> tuple[Tensor, Tensor]:
        total = len(self.inputs.hessian_rows)
        roots, gradient = self.roots.of(rows), self.gradient_sum(rows)  # (d, p), (p,)
        if len(roots) > MOST_DIRECTIONS:
            raise ComputationFailed.field(
                f"/groups/{group}",
                f"its {len(rows)} rows take {len(roots)} directions of the curvature away, and {MOST_DIRECTIONS} are "
                "taken together; take fewer rows, or set 'rescale' to false for the plain sums",
                None,
            )
        solved = self.solve(torch.cat([roots, gradient[None]])).double()  # (L, d + 1, p)
        wide, slope = roots.double(), gradient.double()
        leverage = torch.einsum("dp,lep->lde", wide, solved[:, :-1]) / total
        leverage = (leverage + leverage.mT) / 2
        largest = (
            torch.linalg.eigvalsh(leverage)[:, -1]
            if len(roots)
            else torch.zeros(len(solved), dtype=torch.float64, device=solved.device)
        )
        if float(largest.max()) >= NEARLY_ALL:
            raise ComputationFailed.field(
                f"/groups/{group}",
                f"its rows have leverage {float(largest.max()):.4g}: without them nothing of the curvature is left "
                "along some direction, and no step can be taken; raise hessian_regularization, take fewer rows, or set "
                "'rescale' to false for the plain sums",
                None,
            )
        left = torch.eye(len(roots), dtype=torch.float64, device=wide.device) - leverage
        # (C + λI − BᵀB/n)⁻¹ g, less (C + λI)⁻¹ g, met with the test side: its factors know (C + λI)⁻¹ already.
        weights = torch.linalg.solve(left, torch.einsum("dp,lp->ld", wide, solved[:, -1])) / total
        direction = slope + torch.einsum("ld,dp->lp", weights, wide)  # (L, p)
        found = [
            torch.einsum("lmp,lp->lm", factors(test).double(), direction).cpu()
            for test in self.plan.test.blocks()
        ]
        return self._of_rows(torch.cat(found, 1)), largest.cpu()

    def _of_rows(self, found: Tensor) -> Tensor:
        """(L, m) of test rows as the result has them."""
        if "test" not in self.table.members:
            return found
        members = self.table.members["test"]
        summed: Any = members.scaled(members.sums(found.numpy(), 1, 0), 1)
        return torch.from_numpy(np.ascontiguousarray(summed))
