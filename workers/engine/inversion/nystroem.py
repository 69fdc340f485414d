"""A randomised low-rank inverse: H ≈ U diag(d) Uᵀ from one product with a block of random vectors.

Use it where `arnoldi` is too dear: one pass over the data instead of some two for each eigenpair, for the eigenpairs
of a positive semidefinite model of H. It is also a preconditioner of `cg`. Frangella, Tropp and Udell, Randomized
Nyström preconditioning (2021), algorithm 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.engine.errors import BadParameter
from workers.engine.inversion.indefinite import Unsolved
from workers.engine.inversion.jacobi import gaussian
from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.method import LowRankMethod
from workers.engine.operators import Curvature, Inverse
from workers.engine.progress import Progress, silent


@dataclass(frozen=True)
class Nystroem(LowRankMethod, name="nystroem"):
    """x = U (d + λ)⁻¹ Uᵀ b + (b − U Uᵀ b) / λ, with `rank` directions U; all p of p parameters at most. Needs λ > 0.

    With all p directions U diag(d) Uᵀ is H itself, and the answer exact. With fewer it is positive semidefinite, and
    negative curvature that the product met is an error that names a λ, as in every method.
    info has eigenvalues (rank,) by falling size, eigenvectors (p, rank) and rank.
    """

    rank: int = 32
    seed: int = 0
    unsolved: Unsolved = "fail"

    rank_field = "rank"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadParameter("rank", self.rank, "at least 1")

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> LowRank:
        """The sketch: one product with a block of probes."""
        progress, size = progress or silent, curvature.shape[0]
        if not damping > 0.0:
            raise BadParameter("hessian_regularization", damping, "must be positive for nystroem")
        rank = min(self.rank, size)
        progress("nystroem", 0, 1, "blocks")
        probes = torch.linalg.qr(gaussian(rank, curvature, self.seed).T).Q  # (p, r)
        sketch = curvature.matmat(probes.T.contiguous()).T
        ritz, turn = torch.linalg.eigh(probes.T @ sketch)
        if rank == size:  # a whole basis: the sketch is H itself, negative curvature and all
            values, vectors = ritz.flip(0), (probes @ turn).flip(1)
        else:
            values, vectors = _positive_part(probes, sketch, ritz, turn)
        lowest = float(ritz[0]) if float(ritz[0]) < 0.0 else None
        progress("nystroem", 1, 1, "blocks")
        given = values, vectors, None, damping, True, None
        return self.completed(LowRank(*given, lowest=lowest))

    def completed(self, fit: Inverse) -> LowRank:
        """With what these parameters say of its use."""
        assert isinstance(fit, LowRank)
        size, note = len(fit.eigenvectors), None
        if self.rank > size:
            note = f"rank {self.rank} is more than the {size} parameters: all directions were taken"
        return replace(fit, unsolved=self.unsolved, note=note)


def _positive_part(
    probes: Tensor, sketch: Tensor, ritz: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor]:
    """d (s,) by falling size and U (p, s), of the directions whose Rayleigh quotients are above rounding.

    H may be indefinite: those that are not carry no curvature that a positive inverse could use, and the formula would
    divide by them.
    """
    positive = ritz > 10 * torch.finfo(ritz.dtype).eps * ritz.abs().max()
    if not bool(positive.any()):
        return torch.zeros_like(ritz[:1]), probes[:, :1]
    half = sketch @ (turn[:, positive] / ritz[positive].sqrt())  # (p, s): H ≈ half halfᵀ
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    return singular.square(), vectors
