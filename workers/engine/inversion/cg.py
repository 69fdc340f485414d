"""Conjugate gradients for all right-hand sides at once: the default where H cannot be built.

Every right-hand side has its own stopping rule, iteration count and status. By default they share
one search space (block conjugate gradients): the Krylov space of all of them together is richer, so
fewer products are needed. `recurrence="separate"` is the textbook algorithm, row by row, batched.
Where the shared space breaks down (an indefinite H + λI) the rows that are left go on separately,
so that negative curvature is reported of the rows it concerns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.inversion.explicit import explicit_where_cheaper
from workers.engine.inversion.preconditioner import IDENTITY, Preconditioner, jacobi, nystroem
from workers.engine.inversion.recurrences import Limits, Run, separate, shared
from workers.engine.inversion.solution import Operator, Solution, Status, checked_rhs
from workers.engine.progress import Progress, silent

# More rows than this make the small dense algebra of a shared space cost more than it saves.
SHARED_ROWS = 128
# A restart from the true residual must gain this much, or rounding has the last word.
WORTHWHILE_GAIN = 0.5
MOST_RESTARTS = 10
AIM_AFTER_RESTART = 0.3
# Products for one right-hand side at a tolerance of 1e-5, and how they grow with their number.
FIRST_PRODUCTS = 43.0
SHARING = 0.6


@dataclass(frozen=True)
class ConjugateGradients:
    """Stops each right-hand side when ‖r‖ ≤ max(rtol ‖b‖, atol), judged by the true residual.

    `x0` is a start (k, p), never written to; null starts from zero. `maxiter` null means 10 p, at
    least 50. `preconditioner` is null, "jacobi", or "nystroem" of the given `rank`; `seed` is
    that of its probes. info has iterations (k,), converged (k,), residual_norms (k,), passes.
    """

    x0: Tensor | None = None
    rtol: float = 1e-7
    atol: float = 1e-7
    maxiter: int | None = None
    preconditioner: Literal["jacobi", "nystroem"] | None = None
    rank: int | None = None
    recurrence: Literal["shared", "separate"] = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rtol >= 0.0 or not self.atol >= 0.0 or not self.rtol + self.atol > 0.0:
            raise BadParameter(
                "rtol, atol", (self.rtol, self.atol), "not negative, and one of them positive"
            )
        if self.maxiter is not None and self.maxiter < 1:
            raise BadParameter("maxiter", self.maxiter, "at least 1, or null for 10 p")
        if self.preconditioner not in (None, "jacobi", "nystroem"):
            raise BadParameter("preconditioner", self.preconditioner, "null, jacobi or nystroem")
        if (self.preconditioner == "nystroem") != (self.rank is not None):
            raise BadParameter("rank", self.rank, "given with preconditioner nystroem, and only so")
        if self.rank is not None and self.rank < 1:
            raise BadParameter("rank", self.rank, "at least 1")
        if self.recurrence not in ("shared", "separate"):
            raise BadParameter("recurrence", self.recurrence, "shared or separate")

    def fit(self, hessian: Operator, progress: Progress | None = None) -> Preconditioner:
        """The preconditioner, which depends on model, training rows and λ alone."""
        tell = progress or silent
        if self.preconditioner == "jacobi":
            return jacobi(hessian, self.seed, tell)
        if self.preconditioner == "nystroem":
            assert self.rank is not None
            return nystroem(hessian, self.rank, self.seed, tell)
        return IDENTITY

    def solve(
        self,
        hessian: Operator,
        rhs: Tensor,
        progress: Progress | None = None,
        preconditioner: Preconditioner | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p). Raises ShapeMismatch, NotFinite, and what H raises."""
        rhs = checked_rhs(hessian, rhs)
        passes = hessian.passes
        hessian = explicit_where_cheaper(hessian, self._expected_products(len(rhs)), len(rhs))
        fitted = preconditioner or self.fit(hessian, progress)
        run = self._start(hessian, rhs, fitted, progress or silent)
        norms = run.restart()
        restarts = 0
        while len(run.unfinished):
            self._iterate(run)
            before, norms = norms, run.restart()
            restarts += 1
            run.aim = AIM_AFTER_RESTART  # the recurrence flattered itself: leave room for that
            last = restarts > MOST_RESTARTS
            run.give_up(norms > (0.0 if last else WORTHWHILE_GAIN) * before)
        status = tuple(each for each in run.status if each is not None)
        return Solution(
            run.x,
            norms,
            status,
            {
                "iterations": run.iterations.cpu(),
                "converged": torch.tensor([each is Status.CONVERGED for each in status]),
                "residual_norms": norms,
                "status": [str(each) for each in status],
                "passes": hessian.passes - passes,
                "recurrence": self.recurrence,
            },
        )

    def _expected_products(self, count: int) -> float:
        """A guess: 43 products for one right-hand side, 600 for 100, to a tolerance of 1e-5."""
        alone = FIRST_PRODUCTS * math.log10(1.0 / min(max(self.rtol, 1e-8), 0.1)) / 5.0
        alone = min(alone, self.maxiter or alone)
        return alone * count ** (SHARING if self.recurrence == "shared" else 1.0)

    def _start(self, hessian: Operator, rhs: Tensor, fitted: Preconditioner, tell: Progress) -> Run:
        if self.x0 is not None and self.x0.shape != rhs.shape:
            raise ShapeMismatch("x0", rhs.shape, self.x0.shape, "a start for each right-hand side")
        start = torch.zeros_like(rhs) if self.x0 is None else self.x0.detach().to(rhs).clone()
        maxiter = self.maxiter or max(10 * rhs.shape[1], 50)
        norms = torch.linalg.vector_norm(rhs, dim=1)
        bounds = torch.clamp(self.rtol * norms, min=self.atol)
        return Run(hessian, rhs, start, Limits(bounds, maxiter), fitted, tell)

    def _iterate(self, run: Run) -> None:
        if self.recurrence == "shared":
            for rows in torch.split(run.unfinished, SHARED_ROWS):
                left = shared(run, rows)
                if len(left):
                    separate(run, left)
        else:
            separate(run, run.unfinished)
