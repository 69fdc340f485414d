"""The two recurrences of conjugate gradients, and the state they advance.

Sources: Hestenes and Stiefel (1952); O'Leary, The block conjugate gradient algorithm (1980), with
the search block kept orthonormal as in Ji and Li, A breakdown-free block CG (2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.inversion.fewer_rows import FewerRows
from workers.engine.inversion.indefinite import ROUNDING, clearly_negative
from workers.engine.inversion.orthonormal import orthonormal
from workers.engine.inversion.recycled import Directions
from workers.engine.inversion.solution import Status
from workers.engine.operators import Damped, Inverse
from workers.engine.progress import Progress

# Of the rounding error of a true residual: a recurrence this small has nothing left to give.
BELOW_ROUNDING = 0.1


@dataclass(frozen=True)
class Stopping:
    """When to stop: residual norm (k,) of each right-hand side, and iterations."""

    bounds: Tensor
    maxiter: int


@dataclass
class Run:
    """The state of all right-hand sides; `x` is written in place, `rhs` never."""

    operator: Damped
    rhs: Tensor  # (k, p)
    x: Tensor  # (k, p)
    limits: Stopping
    preconditioner: Inverse
    progress: Progress
    directions: Directions | None = None  # where those that are met are wanted
    fewer: FewerRows | None = None  # for late products, where it is known which
    residual: Tensor = field(init=False)  # (k, p)
    iterations: Tensor = field(init=False)  # (k,)
    status: list[Status | None] = field(init=False)
    downhill: Tensor | None = (
        None  # (p,) a direction of curvature that is not positive, if one was met
    )
    quotient: float = 0.0  # its Rayleigh quotient with H + λI
    aim: float = 1.0  # part of the bound that the recurrences go for

    def __post_init__(self) -> None:
        count = self.rhs.shape[0]
        self.residual = self.rhs.clone()
        self.iterations = torch.zeros(count, dtype=torch.int64, device=self.rhs.device)
        self.status = [None] * count
        # With b = 0 and no start the answer is 0: such a row never enters a product.
        for row in self._true(((self.rhs == 0).all(1)) & ((self.x == 0).all(1))):
            self.status[row] = Status.CONVERGED

    @staticmethod
    def _true(mask: Tensor) -> list[int]:
        return mask.nonzero()[:, 0].tolist()

    @property
    def unfinished(self) -> Tensor:
        """Numbers of the right-hand sides without a status."""
        rows = [row for row, each in enumerate(self.status) if each is None]
        return torch.tensor(rows, dtype=torch.int64, device=self.rhs.device)

    @property
    def statuses(self) -> tuple[Status, ...]:
        """Of all rows, once none is unfinished."""
        return tuple(each for each in self.status if each is not None)

    def restart(self) -> Tensor:
        """Recompute every residual from the operator, return their norms (k,); rows within their
        bound are converged.

        A row whose recurrence said so wrongly, because of rounding, is unfinished again.
        """
        moved = (self.x != 0).any(1).nonzero()[:, 0]
        self.residual = self.rhs.clone()
        if len(moved) == len(self.x):  # no rows are copied
            self.residual -= self.operator.matmat(self.x)
        elif len(moved):
            self.residual[moved] -= self.operator.matmat(self.x[moved])
        norms = torch.linalg.vector_norm(self.residual, dim=1)
        for row in self._true(norms <= self.limits.bounds):
            self.status[row] = Status.CONVERGED
        for row in self._true(norms > self.limits.bounds):
            if self.status[row] is Status.CONVERGED:
                self.status[row] = None
        return norms

    def taken_residual(self, rows: Tensor) -> Tensor:
        """Those of these rows, to be written to: those of all rows are not kept beside them."""
        if len(rows) < len(self.residual):
            return self.residual[rows]
        found, self.residual = self.residual, self.residual[:0]
        return found

    def give_back_residual(self, rows: Tensor, found: Tensor) -> None:
        """Those of these rows, after `taken_residual`."""
        if not len(self.residual):
            self.residual = torch.zeros_like(self.rhs)
        self.residual[rows] = found

    def give_up(self, stalled: Tensor) -> None:
        """Mark those unfinished rows that `stalled` (k,) has."""
        for row in self._true(stalled):
            if self.status[row] is None:
                self.status[row] = Status.STAGNATED

    def finish(self, rows: Tensor, status: Status) -> None:
        """Give these rows a status."""
        for row in rows.tolist():
            self.status[row] = status

    def matmat(self, rows: Tensor, norms: Tensor, p: Tensor, added: float) -> tuple[Tensor, float]:
        """H + λI times p, and `added` with what it may add to these rows' residuals, in their bounds.

        `norms` are those of the residuals (k,) before.
        """
        if self.fewer is None:
            return self.operator.matmat(p), added
        slack = float((self.limits.bounds[rows] / norms).min())
        return self.fewer.matmat(p, slack, added)

    def within(self, rows: Tensor, norms: Tensor, curvature: Tensor, added: float = 0.0) -> Tensor:
        """Which of these rows have arrived by their recurrence, given its residual norms.

        Also those whose recurrence is below the rounding of the true residual, eps ‖A‖ ‖x‖, where
        further steps change nothing; the largest curvature met stands in for ‖A‖.
        """
        size = torch.linalg.vector_norm(self.x[rows], dim=1)
        rounding = BELOW_ROUNDING * torch.finfo(norms.dtype).eps * curvature * size
        aim = self.aim * (1.0 - added)
        return norms <= torch.maximum(aim * self.limits.bounds[rows], rounding)

    def flat(self, rows: Tensor, directions: Tensor, quotients: Tensor, steepest: Tensor) -> None:
        """End rows along whose direction (j, p) there is no positive curvature (j,).

        A quotient that is rounding of `steepest` (j,) is what is left to be met where the residual is, too.
        """
        size = torch.linalg.vector_norm(self.rhs[rows], dim=1)
        left = torch.linalg.vector_norm(self.residual[rows], dim=1)
        eps, worst = torch.finfo(size.dtype).eps, int(quotients.argmin())
        nothing = quotients.abs() <= ROUNDING * eps * self.rhs.shape[1] ** 0.5 * steepest
        rounded = nothing & (left <= eps**0.5 * size)
        self.finish(rows[rounded], Status.STAGNATED)
        self.finish(rows[~rounded], Status.NEGATIVE_CURVATURE)
        if not bool(rounded[worst]):
            self.descend(directions[worst], float(quotients[worst]))

    def descend(self, direction: Tensor, quotient: float) -> None:
        """Remember the direction (p,) of the least curvature met."""
        if self.downhill is None or quotient < self.quotient:
            size = torch.linalg.vector_norm(direction)
            self.downhill, self.quotient = direction / size, quotient

    def report(self, iteration: int) -> None:
        """Report and, by the caller's will, be cancelled."""
        self.progress("cg", iteration, self.limits.maxiter, "iterations")


