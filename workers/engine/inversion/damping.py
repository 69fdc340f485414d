"""What a λ is chosen by: the mean eigenvalue of H, its smallest one, and which share of them lies below a λ.

Exact where H is at hand and not too large to be diagonalised. Else the mean is Hutchinson's estimate from random signs,
and the rest is stochastic Lanczos quadrature (Ubaru, Chen and Saad, Fast estimation of tr(f(A)), 2017): the Ritz values
of a random start are the nodes, the squares of their first components the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.inversion.extremes import FEW
from workers.engine.inversion.jacobi import gaussian
from workers.engine.operators import ClosedForm, Curvature, Explicit
from workers.engine.progress import Progress, silent

SIGNS = 32  # of Hutchinson's estimate
STARTS, STEPS = 2, 60  # of Lanczos
STEPS_OF_A_MATRIX = 200  # whose products cost no pass
MEMORY = 4  # of the budget's parts, the bases may take one
FEWEST_STEPS = 8
EXHAUSTED = 1e-10  # of the largest: what is left of a vector is rounding
# H + λI is to be positive by this part of what λ makes good, and λ at least this part of the mean eigenvalue.
MARGIN, LEAST_OF_MEAN = 0.1, 0.1


@dataclass(frozen=True)
class Measured:
    """The spectrum of H, as far as it was looked at."""

    mean: float  # eigenvalue, trace(H) / p
    mean_error: float  # its standard error; 0 where it is exact
    nodes: Tensor | None  # (k,) eigenvalues, or Ritz values, ascending, float64
    weights: Tensor | None  # (k,) which share of the eigenvalues each stands for
    smallest_error: float  # how far the smallest may lie below the first of them
    how: str

    @property
    def smallest(self) -> float | None:
        """The least eigenvalue, as far as that was looked for."""
        return None if self.nodes is None else float(self.nodes[0])

    @property
    def is_exact(self) -> bool:
        """Whether all eigenvalues are known."""
        return self.nodes is not None and self.mean_error == 0.0 and self.smallest_error == 0.0

    def share_below(self, damping: float) -> float | None:
        """Which share of the eigenvalues are smaller than λ in size."""
        if self.nodes is None or self.weights is None:
            return None
        return float(self.weights[self.nodes.abs() < damping].sum())

    @property
    def safe(self) -> tuple[float, str]:
        """The least λ that makes H + λI positive by a margin, or 0.1 of the mean eigenvalue: the larger, and which."""
        least = 0.0 if self.nodes is None else float(self.nodes[0]) - self.smallest_error
        lifting = (1.0 + MARGIN) * max(-least, 0.0)
        part = LEAST_OF_MEAN * self.mean
        return (lifting, "positive") if lifting > part else (part, "mean")


@dataclass(frozen=True)
class PartOfMean:
    """A λ for each block of a curvature in closed form: a part of the mean eigenvalue of each.

    With `lifts`, at least what makes the block positive by a margin. A block that is 0 has none of its own, and takes
    that part of the mean of all.
    """

    part: float
    lifts: bool = False

    def of(self, form: ClosedForm) -> tuple[float, ...]:
        """In the order of the blocks."""
        whole = float(form.eigenvalues.mean())
        return tuple(self._of_block(values, whole) for values in form.block_eigenvalues)

    def _of_block(self, values: Tensor, whole: float) -> float:
        mean = float(values.mean())
        part = self.part * (mean if mean != 0.0 else whole)
        lifting = (1.0 + MARGIN) * max(-float(values.min()), 0.0)
        return max(part, lifting) if self.lifts else part


@dataclass(frozen=True)
class OfBlocks:
    """What a λ for each block comes to, for people."""

    dampings: tuple[float, ...]
    mean: float  # over all parameters
    share_below: float  # of the eigenvalues, each beside the λ of its block


def of_blocks(form: ClosedForm, asked: float | PartOfMean) -> OfBlocks:
    """The λ's of a curvature in closed form."""
    values = form.block_eigenvalues
    dampings = asked.of(form) if isinstance(asked, PartOfMean) else (float(asked),) * len(values)
    pairs = list(zip(values, dampings, strict=True))
    size = sum(len(each) for each in values)
    return OfBlocks(
        dampings,
        sum(damping * len(each) for each, damping in pairs) / size,
        sum(int((each.abs() < damping).sum()) for each, damping in pairs) / size,
    )


