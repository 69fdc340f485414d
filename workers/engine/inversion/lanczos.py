"""The eigenpairs of H largest in absolute value: thick-restart block Lanczos, fully reorthogonalised.

Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems (2000); Golub and
Underwood, The block Lanczos method (1977). The projected matrix is taken from the orthogonalisation
itself, so kept Ritz vectors need no special case. Convergence is looked for while the basis grows,
not only when it is full. A starting block sees no more copies of a repeated eigenvalue than it has
vectors, and every linear model with several outputs has repeated ones: so when all pairs have
converged, fresh random vectors are let in, and the pairs count only if CONFIRMING further steps
leave them as they are: a copy that was missed is the largest that those steps can see.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.inversion.orthonormal import orthonormal
from workers.engine.operators import Curvature
from workers.engine.progress import Progress

MOST_RESTARTS = 100
CONFIRMING = 24  # steps
EARLY = 0.25  # part of tol to be reached before the basis is full: no looser than full ones
# Vectors multiplied at a time: a pass for several costs little more where it is calls that it costs, but the space then
# grows by lower powers of H, so that more of them are needed.
WIDTH, WIDTH_IN_MANY = 4, 2
MANY_PARAMETERS = 1 << 15
FEWEST_FREE = 24  # dimensions beyond the rank
# Of eps |μ₁|: what pairs far below the largest lose to each other is then half of what a floor of one costs them.
ROUNDING = 0.25
# Of the norm of a row that was made orthogonal to the basis and of norm one, what doing so again leaves: below SOUND
# it was rounding, which is anywhere; below GONE it lies in the basis.
SOUND, GONE, MOST_PASSES = 0.9, 1e-3, 6
# Of the ends of a spectrum: the random part of a start that is given, steps at least, and the error of a Ritz value.
BESIDE, FEWEST_OF_ENDS, SETTLED = 0.3, 20, 0.01
# Entries of each vector of a basis that are turned at once: a basis is never there twice.
TURNED_AT_ONCE = 1 << 14
LOOKED_EVERY = 6  # steps: an eigenproblem of the basis' size costs as much as a product or less


@dataclass(frozen=True)
class Eigenpairs:
    """values (r,) by falling absolute value, vectors (p, r), residuals (r,) ‖Hv − μv‖."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    images: Tensor  # (rank, p), H times each vector
    converged: bool


