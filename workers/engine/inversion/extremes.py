"""The spectrum of a symmetric matrix: all of it, or its two ends without what lies between.

The ends by block Krylov spaces: of H for the largest, of (H + λI)⁻¹ for the smallest, where a Cholesky factor
of H + λI is at hand (Golub and Underwood, The block Lanczos method, 1977). On 2,410 parameters that
is some fifteen products with a few columns, where the whole spectrum takes p³ 4/3 operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Up to this many parameters all eigenvalues cost less than a second: 4/3 p³ operations.
FEW = 1000
# Below this many rows all eigenvalues cost less than looking for two.
SMALL = 256
BLOCK = 8
FEWEST_STEPS = 4  # a start that is good by chance does not count
MOST_STEPS = 20
# It is over when a step moves the eigenvalue by less than this part of the largest.
CHANGE = 1e-5
# With more damping than this the inverse hardly tells the smallest eigenvalues apart.
MOST_DAMPING = 0.1


@dataclass(frozen=True)
class Spectrum:
    """The smallest and the largest eigenvalue of H; all of them (p,), ascending, where they were computed."""

    smallest: float
    largest: float
    eigenvalues: Tensor | None = None


def all_eigenvalues(matrix: Tensor) -> Spectrum:
    """The whole spectrum of H (p, p), in 4/3 p³ operations."""
    values = torch.linalg.eigvalsh(matrix)
    return Spectrum(float(values[0]), float(values[-1]), values)


def extreme_eigenvalues(matrix: Tensor, factor: Tensor, damping: float) -> Spectrum:
    """Of H (p, p), given the Cholesky factor of H + λI, both ends to some 1e-5 of the largest.

    Ritz values approach from inside; a step that moves one by less than CHANGE of the largest is
    the last, since steps become several times shorter each time. All eigenvalues are computed where
    that takes too many steps, where λ is so large that the inverse is of no help, and where H + λI
    is so close to singular that an error of this size would matter.
    """
    if len(matrix) < SMALL:
        return all_eigenvalues(matrix)
    largest = _top(matrix, lambda block: matrix @ block, lambda value: value)
    if largest is None or damping >= MOST_DAMPING * largest:
        return all_eigenvalues(matrix)

    def smallest_of(top: float) -> float:
        return 1.0 / top - damping

    smallest = _top(matrix, lambda block: torch.cholesky_solve(block, factor), smallest_of, largest)
    rounding = len(matrix) ** 0.5 * torch.finfo(matrix.dtype).eps
    if smallest is None or smallest + damping <= 10.0 * (CHANGE + rounding) * largest:
        return all_eigenvalues(matrix)
    return Spectrum(smallest, largest)


def _top(
    like: Tensor,
    product: Callable[[Tensor], Tensor],
    meaning: Callable[[float], float],
    scale: float | None = None,
) -> float | None:
    """What the largest eigenvalue of the operator means, None if it does not settle."""
    size = len(like)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(size, BLOCK, generator=generator, dtype=torch.float64)
    basis = like.new_empty(size, BLOCK * MOST_STEPS)
    projected = torch.zeros(BLOCK * MOST_STEPS, BLOCK * MOST_STEPS, dtype=torch.float64)
    block = _orthonormal(drawn.to(like), basis[:, :0])
    before = float("inf")
    for step in range(MOST_STEPS):
        used = BLOCK * (step + 1)
        basis[:, used - BLOCK : used] = block
        image = product(block)
        part = (basis[:, :used].T @ image).to(projected)
        projected[:used, used - BLOCK : used] = part
        projected[used - BLOCK : used, :used] = part.T
        top = float(torch.linalg.eigvalsh(projected[:used, :used])[-1])
        if not top > 0.0:
            return None
        value = meaning(top)
        if step + 1 >= FEWEST_STEPS and abs(value - before) <= CHANGE * (scale or abs(value)):
            return value
        before = value
        block = _orthonormal(image, basis[:, :used])
    return None


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """The block's part outside the basis with orthonormal columns: by Gram matrices, since a QR
    decomposition of a few columns is all small steps."""
    for _ in range(2):  # twice is enough (Parlett, after Kahan)
        block = block / torch.linalg.vector_norm(block, dim=0)
        block = block - basis @ (basis.T @ block)
        values, turn = torch.linalg.eigh((block.T @ block).double())
        scaled = turn / values.clamp(min=torch.finfo(block.dtype).eps).sqrt()
        block = block @ scaled.to(block)
    return block