def measured(
    curvature: Curvature,
    *,
    ends: bool,
    seed: int,
    budget_bytes: int,
    progress: Progress | None = None,
) -> Measured:
    """The mean eigenvalue of H; and with `ends` the smallest, and shares below any λ. Exact up to FEW parameters."""
    progress, size = progress or silent, curvature.shape[0]
    known = curvature.closed_form()
    if known is not None:
        values = known.eigenvalues
        shares = torch.full_like(values, 1.0 / size)
        return Measured(
            float(values.mean()),
            0.0,
            values,
            shares,
            0.0,
            f"all {size:,} eigenvalues of C by its structure",
        )
    matrix = curvature.matrix
    if matrix is None and size <= FEW:
        matrix = curvature.dense()
    if matrix is not None and size <= FEW:
        values = torch.linalg.eigvalsh(matrix.double())
        mean = float(values.sum()) / size
        shares = torch.full_like(values, 1.0 / size)
        return Measured(mean, 0.0, values, shares, 0.0, f"all {size:,} eigenvalues of H")
    if matrix is not None:
        curvature = Explicit(curvature, matrix)
        mean, error, by = float(matrix.diagonal().double().mean()), 0.0, "the exact trace of H"
    else:
        mean, error = _mean(curvature, seed, progress)
        by = f"the trace by Hutchinson's estimate from {SIGNS} random signs (seed {seed})"
    if not ends and matrix is None:
        return Measured(mean, error, None, None, 0.0, by)
    wanted = STEPS if matrix is None else STEPS_OF_A_MATRIX
    nodes, weights, below, steps, starts = _quadrature(
        curvature, wanted, seed, budget_bytes, progress
    )
    lanczos = f"{steps} Lanczos steps from each of {starts} random starts (seed {seed})"
    how = f"{by}, its smallest eigenvalue and the shares below λ by {lanczos}"
    return Measured(mean, error, nodes, weights, below, how)


def _mean(curvature: Curvature, seed: int, progress: Progress) -> tuple[float, float]:
    """The mean of vᵀHv / p over random signs v, and its standard error."""
    progress("damping", 0, 2, "steps")
    signs = gaussian(SIGNS, curvature, seed).sign()
    found = (signs * curvature.matmat(signs)).double().sum(1) / curvature.shape[0]
    return float(found.mean()), float(found.std() / len(found) ** 0.5)


def _quadrature(
    curvature: Curvature, steps: int, seed: int, budget: int, progress: Progress
) -> tuple[Tensor, Tensor, float, int, int]:
    """Nodes and weights, how far below the least node an eigenvalue may lie, and what of both was looked at."""
    size = curvature.shape[0]
    room = budget // MEMORY // (size * curvature.dtype.itemsize)
    starts = STARTS if room >= STARTS * FEWEST_STEPS else 1
    steps = max(FEWEST_STEPS, min(steps, size, room // starts))
    vectors = gaussian(starts, curvature, seed + 1)
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    basis = torch.zeros(steps, starts, size, dtype=curvature.dtype, device=curvature.device)
    diagonal = torch.zeros(starts, steps, dtype=torch.float64)
    beside = torch.zeros(starts, steps, dtype=torch.float64)
    lengths = [steps] * starts
    for step in range(steps):
        progress("damping", step, steps, "steps")
        basis[step] = vectors
        image = curvature.matmat(vectors)
        diagonal[:, step] = (image * vectors).sum(1).double().cpu()
        for _ in range(2):  # twice is enough (Parlett, after Kahan)
            part = torch.einsum("jkp,kp->jk", basis[: step + 1], image)
            image = image - torch.einsum("jk,jkp->kp", part, basis[: step + 1])
        left = torch.linalg.vector_norm(image, dim=1)
        scale = float(diagonal.abs().max())
        eps = torch.finfo(curvature.dtype).eps
        for start, length in enumerate(left.tolist()):
            if length <= max(EXHAUSTED, 10 * eps) * scale and lengths[start] == steps:
                lengths[start] = step + 1
        beside[:, step] = left.double().cpu()
        vectors = torch.where(left[:, None] > 0, image / left[:, None].clamp(min=1e-300), image)
        if max(lengths) <= step + 1 and step + 1 < steps:
            break
    nodes, weights, least, error = [], [], float("inf"), 0.0
    for start, length in enumerate(lengths):
        inside = torch.diag(diagonal[start, :length])
        inside += torch.diag(beside[start, : length - 1], 1)
        inside += torch.diag(beside[start, : length - 1], -1)
        values, turn = torch.linalg.eigh(inside)
        nodes.append(values)
        weights.append(turn[0].square() / starts)
        if float(values[0]) < least:
            least = float(values[0])
            error = float(beside[start, length - 1] * turn[-1, 0].abs())
    ordered, order = torch.cat(nodes).sort()
    return ordered, torch.cat(weights)[order], error, max(lengths), starts