@dataclass
class _Krylov:
    """An orthonormal basis that grows, H's projection on it, and what H leads out of it."""

    curvature: Curvature
    basis: Tensor  # (dimension, p), the first `size` rows in use
    projected: Tensor  # (dimension, dimension), in float64
    generator: torch.Generator
    size: int = 0
    overlap: Tensor = field(init=False)  # (w, w), of what the last block leads out to

    @classmethod
    def of(cls, curvature: Curvature, dimension: int, seed: int, device: torch.device) -> _Krylov:
        """Empty, with room for so many rows."""
        basis = torch.zeros(dimension, curvature.shape[0], dtype=curvature.dtype, device=device)
        # What products and orthogonalisation round is small where H is; an eigenproblem in float32
        # would round everything as it does the largest eigenvalue.
        projected = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)
        return cls(curvature, basis, projected, torch.Generator().manual_seed(seed))

    def product(self, vectors: Tensor) -> Tensor:
        """H v."""
        return self.curvature.matmat(vectors.to(self.curvature.device)).to(self.basis.device)

    def random(self, width: int) -> Tensor:
        """Random orthonormal vectors (width, p), orthogonal to the basis as far as there is room."""
        return self.orthonormal(self._drawn(width))

    def _drawn(self, width: int) -> Tensor:
        shape = (width, self.basis.shape[1])
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.basis)

    def orthonormal(self, block: Tensor) -> Tensor:
        """Of the block (w, p), less its part in the basis; random where nothing is left of a row.

        Nothing, or rounding, is left where the Krylov space is exhausted: H maps it into itself, as
        it does soon where the rank of H is small.
        """
        used = self.basis[: self.size]
        block = orthonormal(block - (block @ used.T) @ used)
        for _ in range(MOST_PASSES):  # one is enough (Parlett, after Kahan) of what was no rounding
            rest = block - (block @ used.T) @ used
            left = torch.linalg.vector_norm(rest, dim=1)
            gone = left <= GONE
            if bool(gone.any()):
                rest[gone] = self._drawn(len(block))[gone]
            block = orthonormal(rest)
            if bool((left > SOUND).all()):
                break
        return block

    def grow(self, block: Tensor) -> Tensor:
        """Take in an orthonormal block (w, p); returns the next one."""
        before, self.size = self.size, self.size + len(block)
        self.basis[before : self.size] = block
        image = self.product(block)
        used = self.basis[: self.size]
        part = image @ used.T
        rest = image - part @ used
        again = rest @ used.T
        rest.addmm_(again, used, alpha=-1.0)
        part += again
        self.projected[: self.size, before : self.size] = part.T.to(self.projected)
        self.projected[before : self.size, : self.size] = part.to(self.projected)
        self.overlap = (rest @ rest.T).to(self.projected)
        return self.orthonormal(rest) if self.size < self.basis.shape[1] else rest

    def released(self, count: int) -> Tensor:
        """The first `count` vectors, (count, p), without the memory of the others; the basis is used up."""
        found = self.basis[:count].clone()
        self.basis = torch.empty_like(found[:0])
        return found

    def leads_out(self, turn: Tensor) -> Tensor:
        """Norms (r,) of the part outside of the basis of H times vectors with these coordinates."""
        last = turn[-len(self.overlap) :]
        return ((self.overlap @ last) * last).sum(0).clamp(min=0.0).sqrt()

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values by falling absolute value, and their coordinates as columns."""
        values, turn = torch.linalg.eigh(self.projected[: self.size, : self.size])
        order = values.abs().argsort(descending=True, stable=True)
        return values[order], turn[:, order]

    def keep(self, values: Tensor, turn: Tensor, count: int) -> None:
        """Shrink to the first `count` Ritz vectors: in place, a part of all vectors' entries at a time."""
        coordinates = turn[:, :count].T.to(self.basis)
        for part in self.basis.split(TURNED_AT_ONCE, 1):
            part[:count] = coordinates @ part[: self.size]
        self.projected.zero_()
        self.projected[:count, :count] = torch.diag(values[:count])
        self.size = count


@dataclass(frozen=True)
class _Goal:
    """A pair has converged when ‖Hv − μv‖ ≤ tol |μ|, or is at the rounding of the largest.

    A μ that is itself no more than what a product rounds is 0 for all that can be seen.
    """

    rank: int
    tol: float
    eps: float  # of products

    def floor(self, values: Tensor) -> float:
        """The rounding of the largest, which is all that can be seen."""
        return ROUNDING * self.eps * float(values[0].abs())

    def reached(self, krylov: _Krylov, values: Tensor, turn: Tensor, part: float = 1.0) -> bool:
        """Whether all pairs wanted are within this part of it."""
        if len(values) < self.rank:
            return False
        errors = krylov.leads_out(turn[:, : self.rank])
        sizes = values[: self.rank].abs()
        bounds = torch.clamp(part * self.tol * sizes, min=self.floor(values))
        rounding = self.eps * krylov.basis.shape[1] ** 0.5 * sizes[0]
        bounds = torch.where(sizes <= rounding, bounds.clamp(min=float(rounding)), bounds)
        return bool((errors <= bounds).all())


def block_width(size: int) -> int:
    """Vectors that are multiplied at a time, where there are so many parameters."""
    return WIDTH if size < MANY_PARAMETERS else WIDTH_IN_MANY


