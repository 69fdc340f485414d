"""LiSSA's iterates over all rows where H is at hand as a matrix: its largest eigenvectors are split off once for all
right-hand sides, and what is left of each has a small Krylov space of its own.

In a space that many right-hand sides share each pays for the directions of the others. Without the largest
eigenvalues H is about as flat as λI, so that some ten Lanczos steps of a right-hand side alone do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion import stationary
from workers.engine.inversion.krylov import BlockKrylov
from workers.engine.inversion.stationary import (
    BOUND,
    InOneSpace,
    InSpaces,
    Iterates,
    Step,
    relative_bound,
    sampled_steps,
    sums_and_powers,
)
from workers.engine.operators import Curvature
from workers.engine.progress import Progress

# The space that eigenvectors are taken from; few vectors at a time, as high powers of H make them.
DIRECTIONS, WIDTH = 384, 16
FEWEST_PARAMETERS = 1024  # of fewer an eigendecomposition is quick
# Residual of an eigenvector, in parts of the bound and of the largest eigenvalue: below what rounding does to it.
EXACT = 1e-3
# Lanczos steps of a right-hand side: more than these, and splitting off has not helped. A look at them is an
# eigenproblem of each, in whose small parallel regions threads wait for each other on a busy machine.
FEWEST_STEPS, LOOKED_EVERY, MOST_STEPS = 8, 4, 32
ROOM = 12  # that there is for them at first
NUMBERS = 1 << 20  # in float64, that are looked at together
GONE = 100.0  # times rounding: what is left of a vector that is no more than that is none


@dataclass(frozen=True)
class Deflation:
    """The eigenvalues (r,) of H of the largest absolute value, and eigenvectors (r, p), as exact as rounding allows."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def suits(cls, curvature: Curvature, maxiter: int) -> bool:
        """Whether H is large, a product with it costs no pass over rows, and so many steps can be looked through."""
        many = stationary.FEWEST_STEPS <= maxiter <= stationary.MOST_STEPS
        return many and curvature.matrix is not None and curvature.shape[0] >= FEWEST_PARAMETERS

    @classmethod
    def of(cls, curvature: Curvature, progress: Progress) -> Deflation:
        """From a Krylov space of some random vectors, the same every time."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(WIDTH, curvature.shape[0], generator=generator, dtype=torch.float64)
        space = BlockKrylov(curvature, drawn.to(device=curvature.device, dtype=curvature.dtype))
        blocks = DIRECTIONS // WIDTH
        for number in range(blocks):
            progress("lissa", number, blocks, "blocks")
            space.grow()
        values, turn = torch.linalg.eigh(space.projected)
        residuals = space.leading_out(turn[-space.width :].T)
        exact = residuals <= EXACT * BOUND.get(curvature.dtype, 1e-6) * values.abs().max()
        return cls(values[exact], turn[:, exact].T.to(space.basis) @ space.basis)

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.values.nbytes + self.vectors.nbytes

    def iterates(
        self, curvature: Curvature, rhs: Tensor, step: Step, maxiter: int, progress: Progress
    ) -> Iterates | None:
        """Those of these right-hand sides (k, p) up to `maxiter`; None where the recursion does not converge, or
        small spaces do not do."""
        multipliers = step.multiplier(self.values)
        if not bool((multipliers.abs() < 1.0).all()):
            return None
        shared = InOneSpace(multipliers, (rhs @ self.vectors.T).double(), self.vectors)
        lanczos = _Lanczos(curvature, self.vectors, rhs)
        for number in range(MOST_STEPS):
            progress("lissa", number, MOST_STEPS, "Lanczos steps")
            lanczos.grow()
            if lanczos.size < FEWEST_STEPS or lanczos.size % LOOKED_EVERY:
                continue
            own, last = lanczos.iterates(step)
            if not bool((own.multipliers.abs() < 1.0).all()):
                return None
            found = _Both(shared, own)
            if relative_bound(found, _left_out(own, last, maxiter), step, maxiter) <= BOUND.get(
                rhs.dtype, 1e-6
            ):
                own.vectors = lanczos.vectors()
                return found
        return None


def _left_out(own: _InOwnSpaces, last: Tensor, maxiter: int) -> Tensor:
    """(k,) the most that H leads out of the space of a row, given what it makes (k, d) of the coordinates."""
    most = torch.zeros_like(last[:, 0])
    for number in sampled_steps(maxiter).to(last):
        sums, _ = sums_and_powers(own.multipliers, number)
        most = torch.maximum(most, (own.weights * sums * last).sum(1).abs())
    return most


class _Lanczos:
    """A Krylov space of each right-hand side, of H without its eigenvectors; fully reorthogonalised."""

    def __init__(self, curvature: Curvature, split_off: Tensor, rhs: Tensor) -> None:
        self._curvature, self._split_off = curvature, split_off
        count = len(rhs)
        self._basis = rhs.new_zeros(count, ROOM, rhs.shape[1])
        self._projected = rhs.new_zeros(count, MOST_STEPS, MOST_STEPS, dtype=torch.float64)
        self._rounding = GONE * torch.finfo(rhs.dtype).eps
        self.size, self._largest = 0, torch.zeros_like(rhs[:, 0])
        following = self._orthogonal(rhs)
        self._norm, self._following = self._normed(following, rhs.norm(dim=1))

    def grow(self) -> None:
        """One product of H with the last vector of each."""
        number, self.size = self.size, self.size + 1
        current = self._following
        if number == self._basis.shape[1]:
            self._basis = torch.cat([self._basis, torch.zeros_like(self._basis)], 1)
        self._basis[:, number] = current
        image = self._curvature.matmat(current)
        self._largest = torch.maximum(self._largest, image.norm(dim=1))
        within = (image * current).sum(1)
        self._projected[:, number, number] = within.double()
        left, self._following = self._normed(self._orthogonal(image), self._largest)
        self._leads_out = left.double()
        if self.size < MOST_STEPS:
            self._projected[:, number, number + 1] = self._leads_out
            self._projected[:, number + 1, number] = self._leads_out

    def iterates(self, step: Step) -> tuple[_InOwnSpaces, Tensor]:
        """Without their vectors, and what H leads out of the space (k, d) for each coordinate."""
        size = self.size
        values, self._turn = torch.linalg.eigh(self._projected[:, :size, :size])
        weights = self._norm.double()[:, None] * self._turn[:, 0]
        # A space that has ended early has directions that the right-hand side has no part in.
        multipliers = torch.where(weights == 0, 0.0, step.multiplier(values))
        last = self._leads_out[:, None] * self._turn[:, -1]
        return _InOwnSpaces(multipliers, weights, self._basis[:, :0]), last

    def vectors(self) -> Tensor:
        """(k, d, p) of the last `iterates`."""
        return torch.bmm(self._turn.mT.to(self._basis), self._basis[:, : self.size])

    def _orthogonal(self, block: Tensor) -> Tensor:
        known = self._basis[:, : self.size]
        for _ in range(2):  # twice is enough (Parlett, after Kahan)
            block = block - (block @ self._split_off.T) @ self._split_off
            inner = torch.bmm(known, block[:, :, None])  # (k, d, 1)
            block = torch.baddbmm(block[:, None], inner.mT, known, alpha=-1.0)[:, 0]
        return block

    def _normed(self, block: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Norms (k,) and directions (k, p); both zero where nothing is left beside rounding of `beside` (k,)."""
        norms = block.norm(dim=1)
        norms = torch.where(norms > self._rounding * beside, norms, 0.0)
        return norms, torch.where(norms > 0, 1.0 / norms, 0.0)[:, None] * block