def separate(run: Run, rows: Tensor) -> None:
    """Textbook preconditioned CG of each row on its own, products batched over the rows left.

    Starts from run.residual, ends with every row converged by its recurrence, out of iterations, or
    stopped at negative curvature. Both x and the residual of the rows are advanced.
    """
    r = run.residual[rows]
    z = run.preconditioner.apply(r)
    p = z.clone()
    rz = (r * z).sum(1)
    steepest = torch.zeros_like(rz)  # largest curvature met, to tell flat from curved
    iteration = int(run.iterations[rows].min()) if len(rows) else 0
    while len(rows):
        run.report(iteration)
        ap = run.operator.matmat(p)
        pap, pp = (p * ap).sum(1), (p * p).sum(1)
        steepest = torch.maximum(steepest, pap / pp)
        flat = pap <= torch.finfo(pap.dtype).eps * steepest * pp
        if bool(flat.any()):
            run.residual[rows] = r
            run.flat(rows[flat], p[flat], (pap / pp)[flat], steepest[flat])
            keep = ~flat
            rows, r, p, rz, steepest = rows[keep], r[keep], p[keep], rz[keep], steepest[keep]
            ap, pap = ap[keep], pap[keep]
            if not len(rows):
                return
        alpha = (rz / pap).unsqueeze(1)
        run.x[rows] += alpha * p
        r = r - alpha * ap
        iteration += 1
        run.iterations[rows] += 1
        run.residual[rows] = r
        arrived = run.within(rows, torch.linalg.vector_norm(r, dim=1), steepest)
        exhausted = run.iterations[rows] >= run.limits.maxiter
        run.finish(rows[exhausted & ~arrived], Status.MAXITER)
        keep = ~(arrived | exhausted)
        rows, r, p, steepest = rows[keep], r[keep], p[keep], steepest[keep]
        if not len(rows):
            return
        z = run.preconditioner.apply(r)
        rz_before, rz = rz[keep], (r * z).sum(1)
        p = z + (rz / rz_before).unsqueeze(1) * p


def shared(run: Run, rows: Tensor) -> Tensor:
    """Block CG over these rows: every product serves all of them.

    Returns the rows still unfinished when the shared space broke down (curvature that is not
    positive), with x and the residual as far as they came; empty when all are done, and x alone is
    of use.
    """
    r = run.taken_residual(rows)  # (k, p)
    p = orthonormal(run.preconditioner.apply(r))  # (s, p)
    steepest = torch.zeros_like(r[:1, 0])
    iteration = int(run.iterations[rows].max()) if len(rows) else 0
    norms, added = torch.linalg.vector_norm(r, dim=1), 0.0
    while len(rows):
        run.report(iteration)
        ap, added = run.matmat(rows, norms, p, added)
        if run.directions is not None:
            run.directions.add(p, ap, run.operator.damping)
        curvatures = p @ ap.T  # (s, s)
        steepest = torch.maximum(steepest, curvatures.diagonal().max())
        factor, failed = torch.linalg.cholesky_ex(curvatures)
        if int(failed):
            run.give_back_residual(rows, r)
            _descend(run, p, curvatures, float(steepest))
            return rows
        alpha = torch.cholesky_solve(p @ r.T, factor)  # (s, k)
        run.x.index_add_(0, rows, alpha.T @ p)
        r.addmm_(alpha.T, ap, alpha=-1.0)
        iteration += 1
        run.iterations[rows] += 1
        norms = torch.linalg.vector_norm(r, dim=1)
        arrived = run.within(rows, norms, steepest, added)
        if iteration >= run.limits.maxiter:
            run.finish(rows[~arrived], Status.MAXITER)
            return rows[:0]
        if bool(arrived.any()):
            rows, r, norms = rows[~arrived], r[~arrived], norms[~arrived]
        if not len(rows):
            break
        z = run.preconditioner.apply(r)
        beta = torch.cholesky_solve(ap @ z.T, factor)  # (s, k)
        p = torch.addmm(z, beta.T, p, alpha=-1.0)
        del ap, z  # of a large model there is no memory for one more
        p = orthonormal(p, overwrite=True)
    return rows


def _descend(run: Run, p: Tensor, curvatures: Tensor, steepest: float) -> None:
    """Remember the direction of least curvature in an orthonormal block (s, p), if a whole product has it negative."""
    turn = torch.linalg.eigh(curvatures.double())[1]
    direction = turn[:, :1].T.to(p) @ p
    quotient = float((run.operator.matmat(direction) * direction).sum())
    if clearly_negative(quotient, steepest, p.shape[1], p.dtype):
        run.descend(direction[0], quotient)
