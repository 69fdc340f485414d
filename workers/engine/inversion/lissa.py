"""LiSSA: the inverse as a recursion over random batches, for data too large to pass over often.

Agarwal, Bullins and Hazan, Second-order stochastic optimization for machine learning in linear
time (2017). With H_j the mean Hessian of the j-th random batch one step is

    h ← b + (1 − dampen) h − (H_j + λI) h / scale,    from h₀ = b,    and x = h / scale.

Its fixed point is (H + (λ + dampen · scale) I)⁻¹ b: dampen is extra damping, scale by scale. It
converges if 0 < dampen + (μ + λ) / scale < 2 for every eigenvalue μ of H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import (
    BadParameter,
    Diverged,
    EngineError,
    ShapeMismatch,
    SingularHessian,
)
from workers.engine.inversion.deflated import Deflation
from workers.engine.inversion.indefinite import Unsolved, clearly_negative, singular
from workers.engine.inversion.lanczos import ends, largest_magnitude
from workers.engine.inversion.method import FitOf, Method
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import (
    Solution,
    Status,
    checked_rhs,
)
from workers.engine.inversion.stationary import (
    LARGE_SPACE,
    Eigenbasis,
    Iterates,
    Step,
    history_of,
    history_steps,
    iterates,
    stops,
)
from workers.engine.operators import Curvature, Damped, Inverse, OfAnother
from workers.engine.progress import Progress, silent

# A safe scale keeps this much distance from the bound, for the error of the estimate ...
MARGIN = 1.1
# ... and this much from the largest that was met in so many random batches, as others' may be larger: with 2 no step
# overshoots along any direction of a batch that is like those.
MARGIN_OF_BATCHES = 2.0
BATCHES_LOOKED_AT, STEPS_IN_A_BATCH = 8, 10
# A scale that was estimated and under which the steps grow all the same is doubled, so often at most.
MOST_DOUBLINGS = 8
# In a convergent recursion over all rows steps never grow; over batches they fluctuate.
GROWTH = 1e3
# Steps of a recursion over all rows become shorter with each, and lead somewhere. Where in so many of them, each below
# this times the rounding of h, neither is so, they are rounding.
WINDOW, NOISE = 32, 1024.0
SHORTER, LED = 0.9, 0.5
# Lanczos steps that look for a negative eigenvalue.
STEPS_OF_ENDS = 20
# What a matrix is built for: the products of a small space.
EXPECTED_STEPS = 8
# More rows than this make the small dense algebra of a shared space cost more than it saves.
ROWS_OF_A_SPACE = 128
# Blocks of a shared space that are tried before H's largest eigenvectors are split off.
FEW_BLOCKS = 6
COPIED_BYTES = 1 << 20  # of the rows whose last changes are looked at together

# What the info has of each right-hand side.
ROWWISE = frozenset({"residual_norms", "converged", "course_percent"})


@dataclass(frozen=True)
class OfBatch(OfAnother):
    """H_j, of some rows: what Lanczos steps ask for."""

    indices: Tensor

    def matmat(self, vectors: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        return self.original.sampled_matmat(self.indices, vectors)

    def dense(self) -> Tensor:
        """(p, p)."""
        return self.matmat(torch.eye(self.shape[0], dtype=self.dtype, device=self.device))


class RoundingWatch:
    """Tells, of a recursion over all rows, where rounding is all that still changes h (k, p).

    Exact steps become shorter, by a constant factor in the end, and where that is near 1 they add up; rounding does
    neither. Steps over random batches do neither as well: nothing can be told of those.
    """

    def __init__(self, h: Tensor) -> None:
        self.rounded = torch.zeros_like(h[:, 0], dtype=torch.bool)
        self._begun = h.clone()  # the iterate when the window began
        # The shortest step of the last window, and of this one.
        self._before = torch.full_like(h[:, 0], float("inf"))
        self._shortest, self._longest = self._before.clone(), torch.zeros_like(self._before)

    def stuck(self, rows: Tensor, current: Tensor, size: Tensor, done: int) -> Tensor:
        """Which of `rows` (j,), at `current` (j, p) by a step of norm `size` (j,), after `done` steps."""
        self._shortest[rows] = torch.minimum(self._shortest[rows], size)
        self._longest[rows] = torch.maximum(self._longest[rows], size)
        if done % WINDOW:
            return self.rounded[rows]
        before = self._before[rows]
        shortest, longest = self._shortest[rows], self._longest[rows]
        noise = NOISE * torch.finfo(current.dtype).eps * torch.linalg.vector_norm(current, dim=1)
        led = torch.linalg.vector_norm(current - self._begun[rows], dim=1)
        unchanged = (shortest > SHORTER * before) & (shortest < before / SHORTER**4)
        self.rounded[rows] = unchanged & (longest <= noise) & (led <= LED * WINDOW * shortest)
        self._begun[rows], self._before[rows] = current, shortest
        self._shortest[rows], self._longest[rows] = float("inf"), 0.0
        return self.rounded[rows]


@dataclass(frozen=True)
class Lissa(Method, name="lissa"):
    """Runs until the largest relative change of an entry is below rtol, rounding is all that changes it, or `maxiter`.

    `scale` "auto" takes a safe one from a few Lanczos steps, with H and with some random batches' own Hessians,
    and doubles it where the steps grow all the same. `h0` (k, p) replaces b as
    the start, in units of scale · x, and is never written to. `batch_size` null takes all rows every
    time, which makes the recursion deterministic. info has course_percent (k, t), the relative change
    of each solution in norm at `history_steps`, maximum_change_percent and
    mean_change_percent (of the last step), iterations, scale, converged.
    """

    maxiter: int = 1000
    dampen: float = 0.0
    scale: float | Literal["auto"] = "auto"
    h0: Tensor | None = None
    rtol: float = 1e-4
    batch_size: int | None = None
    seed: int = 0
    unsolved: Unsolved = "fail"

    def __post_init__(self) -> None:
        if self.maxiter < 1:
            raise BadParameter("maxiter", self.maxiter, "at least 1")
        if not 0.0 <= self.dampen < 2.0:
            raise BadParameter("dampen", self.dampen, "from 0 to below 2")
        if self.scale != "auto" and not (isinstance(self.scale, float | int) and self.scale > 0):
            raise BadParameter("scale", self.scale, "positive, or auto")
        if not self.rtol > 0.0:
            raise BadParameter("rtol", self.rtol, "must be positive")
        if self.batch_size is not None and self.batch_size < 1:
            raise BadParameter("batch_size", self.batch_size, "at least 1, or null for all rows")

    recycles = True

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p). Raises Diverged with a scale to try, SingularHessian with a λ.

        `recycled` is what earlier solutions with this H have left, and is added to.
        """
        hessian = Damped(curvature, damping)
        rhs = checked_rhs(hessian, rhs)
        if self.h0 is not None and self.h0.shape != rhs.shape:
            raise ShapeMismatch("h0", rhs.shape, self.h0.shape, "a start for each right-hand side")
        recycled = recycled or Recycled()
        if not self._takes_samples(hessian):
            steps = min(self.maxiter, EXPECTED_STEPS)
            hessian = recycled.operator(hessian, steps * len(rhs), len(rhs))
        scale = (
            self._safe_scale(hessian, recycled.largest)
            if self.scale == "auto"
            else float(self.scale)
        )
        for doublings in range(MOST_DOUBLINGS + 1):
            try:
                found = self._all(hessian, rhs, scale, progress or silent, recycled)
                break
            except Diverged:
                if self.scale != "auto" or doublings == MOST_DOUBLINGS:
                    raise
                scale *= 2.0
        iterate, changes, iterations, history, contracts, rounded = found
        x = iterate / scale
        settled = (changes <= self.rtol).all(1)
        status = tuple(
            Status.CONVERGED if done else Status.STAGNATED if stuck else Status.MAXITER
            for done, stuck in zip(settled.tolist(), rounded.tolist(), strict=True)
        )
        # Steps along a negative eigenvalue grow, but by little where it is small against the scale.
        indefinite = None if contracts else self._indefinite(hessian, scale)
        if indefinite is not None and self.unsolved == "fail":
            raise indefinite
        if indefinite is not None:
            status = (Status.NEGATIVE_CURVATURE,) * len(rhs)
        info = {
            "maximum_change_percent": 100.0 * float(changes.max()) if changes.numel() else 0.0,
            "mean_change_percent": 100.0 * float(changes.mean()) if changes.numel() else 0.0,
            "iterations": iterations,
            "scale": scale,
            "converged": settled.cpu(),
            "course_percent": 100.0 * history,
        }
        residual = rhs - hessian.matmat(x)
        norms = torch.linalg.vector_norm(residual, dim=1)
        return Solution(x, norms, status, info, ROWWISE)

    def _all(
        self,
        hessian: Damped,
        rhs: Tensor,
        scale: float,
        progress: Progress,
        recycled: Recycled,
    ) -> tuple[Tensor, Tensor, int, Tensor, bool, Tensor]:
        """As `_iterate`; without sampling from a small space or from H's spectrum, where that pays.

        The last but one says whether all came from such, where every step was seen to make vectors shorter.
        """
        if self.h0 is not None or self._takes_samples(hessian):
            h, changes, done, history, rounded = self._iterate(hessian, rhs, scale, progress)
            return h, changes, done, history, False, rounded
        h, changes, done = torch.zeros_like(rhs), torch.zeros_like(rhs), 0
        history = rhs.new_zeros(len(rhs), len(history_steps(self.maxiter)))
        rounded = torch.zeros_like(rhs[:, 0], dtype=torch.bool)
        rows = (rhs != 0).any(1).nonzero()[:, 0]
        step, contracts = Step(hessian.damping, self.dampen, scale), True
        kept = recycled.spectrum
        spectrum = kept if kept is not None and kept.serves(self.maxiter) else None
        for part in torch.split(rows, ROWS_OF_A_SPACE) if len(rows) else ():
            found = None
            if spectrum is None:
                found = self._in_a_space(hessian.curvature, rhs[part], step, progress, recycled)
            if found is None:
                spectrum = spectrum or Eigenbasis.where_cheaper(
                    hessian.curvature, len(rows), self.maxiter
                )
                found = spectrum.iterates(rhs[part], step) if spectrum else None
                recycled.spectrum = spectrum or kept
            if found is None:
                contracts = False
                h[part], changes[part], steps, history[part], rounded[part] = self._iterate(
                    hessian, rhs[part], scale, progress
                )
            else:
                count, every = stops(found, self.rtol, self.maxiter), torch.arange(len(part))
                h[part] = found.iterate(count, every)
                changes[part] = self._relative(found.step(count, every), h[part])
                history[part] = history_of(found, count, self.maxiter).to(history)
                steps = int(count.max())
            done = max(done, steps)
        return h, changes, done, history, contracts, rounded

    def solve_each(
        self,
        curvature: Curvature,
        dampings: Sequence[float],
        rhs: Tensor,
        progress: Progress | None = None,
        fit_of: FitOf | None = None,
    ) -> list[Solution]:
        """As `Method.solve_each`: a recursion a λ; they share a matrix, eigenvectors, and the scale's estimate."""
        recycled = Recycled()
        if self.scale == "auto":
            recycled.largest = self._largest(Damped(curvature, max(dampings)))
        return [self.solve(curvature, each, rhs, progress, recycled=recycled) for each in dampings]

    def _in_a_space(
        self,
        curvature: Curvature,
        rhs: Tensor,
        step: Step,
        progress: Progress,
        recycled: Recycled,
    ) -> Iterates | None:
        """The iterates of these rows from a space that they share, or from small ones beside H's largest
        eigenvectors; None where neither is small."""
        if not Deflation.suits(curvature, self.maxiter):
            return iterates(curvature, rhs, step, self.maxiter, progress)
        if recycled.deflation is None:
            most = max(LARGE_SPACE, FEW_BLOCKS * len(rhs))
            found = iterates(curvature, rhs, step, self.maxiter, progress, most)
            if found is not None:
                return found
            recycled.deflation = Deflation.of(curvature, progress)
        found = recycled.deflation.iterates(curvature, rhs, step, self.maxiter, progress)
        return found or iterates(curvature, rhs, step, self.maxiter, progress)

    def _iterate(
        self, hessian: Damped, rhs: Tensor, scale: float, progress: Progress
    ) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
        """The iterate h, its last relative changes (both (k, p)), the steps taken, the history (k, t), and which
        rows (k,) ended as rounding was all that changed them."""
        h = rhs.clone() if self.h0 is None else self.h0.detach().to(rhs).clone()
        changes = torch.zeros_like(rhs)
        generator = torch.Generator().manual_seed(self.seed)
        rows = ((rhs != 0).any(1) | (h != 0).any(1)).nonzero()[:, 0]
        # Of the rows that go on alone, so that a step takes as few passes over memory as it can.
        b, current = rhs[rows], h[rows]
        smallest_step = torch.full_like(b[:, 0], float("inf"))
        marks, norms, history = set(history_steps(self.maxiter)), torch.zeros_like(rhs[:, 0]), []
        done, watch = 0, None if self._takes_samples(hessian) else RoundingWatch(h)
        while len(rows) and done < self.maxiter:
            progress("lissa", done, self.maxiter, "iterations")
            product = self._product(hessian, current, generator)
            following = torch.add(b, current, alpha=1.0 - self.dampen).sub_(
                product, alpha=1.0 / scale
            )
            del product  # of a large model there is no memory for one more
            step = following - current
            size = torch.linalg.vector_norm(step, dim=1)
            length = torch.linalg.vector_norm(following, dim=1)  # not finite where an entry is not
            if not bool(((size < GROWTH * smallest_step) & torch.isfinite(length)).all()):
                raise self._diverged(hessian, scale)
            # Not below the rounding of h, where a step of nearly zero is chance and growth from it no sign.
            rounding = torch.finfo(h.dtype).eps * length
            smallest_step = torch.maximum(torch.minimum(smallest_step, size), rounding)
            current = following
            done += 1
            norms[rows] = torch.where(length > 0, size / length, 0.0)
            if done in marks:
                history.append(norms.clone())
            ended = self._settled(step, current, size, length)
            if watch is not None:
                ended |= watch.stuck(rows, current, size, done)
            if done == self.maxiter:
                ended = torch.ones_like(ended)
            if bool(ended.any()):
                for row in _few_at_a_time(ended, current):
                    h[rows[row]] = current[row]
                    changes[rows[row]] = self._relative(step[row], current[row])
                going = ~ended
                rows, smallest_step = rows[going], smallest_step[going]
                b, current = b[going], current[going]
            del step, following
        history += [norms] * (len(marks) - len(history))  # what has ended changes no more
        none = torch.zeros_like(norms, dtype=torch.bool)
        return h, changes, done, torch.stack(history, 1), none if watch is None else watch.rounded

    def _settled(self, step: Tensor, h: Tensor, size: Tensor, length: Tensor) -> Tensor:
        """Which rows' last step (j, p) changed no entry of h by more than rtol; `size` and `length` (j,) are norms."""
        # Entries are looked at where the norms allow it: all that settle sum up to no more than this.
        eps = torch.finfo(h.dtype).eps
        most = 1.001 * (self.rtol + eps * h.shape[1] ** 0.5)
        settled = size <= most * length
        for row in _few_at_a_time(settled, h):
            settled[row] = (self._relative(step[row], h[row]) <= self.rtol).all(1)
        return settled

    def _product(self, hessian: Damped, vectors: Tensor, generator: torch.Generator) -> Tensor:
        if not self._takes_samples(hessian):
            return hessian.matmat(vectors)
        return hessian.sampled_matmat(self._drawn(hessian, generator), vectors)

    def _drawn(self, hessian: Damped, generator: torch.Generator) -> Tensor:
        """The row numbers of a random batch, without replacement."""
        drawn = torch.randperm(hessian.row_count, generator=generator)[: self.batch_size]
        return drawn.to(hessian.device)

    def _takes_samples(self, hessian: Damped) -> bool:
        return self.batch_size is not None and self.batch_size < hessian.row_count

    def _relative(self, step: Tensor, h: Tensor) -> Tensor:
        # An entry that is 0, or that is rounding of the largest, has no relative change of its own.
        eps = torch.finfo(h.dtype).eps
        floor = h.abs().amax(1, keepdim=True) * (eps / self.rtol)
        size = torch.maximum(h.abs(), floor)
        return torch.where(size > 0, step.abs() / size.clamp(min=torch.finfo(h.dtype).tiny), 0.0)

    def _safe_scale(self, hessian: Damped, largest: tuple[float, float] | None = None) -> float:
        """Given the largest eigenvalues, of H and of some random batches' own Hessians, where they are known."""
        of_all, of_batches = largest or self._largest(hessian)
        if of_all + hessian.damping <= 0.0:
            raise self._indefinite(hessian, 0.0) or singular(0.0, hessian.damping, 0.0)
        if not self._takes_samples(hessian):
            return MARGIN * (of_all + hessian.damping) / (2.0 - self.dampen)
        top = max(of_all, of_batches) + hessian.damping
        return MARGIN_OF_BATCHES * top / (2.0 - self.dampen)

    def _largest(self, hessian: Damped) -> tuple[float, float]:
        _, of_all = largest_magnitude(hessian.curvature, self.seed)
        of_batches = of_all
        if self._takes_samples(hessian):
            generator = torch.Generator().manual_seed(self.seed)
            for _ in range(BATCHES_LOOKED_AT):
                batch = OfBatch(hessian.curvature, self._drawn(hessian, generator))
                _, largest = largest_magnitude(batch, self.seed, STEPS_IN_A_BATCH)
                of_batches = max(of_batches, largest)
        return of_all, of_batches

    def _indefinite(self, hessian: Damped, scale: float) -> SingularHessian | None:
        """What is to be said where H + λI, dampened, has a negative eigenvalue, as far as Lanczos steps tell."""
        found = ends(hessian.curvature, self.seed, steps=STEPS_OF_ENDS)
        top = max(abs(found.smallest), abs(found.largest), hessian.damping)
        least = found.smallest + hessian.damping + self.dampen * scale
        if not clearly_negative(least, top, hessian.shape[0], hessian.dtype):
            return None
        return singular(found.smallest, hessian.damping, top, bound=not found.exact)

    def _diverged(self, hessian: Damped, scale: float) -> EngineError:
        indefinite = self._indefinite(hessian, scale)
        if indefinite is not None:
            return indefinite
        return Diverged(scale, max(self._safe_scale(hessian), 1.1 * scale), "the steps grow")


def _few_at_a_time(chosen: Tensor, rows: Tensor) -> Sequence[Tensor]:
    """The numbers of the chosen of the rows (k, p), so many at once that copies of them are small."""
    numbers = chosen.nonzero()[:, 0]
    together = max(1, COPIED_BYTES // (rows.shape[1] * rows.itemsize))
    return torch.split(numbers, together) if len(numbers) else ()
