"""The eigenpairs of H largest in absolute value: thick-restart Lanczos, fully reorthogonalised.

Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems (2000). The
projected matrix is taken from the orthogonalisation itself, so kept Ritz vectors need no special
case. Convergence is looked for while the basis grows, not only when it is full. One starting vector
sees one copy of a repeated eigenvalue, as every linear model with several outputs has: so when all
pairs have converged, a fresh random vector is let in, and the pairs count only if CONFIRMING further
steps leave them as they are: a copy that was missed is the largest that those steps can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion.solution import Operator
from workers.engine.progress import Progress

MOST_RESTARTS = 100
CONFIRMING = 24  # steps
EARLY = 0.25  # part of tol to be reached before the basis is full: no looser than full ones
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

    operator: Operator
    basis: Tensor  # (dimension, p), the first `size` rows in use
    projected: Tensor  # (dimension, dimension), in float64
    generator: torch.Generator
    size: int = 0
    leads_out: float = 0.0  # norm of what follows the last row

    @classmethod
    def of(cls, operator: Operator, dimension: int, seed: int, device: torch.device) -> _Krylov:
        """Empty, with room for so many rows."""
        basis = torch.zeros(dimension, operator.shape[0], dtype=operator.dtype, device=device)
        # What products and orthogonalisation round is small where H is; an eigenproblem in float32
        # would round everything as it does the largest eigenvalue.
        projected = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)
        return cls(operator, basis, projected, torch.Generator().manual_seed(seed))

    def product(self, vectors: Tensor) -> Tensor:
        """H v, λ taken off."""
        result = self.operator.matmat(vectors.to(self.operator.device))
        result -= self.operator.damping * vectors.to(self.operator.device)
        return result.to(self.basis.device)

    def random(self) -> Tensor:
        """A random unit vector (p,) orthogonal to the basis."""
        drawn = torch.randn(self.basis.shape[1], generator=self.generator, dtype=torch.float64)
        return self.append_ready(drawn.to(self.basis))[0]

    def append_ready(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """The vector less its part in the basis, to unit norm; that part; the norm it had."""
        used = self.basis[: self.size]
        part = used @ vector
        rest = vector - part @ used
        again = used @ rest  # twice is enough (Parlett, after Kahan)
        rest = rest - again @ used
        norm = float(torch.linalg.vector_norm(rest))
        return rest / norm if norm > 0 else rest, part + again, norm

    def grow(self, vector: Tensor, scale: float) -> Tensor:
        """Take in a unit vector; returns the next one, random where H leads nowhere new."""
        self.basis[self.size] = vector
        image = self.product(vector.unsqueeze(0))[0]
        self.size += 1
        following, part, self.leads_out = self.append_ready(image)
        self.projected[: self.size, self.size - 1] = part
        self.projected[self.size - 1, : self.size] = part
        negligible = torch.finfo(image.dtype).eps * self.basis.shape[1] ** 0.5
        if self.leads_out <= negligible * max(scale, float(part.abs().max())):
            self.leads_out = 0.0
            return self.random() if self.size < self.basis.shape[1] else following
        return following

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values by falling absolute value, and their coordinates as columns."""
        values, turn = torch.linalg.eigh(self.projected[: self.size, : self.size])
        order = values.abs().argsort(descending=True, stable=True)
        return values[order], turn[:, order]

    def combined(self, turn: Tensor) -> Tensor:
        """The vectors (r, p) with these coordinates as columns."""
        return turn.T.to(self.basis) @ self.basis[: self.size]

    def keep(self, values: Tensor, turn: Tensor, count: int) -> None:
        """Shrink to the first `count` Ritz vectors."""
        self.basis[:count] = self.combined(turn[:, :count])
        self.projected.zero_()
        self.projected[:count, :count] = torch.diag(values[:count])
        self.size = count


@dataclass(frozen=True)
class _Goal:
    """A pair has converged when ‖Hv − μv‖ ≤ tol |μ|, or is at the rounding of the largest."""

    rank: int
    tol: float
    eps: float  # of products

    def floor(self, values: Tensor) -> float:
        """The rounding of the largest."""
        return self.eps * float(values[0].abs())

    def reached(self, krylov: _Krylov, values: Tensor, turn: Tensor, part: float = 1.0) -> bool:
        """Whether all pairs wanted are within this part of it."""
        if len(values) < self.rank:
            return False
        errors = krylov.leads_out * turn[-1, : self.rank].abs()
        bounds = torch.clamp(part * self.tol * values[: self.rank].abs(), min=self.floor(values))
        return bool((errors <= bounds).all())


def largest_eigenpairs(
    operator: Operator,
    rank: int,
    dimension: int,
    tol: float,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Eigenpairs:
    """`rank` pairs from a basis of at most `dimension` > rank rows (or = p), kept on `device`."""
    size = operator.shape[0]
    krylov = _Krylov.of(operator, dimension, seed, device)
    goal = _Goal(rank, tol, torch.finfo(operator.dtype).eps)
    vector, scale = krylov.random(), 0.0
    confirmed: Tensor | None = None
    converged = False
    for restart in range(MOST_RESTARTS):
        begun = krylov.size
        while krylov.size < dimension:
            progress("arnoldi", restart, MOST_RESTARTS, "restarts")
            vector = krylov.grow(vector, scale)
            taken = krylov.size - begun
            enough = taken >= CONFIRMING if confirmed is not None else krylov.size > rank
            if enough and taken % LOOKED_EVERY == 0 and goal.reached(krylov, *krylov.ritz(), EARLY):
                break
        values, turn = krylov.ritz()
        scale = float(values[0].abs())
        arrived = goal.reached(krylov, values, turn)
        unchanged = confirmed is not None and bool(
            (values[:rank].abs() - confirmed.abs()).abs().max()
            <= max(tol * scale, 8 * goal.floor(values))
        )
        if arrived and (unchanged or krylov.size == size):
            converged = True
            break
        kept = rank if arrived else rank + (dimension - rank) // 2
        krylov.keep(values, turn, min(kept, dimension - 1, krylov.size))
        if arrived:
            confirmed, vector = values[:rank].clone(), krylov.random()
        else:
            # Orthogonal to the whole old basis, hence to what is kept of it.
            vector = krylov.append_ready(vector)[0]
    values, turn = krylov.ritz()
    values = values[:rank].to(operator.dtype)
    vectors = krylov.combined(turn[:, :rank])
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    images = krylov.product(vectors)
    residuals = torch.linalg.vector_norm(images - values[:, None] * vectors, dim=1)
    home = operator.device
    return Eigenpairs(
        values.to(home),
        vectors.T.contiguous().to(home),
        residuals.to(home),
        images.to(home),
        converged,
    )


def largest_magnitude(operator: Operator, seed: int, steps: int = 20) -> tuple[float, float]:
    """Rough smallest and largest eigenvalue of H (λ not included), by a few Lanczos steps.

    The largest is from below, typically to a per cent; its Ritz error is added for safety.
    """
    steps = min(steps, operator.shape[0])
    krylov = _Krylov.of(operator, steps, seed, operator.device)
    vector = krylov.random()
    while krylov.size < steps:
        vector = krylov.grow(vector, 0.0)
    values, turn = torch.linalg.eigh(krylov.projected)
    error = krylov.leads_out * float(turn[-1, -1].abs())
    return float(values[0]), float(values[-1]) + error
