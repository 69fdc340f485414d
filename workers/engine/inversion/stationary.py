"""The iterates of LiSSA over all rows, h ← b + M h with M = (1 − dampen) I − (H + λI) / scale, from a
Krylov space of a few steps instead of a product each.

h after n steps is a polynomial in H times b, and so it has an excellent approximation in a small
space: with U Θ Uᵀ the projection of M, n steps are Σ_{j ≤ n} Θʲ, in closed form. Taken for the iterate
it leaves out, in each step, what H leads out of the space; as M shortens what it is applied to, the
sum of these is a bound of the whole error (Saad, Analysis of some Krylov subspace approximations,
1992). The space grows until the bound is rounding. Where that needs too large a space, and H is at hand
as a matrix, all of its eigenvectors are the space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion.krylov import BlockKrylov
from workers.engine.operators import Curvature
from workers.engine.progress import Progress

# Relative error of an iterate in the norm of each row.
BOUND = {torch.float32: 1e-6, torch.float64: 1e-12}
FEWEST_STEPS, MOST_STEPS = 12, 10_000  # of LiSSA: fewer are quickly made
FEWEST_BLOCKS = 3
# The bound takes an eigenproblem of the space's size: of a large one, only when it has grown by so much.
LARGE_SPACE, GROWN = 256, 1.25
SAMPLED_STEPS = 12  # that the bound is computed at
MOST_DIRECTIONS = 1024
BASES = 2  # alive at once: one that grows is copied
# An eigendecomposition in float64 costs as much as products of H with this times p vectors in float32.
DECOMPOSITION = 20.0
MOST_NUMBERS = 1 << 23  # steps times eigenvalues: 64 MiB


@dataclass(frozen=True)
class Step:
    """One step of the recursion, in numbers."""

    damping: float
    dampen: float
    scale: float

    def multiplier(self, eigenvalues: Tensor) -> Tensor:
        """M, of eigenvalues of H."""
        return 1.0 - self.dampen - (eigenvalues + self.damping) / self.scale


class Iterates(ABC):
    """All iterates of some right-hand sides, in float64 but for what has p numbers a row."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the iterates."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(k, p)."""

    @abstractmethod
    def norms(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Of h and of its last step, after each of these numbers of steps (t,): (t, k) each."""

    @abstractmethod
    def iterate(self, steps: Tensor, rows: Tensor) -> Tensor:
        """h of these rows (j,), each after its number of steps (j,): (j, p)."""

    @abstractmethod
    def step(self, steps: Tensor, rows: Tensor) -> Tensor:
        """The last step of each of these rows, h(n) − h(n − 1): (j, p)."""

    @abstractmethod
    def entries(self, steps: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """One entry of h and of its last step, at `places` (j,) of these rows (j,): (t, j) each."""


@dataclass
class InSpaces(Iterates):
    """Iterates by `multipliers` of M in small spaces, `weights` of b there (k rows), and `vectors` (…, p)."""

    multipliers: Tensor
    weights: Tensor
    vectors: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.vectors.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.weights), self.vectors.shape[-1]