@dataclass
class _InOwnSpaces(InSpaces):
    """Iterates of which each row has a space of its own: `multipliers` and `weights` (k, d), `vectors` (k, d, p)."""

    def norms(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for part in self._split(steps):
            sums, powers = sums_and_powers(self.multipliers, part[:, None, None])  # (t, k, d)
            found.append(((self.weights * sums).norm(dim=2), (self.weights * powers).norm(dim=2)))
        return torch.cat([h for h, _ in found]), torch.cat([step for _, step in found])

    def iterate(self, steps: Tensor, rows: Tensor) -> Tensor:
        sums, _ = sums_and_powers(self.multipliers[rows], steps[:, None])
        return self._combined(sums, rows)

    def step(self, steps: Tensor, rows: Tensor) -> Tensor:
        return self._combined(self.multipliers[rows] ** steps[:, None], rows)

    def entries(self, steps: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        entry = self.weights[rows] * self.vectors[rows, :, places].to(self.weights)  # (j, d)
        found = []
        for part in self._split(steps):
            sums, powers = sums_and_powers(self.multipliers[rows], part[:, None, None])
            found.append(((entry * sums).sum(2), (entry * powers).sum(2)))
        return torch.cat([h for h, _ in found]), torch.cat([step for _, step in found])

    def _split(self, steps: Tensor) -> tuple[Tensor, ...]:
        """So many numbers of steps at a time as memory has room for."""
        return steps.to(self.multipliers).split(max(1, NUMBERS // self.multipliers.numel()))

    def _combined(self, factors: Tensor, rows: Tensor) -> Tensor:
        weights = (self.weights[rows] * factors).to(self.vectors)
        return torch.bmm(weights[:, None], self.vectors[rows])[:, 0]


@dataclass
class _Both(Iterates):
    """The sum of iterates in spaces that are orthogonal to each other."""

    one: Iterates
    other: Iterates

    @property
    def dtype(self) -> torch.dtype:
        return self.one.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.one.shape

    def norms(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        (h, step), (other_h, other_step) = self.one.norms(steps), self.other.norms(steps)
        return torch.hypot(h, other_h), torch.hypot(step, other_step)

    def iterate(self, steps: Tensor, rows: Tensor) -> Tensor:
        return self.one.iterate(steps, rows).add_(self.other.iterate(steps, rows))

    def step(self, steps: Tensor, rows: Tensor) -> Tensor:
        return self.one.step(steps, rows).add_(self.other.step(steps, rows))

    def entries(self, steps: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        (h, step), (other_h, other_step) = (
            each.entries(steps, rows, places) for each in (self.one, self.other)
        )
        return h + other_h, step + other_step
