"""Conjugate gradients for all right-hand sides at once: the default where H cannot be built.

Every right-hand side has its own stopping rule, iteration count and status. By default they share
one search space (block conjugate gradients): the Krylov space of all of them together is richer, so
fewer products are needed. `recurrence="separate"` is the textbook algorithm, row by row, batched.
Where the shared space breaks down (an indefinite H + λI) the rows that are left go on separately,
so that negative curvature is reported of the rows it concerns. Where the matrix is at hand its
Cholesky factor is the preconditioner, and one iteration is enough. Where it is known which rows count,
late products are over these alone (`fewer_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, ShapeMismatch
from workers.engine.inversion.cholesky import Cholesky
from workers.engine.inversion.fewer_rows import FewerRows
from workers.engine.inversion.indefinite import Unsolved, indefinite
from workers.engine.inversion.method import FitOf, Method
from workers.engine.inversion.preconditioner import IDENTITY
from workers.engine.inversion.recurrences import Run, Stopping, separate, shared
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.refinement import in_double, refine
from workers.engine.inversion.solution import Solution, Status, checked_rhs
from workers.engine.operators import Curvature, Damped, Inverse
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
# A factorisation, p³/3 operations, costs as much as p over this many products with the matrix.
FACTORISATION = 4.5
# Of a power of two that float32 has, as well as what is left of a row divided by it.
MOST_EXPONENT = 120
# What the info has of each right-hand side.
ROWWISE = frozenset({"iterations", "converged", "residual_norms"})
# A relative residual below this is rounding in float32: it is told, and reached, in float64 ...
FINEST = 2e-6
# ... from a solution that is as good as this.
START = 1e-5


@dataclass(frozen=True)
class ConjugateGradients(Method, name="cg"):
    """Stops each right-hand side when ‖r‖ ≤ max(rtol ‖b‖, atol), judged by the true residual.

    `x0` is a start (k, p), never written to; null starts from zero, and for b = 0 the answer is 0.
    `maxiter` null means 10 p, at least 50. `preconditioner` is any method with a fit, or null for what
    makes the solution quicker, if anything does.
    info has iterations (k,), converged (k,), residual_norms (k,), passes, refined, preconditioner
    and preconditioner_rank.
    """

    x0: Tensor | None = None
    rtol: float = 1e-7
    atol: float = 0.0
    maxiter: int | None = None
    preconditioner: Method | None = None
    recurrence: Literal["shared", "separate"] = "shared"
    seed: int = 0
    unsolved: Unsolved = "fail"

    def __post_init__(self) -> None:
        if not self.rtol >= 0.0 or not self.atol >= 0.0 or not self.rtol + self.atol > 0.0:
            raise BadParameter(
                "rtol, atol", (self.rtol, self.atol), "not negative, and one of them positive"
            )
        if self.maxiter is not None and self.maxiter < 1:
            raise BadParameter("maxiter", self.maxiter, "at least 1, or null for 10 p")
        if not isinstance(self.preconditioner, Method | None):
            raise BadParameter("preconditioner", self.preconditioner, "null, or a method")
        if self.recurrence not in ("shared", "separate"):
            raise BadParameter("recurrence", self.recurrence, "shared or separate")

    recycles = True

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> Inverse | None:
        """The preconditioner that is asked for."""
        if self.preconditioner is None:
            return None
        found = self.preconditioner.fit(curvature, damping, progress)
        if found is None:
            raise BadParameter(
                "preconditioner",
                self.preconditioner.name,
                "a method that finds out something first",
            )
        return found.positive()

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p). Raises SingularHessian, ShapeMismatch, NotFinite, and what H raises.

        `recycled` is what earlier solutions with this H have left, and is added to. Where float32
        cannot tell that a row is within its bound, all rows come in float64; see `refinement`.
        """
        hessian = Damped(curvature, damping)
        rhs = checked_rhs(hessian, rhs)
        begun = hessian.passes
        scale = _powers_of_two(rhs)
        rhs, start = rhs / scale, self._start(rhs, scale)
        found = recycled or Recycled()
        operator = found.operator(hessian, self._expected_products(len(rhs)), len(rhs))
        fitted = fit or self._fitted(operator, found, len(rhs), progress)
        size = torch.linalg.vector_norm(rhs, dim=1)
        bounds = torch.maximum(self.rtol * size, self.atol / scale[:, 0])
        fine = bounds < FINEST * size
        # Asked for once more when it is needed: of a large model there is no memory for it beside the first products.
        refines = bool(fine.any()) and in_double(operator) is not None
        # What is refined anyway needs no more than a good start.
        aims = torch.where(fine, START * size, bounds) if refines else bounds
        run = self._begin(operator, rhs, start, aims, fitted, progress or silent)
        run.directions = None if recycled is None else recycled.directions(fitted)
        if run.directions is None:  # what is learned is learned from whole products
            run.fewer = FewerRows.of(operator, found.row_traces(fitted))
        norms = self._run(run)
        if run.directions is not None:
            found.learn(run.directions, fitted)
        double = in_double(operator) if refines or Status.STAGNATED in run.status else None
        if double is not None:
            x, norms = self._refined(run, double, bounds, norms)
        else:
            x = run.x
        norms = norms * scale[:, 0]
        return Solution(
            x * scale,
            norms,
            run.statuses,
            {
                "iterations": run.iterations.cpu(),
                "converged": torch.tensor([each is Status.CONVERGED for each in run.statuses]),
                "residual_norms": norms,
                "status": [str(each) for each in run.statuses],
                "passes": hessian.passes - begun + (0 if double is None else double.passes),
                "recurrence": self.recurrence,
                "refined": double is not None,
                **fitted.info,
            },
            rowwise=ROWWISE,
        )

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
        fit_of: FitOf | None = None,
    ) -> list[Solution]:
        """As `Method.solve_each`, from the largest λ down.

        Each starts from the solution before, unless there is a start already or an inverse that needs none, and with
        what those before have found out about H. One Krylov space for all λ's would have to do without
        preconditioners, whose space depends on λ, and last as long as the smallest λ asks.
        """
        fit_of = fit_of or self._from_one_fit(curvature, dampings, progress)
        recycled, found = Recycled(), dict[float, Solution]()
        method = self
        for each in sorted(dampings, reverse=True):
            fit = fit_of(each)
            found[each] = method.solve(curvature, each, rhs, progress, fit, recycled)
            exact = recycled.matrix is not None or (fit is not None and fit.is_exact)
            if self.x0 is None and not exact:
                method = replace(self, x0=found[each].x)
        return [found[each] for each in dampings]

    def _start(self, rhs: Tensor, scale: Tensor) -> Tensor | None:
        """A copy of x0 (k, p) in units of `scale` (k, 1), 0 where b is."""
        if self.x0 is None:
            return None
        if self.x0.shape != rhs.shape:
            raise ShapeMismatch("x0", rhs.shape, self.x0.shape, "a start for each right-hand side")
        return torch.where((rhs != 0).any(1, keepdim=True), self.x0.detach().to(rhs) / scale, 0.0)

    def _expected_products(self, count: int) -> float:
        """A guess: 43 products for one right-hand side, 600 for 100, to a tolerance of 1e-5."""
        alone = FIRST_PRODUCTS * math.log10(1.0 / min(max(self.rtol, 1e-8), 0.1)) / 5.0
        alone = min(alone, self.maxiter or alone)
        return alone * count ** (SHARING if self.recurrence == "shared" else 1.0)

    def _fitted(
        self, operator: Damped, found: Recycled, count: int, progress: Progress | None
    ) -> Inverse:
        """The one asked for; none asked for, what makes the solution quicker."""
        if self.preconditioner is not None or self.recurrence == "separate":
            return self.fit(operator.curvature, operator.damping, progress) or IDENTITY
        if operator.curvature.matrix is not None:
            pays = operator.shape[0] <= FACTORISATION * self._expected_products(count)
            factor = found.cholesky(operator) if pays or found.factor is not None else None
            return IDENTITY if factor is None else Cholesky(factor)
        return found.preconditioner(operator, self._expected_products(count)) or IDENTITY

    def _begin(
        self,
        operator: Damped,
        rhs: Tensor,
        x0: Tensor | None,
        bounds: Tensor,
        fitted: Inverse,
        progress: Progress,
    ) -> Run:
        maxiter = self.maxiter or max(10 * rhs.shape[1], 50)
        start = torch.zeros_like(rhs) if x0 is None else x0
        run = Run(operator, rhs, start, Stopping(bounds, maxiter), fitted, progress)
        if x0 is None and fitted.is_exact:
            run.x = fitted.apply(rhs)
            run.iterations[run.unfinished] += 1
        return run

    def _run(self, run: Run) -> Tensor:
        """To the end of every row; the true residual norms (k,)."""
        norms = run.restart()
        restarts = 0
        while len(run.unfinished):
            self._iterate(run)
            before, norms = norms, run.restart()
            run.fewer = None  # what was left out may be what is missing
            restarts += 1
            run.aim = AIM_AFTER_RESTART  # the recurrence flattered itself: leave room for that
            last = restarts > MOST_RESTARTS
            run.give_up(norms > (0.0 if last else WORTHWHILE_GAIN) * before)
        return norms

    def _refined(
        self, run: Run, double: Damped, bounds: Tensor, norms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (k, p) and residual norms (k,) in float64, and the status of the rows that changed."""
        stuck = [
            row
            for row, each in enumerate(run.statuses)
            if each is Status.STAGNATED
            or (each is Status.CONVERGED and float(bounds[row]) < float(run.limits.bounds[row]))
        ]
        rows = torch.tensor(stuck, dtype=torch.int64, device=run.rhs.device)
        whole = len(stuck) == len(run.x)
        x, norms = run.x.double(), norms.double()
        run.x = run.residual = torch.empty_like(run.x[:0])  # no view, which would hold them

        def correct(which: Tensor, residuals: Tensor, tolerance: float) -> Tensor:
            """(H + λI)⁻¹ of residuals of norm 1, which belong to these of `rows`."""
            limits = torch.full_like(residuals[:, 0], tolerance)
            inner = self._begin(
                run.operator, residuals, None, limits, run.preconditioner, run.progress
            )
            if not run.preconditioner.is_exact:
                self._iterate(inner)
            run.iterations[rows[which]] += inner.iterations
            return inner.x

        rhs = run.rhs if whole else run.rhs[rows]
        fine, reached = refine(double, rhs, x if whole else x[rows], bounds[rows], correct)
        if whole:
            x, norms = fine, reached
        else:
            x[rows], norms[rows] = fine, reached
        for row, arrived in zip(stuck, (reached <= bounds[rows]).tolist(), strict=True):
            run.status[row] = Status.CONVERGED if arrived else Status.STAGNATED
        return x, norms

    def _iterate(self, run: Run) -> None:
        if self.recurrence == "shared":
            for rows in torch.split(run.unfinished, SHARED_ROWS):
                left = shared(run, rows)
                self._refuse_descent(run)
                if len(left):
                    separate(run, left)
        else:
            separate(run, run.unfinished)
        self._refuse_descent(run)

    def _refuse_descent(self, run: Run) -> None:
        """Raises SingularHessian where a direction of curvature that is not positive was met, unless that is kept."""
        if run.downhill is not None and self.unsolved == "fail":
            raise indefinite(run.operator, run.downhill, self.seed)


def _powers_of_two(rhs: Tensor) -> Tensor:
    """(k, 1), a row's largest entry is below its power and at least half of it: dividing by it changes no digit.

    In float32 squares of what is below 1e-19 are 0, and a row of such would have the norm 0.
    """
    exponents = torch.frexp(rhs.abs().amax(1, keepdim=True)).exponent
    return torch.ldexp(torch.ones_like(rhs[:, :1]), exponents.clamp(-MOST_EXPONENT, MOST_EXPONENT))