@dataclass
class InOneSpace(InSpaces):
    """Iterates in a space of all: `multipliers` (s,) of M in it, `weights` (k, s) of b, `vectors` (s, p)."""

    def norms(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        squares, steps = self.weights.square().T, steps.to(self.multipliers)
        sums, powers = sums_and_powers(self.multipliers, steps[:, None])
        return (sums.square() @ squares).sqrt(), (powers.square() @ squares).sqrt()

    def iterate(self, steps: Tensor, rows: Tensor) -> Tensor:
        sums, _ = sums_and_powers(self.multipliers, steps[:, None])
        return (self.weights[rows] * sums).to(self.vectors) @ self.vectors

    def step(self, steps: Tensor, rows: Tensor) -> Tensor:
        powers = self.multipliers ** steps[:, None]
        return (self.weights[rows] * powers).to(self.vectors) @ self.vectors

    def entries(self, steps: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        entry = (self.weights[rows] * self.vectors[:, places].T.to(self.weights)).T  # (s, j)
        sums, powers = sums_and_powers(self.multipliers, steps[:, None])
        return sums @ entry, powers @ entry


def sums_and_powers(multipliers: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{j ≤ n} mʲ, and mⁿ, for n of `steps`, which are broadcast against the multipliers."""
    powers = multipliers**steps
    return (1.0 - multipliers * powers) / (1.0 - multipliers), powers


@dataclass(frozen=True)
class Eigenbasis:
    """All eigenvalues (p,) and eigenvectors (p, p), in columns, of H, in float64."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def where_cheaper(cls, curvature: Curvature, rows: int, maxiter: int) -> Eigenbasis | None:
        """Of a curvature with its matrix at hand, if that pays for `maxiter` steps of so many rows."""
        size = curvature.shape[0]
        pays = rows * maxiter >= DECOMPOSITION * size
        if curvature.matrix is None or not pays or not _fits(maxiter, size):
            return None
        return cls(*torch.linalg.eigh(curvature.matrix.double()))

    def serves(self, maxiter: int) -> bool:
        """Whether so many steps can be looked through."""
        return _fits(maxiter, len(self.values))

    def iterates(self, rhs: Tensor, step: Step) -> Iterates | None:
        """Those of these right-hand sides (k, p); None where the recursion does not converge."""
        multipliers = step.multiplier(self.values)
        if not bool((multipliers.abs() < 1.0).all()):
            return None
        return InOneSpace(multipliers, rhs.double() @ self.vectors, self.vectors.T.to(rhs))


def _fits(maxiter: int, size: int) -> bool:
    return maxiter <= MOST_STEPS and maxiter * size <= MOST_NUMBERS


def iterates(
    curvature: Curvature,
    rhs: Tensor,
    step: Step,
    maxiter: int,
    progress: Progress,
    most_directions: int | None = None,
) -> Iterates | None:
    """Those up to `maxiter`; None where a space would not be small, or the recursion does not converge
    within it, or within the curvature's budget."""
    most = min(MOST_DIRECTIONS, most_directions or MOST_DIRECTIONS)
    if curvature.space_bytes is not None:
        most = min(most, curvature.space_bytes // (BASES * rhs.shape[1] * rhs.itemsize))
    blocks = min(maxiter // 2, most // max(len(rhs), 1))
    if not FEWEST_STEPS <= maxiter <= MOST_STEPS or blocks < FEWEST_BLOCKS:
        return None
    space, looked_at = BlockKrylov(curvature, rhs), 0
    for number in range(1, blocks + 1):
        progress("lissa", number - 1, blocks, "blocks")
        space.grow()
        size, last = len(space.basis), number == blocks or not space.room
        soon = number < FEWEST_BLOCKS or (size > LARGE_SPACE and size < GROWN * looked_at)
        if soon and not last:
            continue
        looked_at = size
        found = _projected(space, rhs, step)
        if found is None:
            return None
        if _bound(space, found, step, maxiter) <= BOUND.get(rhs.dtype, 1e-6):
            coordinates, turn = found
            vectors = turn.T.to(rhs) @ space.basis
            return InOneSpace(coordinates.multipliers, coordinates.weights, vectors)
        if not space.room:
            break
    return None


def _projected(space: BlockKrylov, rhs: Tensor, step: Step) -> tuple[InOneSpace, Tensor] | None:
    """The iterates' coordinates in the space, and the turn (s, s) to it; None if M does not shorten."""
    values, turn = torch.linalg.eigh(space.projected)
    multipliers = step.multiplier(values)
    if not bool((multipliers.abs() < 1.0).all()):
        return None
    weights = (rhs @ space.basis.T).double() @ turn
    return InOneSpace(multipliers, weights, space.basis[:0]), turn


def _bound(space: BlockKrylov, found: tuple[InOneSpace, Tensor], step: Step, maxiter: int) -> float:
    """Of the relative error of any row of the last iterate: what is left out, times all steps."""
    within, turn = found
    last = turn[-space.width :]  # (w, s)
    most = torch.zeros(len(within.weights)).to(within.weights)
    for number in sampled_steps(maxiter).to(within.weights):
        sums, _ = sums_and_powers(within.multipliers, number)
        most = torch.maximum(most, space.leading_out((within.weights * sums) @ last.T))
    return relative_bound(within, most, step, maxiter)


def sampled_steps(maxiter: int) -> Tensor:
    """Numbers of steps that what is left out is looked at after."""
    return torch.linspace(0, maxiter - 1, SAMPLED_STEPS).round()


def relative_bound(found: Iterates, most: Tensor, step: Step, maxiter: int) -> float:
    """Of the relative error of any row, where a step leaves out `most` (k,) of H h at most."""
    size = found.norms(most.new_tensor([maxiter]))[0][0]
    left_out = maxiter * most / step.scale
    return float((left_out / torch.where(size > 0, size, torch.ones_like(size))).max())


def stops(found: Iterates, rtol: float, maxiter: int) -> Tensor:
    """(k,) the first number of steps whose last one changes every entry by at most rtol |h|, or by the
    rounding of the row's largest; `maxiter` where there is none.

    Not every step is looked at: the entry that changed most against what it may tells the next step at
    which it will not change too much, and the whole row is looked at there.
    """
    count, size = found.shape
    numbers = torch.arange(1, maxiter + 1, dtype=torch.float64)
    norms, steps = found.norms(numbers)  # (N, k)
    numbers = numbers.to(norms)
    rounding = torch.finfo(found.dtype).eps
    room = (rtol + rounding * size**0.5) * norms
    moved = steps.cumsum(0)  # no entry of h moves by more than the difference of two
    stop = torch.full((count,), maxiter).to(norms)
    rows = torch.arange(count, device=stop.device)
    position, rows = _next(steps <= room, torch.full_like(rows, -1), rows)
    while len(rows):
        stop_here = numbers[position]
        h, step = found.iterate(stop_here, rows).abs_(), found.step(stop_here, rows).abs_()
        largest = h.amax(1)
        allowed = torch.maximum(rtol * h, rounding * largest[:, None])
        within = (step <= allowed).all(1)
        stop[rows[within]] = stop_here[within]
        worst = (step / allowed)[~within].argmax(1)
        rows, position, largest = rows[~within], position[~within], largest[~within]
        h_there, step_there = found.entries(numbers, rows, worst)  # (N, j)
        bound = torch.minimum(norms[:, rows], largest + (moved[:, rows] - moved[position, rows]))
        small = step_there.abs_() <= torch.maximum(rtol * h_there.abs_(), rounding * bound)
        position, rows = _next(small, position, rows)
    return stop


def _next(candidates: Tensor, after: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column of (N, j) the first that is true and later than `after`; those without one go."""
    later = torch.arange(len(candidates), device=after.device)[:, None] > after
    sound = candidates & later
    return sound.int().argmax(0)[sound.any(0)], rows[sound.any(0)]


def history_steps(maxiter: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, …: the powers of 2, and the middle between two, up to `maxiter`."""
    steps, power = [1], 2
    while power <= maxiter:
        steps += [each for each in (power, power * 3 // 2) if each <= maxiter]
        power *= 2
    return steps


def history_of(found: Iterates, stop: Tensor, maxiter: int) -> Tensor:
    """(k, t) at `history_steps`, from the small space; after a row's `stop` (k,) its last one."""
    marks = torch.tensor(history_steps(maxiter)).to(stop)
    history, last = (_change(*found.norms(steps)) for steps in (marks, stop))  # (t, k), (k, k)
    return torch.where(marks[:, None] <= stop, history, last.diagonal()).T


def _change(norms: Tensor, steps: Tensor) -> Tensor:
    return torch.where(norms > 0, steps / norms, 0.0)