def largest_eigenpairs(
    curvature: Curvature,
    rank: int,
    dimension: int,
    tol: float,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Eigenpairs:
    """`rank` pairs from a basis of at most `dimension` > rank rows (or = p), kept on `device`."""
    size = curvature.shape[0]
    krylov = _Krylov.of(curvature, dimension, seed, device)
    goal = _Goal(rank, tol, torch.finfo(curvature.dtype).eps)
    # A narrow space, or all of it, is filled one by one.
    width = block_width(size) if dimension - rank >= FEWEST_FREE and dimension < size else 1
    block = krylov.random(width)
    confirmed: Tensor | None = None
    converged = False
    for restart in range(MOST_RESTARTS):
        begun = krylov.size
        while krylov.size + width <= dimension:
            progress("arnoldi", restart, MOST_RESTARTS, "restarts")
            block = krylov.grow(block)
            taken = krylov.size - begun
            enough = taken >= CONFIRMING if confirmed is not None else krylov.size > rank
            look = taken % LOOKED_EVERY < width
            if enough and look and goal.reached(krylov, *krylov.ritz(), EARLY):
                break
        values, turn = krylov.ritz()
        scale = float(values[0].abs())
        whole = krylov.size == size  # then these are all pairs, whatever rounding says
        arrived = whole or goal.reached(krylov, values, turn)
        unchanged = confirmed is not None and bool(
            (values[:rank].abs() - confirmed.abs()).abs().max()
            <= max(tol * scale, 8 * goal.floor(values))
        )
        if arrived and (unchanged or whole):
            converged = True
            break
        kept = rank if arrived else rank + (dimension - rank) // 2
        krylov.keep(values, turn, min(kept, dimension - 1, krylov.size))
        if arrived:
            confirmed, block = values[:rank].clone(), krylov.random(width)
        else:
            # Orthogonal to the whole old basis, hence to what is kept of it.
            block = krylov.orthonormal(block)
    values, turn = krylov.ritz()
    krylov.keep(values, turn, rank)
    values = values[:rank].to(curvature.dtype)
    vectors = krylov.released(rank)
    vectors /= torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    images = krylov.product(vectors)
    residuals = torch.stack(
        [
            torch.linalg.vector_norm(image - value * vector)
            for image, value, vector in zip(images, values, vectors, strict=True)
        ]
    )
    home = curvature.device
    return Eigenpairs(
        values.to(home),
        vectors.T.contiguous().to(home),
        residuals.to(home),
        images.to(home),
        converged,
    )


@dataclass(frozen=True)
class Ends:
    """The ends of the spectrum of H, as far as Lanczos steps tell: all from inside unless `exact`."""

    smallest: float
    largest: float
    largest_error: float
    exact: bool


def ends(curvature: Curvature, seed: int, start: Tensor | None = None, steps: int = 60) -> Ends:
    """Rough smallest and largest eigenvalue of H, by some Lanczos steps.

    They begin at random, or near `start` (1, p), until the smallest eigenvalue has settled to a per cent.
    """
    steps = min(steps, curvature.shape[0])
    krylov = _Krylov.of(curvature, steps, seed, curvature.device)
    block = krylov.random(1)
    if start is not None:
        unit = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
        block = krylov.orthonormal(unit.to(block) + BESIDE * block)
    while krylov.size < steps:
        block = krylov.grow(block)
        values, turn = torch.linalg.eigh(krylov.projected[: krylov.size, : krylov.size])
        settled = float(krylov.leads_out(turn[:, :1])) <= SETTLED * abs(float(values[0]))
        if start is not None and krylov.size >= FEWEST_OF_ENDS and settled:
            break
    error = float(krylov.leads_out(turn[:, -1:]))
    exact = krylov.size == curvature.shape[0]
    return Ends(float(values[0]), float(values[-1]), error, exact)


def largest_magnitude(curvature: Curvature, seed: int, steps: int = 20) -> tuple[float, float]:
    """Rough smallest and largest eigenvalue of H, by a few Lanczos steps.

    The largest is from below, typically to a per cent; its Ritz error is added for safety.
    """
    found = ends(curvature, seed, steps=steps)
    return found.smallest, found.largest + found.largest_error
