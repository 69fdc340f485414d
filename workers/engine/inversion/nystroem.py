"""A randomised low-rank model of H, from one product with a block of random vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.jacobi import gaussian
from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.method import Method
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import Solution
from workers.engine.operators import Curvature, Damped, Inverse
from workers.engine.progress import Progress, silent


@dataclass(frozen=True)
class Nystroem(Method, name="nystroem"):
    """From a sketch of H with `rank` random vectors, one pass. A preconditioner alone; needs λ > 0."""

    rank: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadParameter("rank", self.rank, "at least 1")

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> LowRank:
        """One product with a block of probes."""
        tell = progress or silent
        if not damping > 0.0:
            raise BadParameter(
                "hessian_regularization", damping, "must be positive for preconditioner nystroem"
            )
        rank = min(self.rank, curvature.shape[0])
        tell("nystroem", 0, 1, "blocks")
        probes = torch.linalg.qr(gaussian(rank, curvature, self.seed).T).Q  # (p, r)
        sketch = curvature.matmat(probes.T.contiguous()).T
        values, vectors = _eigenpairs(probes, sketch)
        tell("nystroem", 1, 1, "blocks")
        return LowRank(values, vectors, None, damping, True, None)

    def solve(
        self,
        curvature: Curvature,
        damping: float,
        rhs: Tensor,
        progress: Progress | None = None,
        fit: Inverse | None = None,
        recycled: Recycled | None = None,
    ) -> Solution:
        """Solve for all rows of rhs (k, p), with their true residuals."""
        pairs = fit or self.fit(curvature, damping, progress)
        assert isinstance(pairs, LowRank)
        return pairs.solve(rhs, progress, Damped(curvature, damping))


def _eigenpairs(probes: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor]:
    # H may be indefinite: eigenvalues of the projection that are not positive carry no curvature
    # that a positive preconditioner could use, and Nyström's formula would divide by them.
    values, turn = torch.linalg.eigh(probes.T @ sketch)
    positive = values > 10 * torch.finfo(values.dtype).eps * values.abs().max()
    if not bool(positive.any()):
        return torch.zeros_like(values[:1]), probes[:, :1]
    half = sketch @ (turn[:, positive] / values[positive].sqrt())  # (p, s): H ≈ half halfᵀ
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    return singular.square(), vectors
