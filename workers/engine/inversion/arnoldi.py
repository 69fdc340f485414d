"""A low-rank inverse from the largest eigenpairs of H.

Use it when one Hessian serves many right-hand sides and an approximation will do: what b has
outside the kept eigenvectors is dropped, or with `complement` divided by λ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from workers.engine.errors import BadParameter, OutOfMemory
from workers.engine.inversion.indefinite import Unsolved
from workers.engine.inversion.lanczos import block_width, largest_eigenpairs
from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.method import LowRankMethod
from workers.engine.operators import Curvature, Damped, Inverse, explicit_where_cheaper
from workers.engine.progress import Progress, silent

# Vectors beside the basis while it is turned into eigenvectors: these, and what a step makes of one.
STEP = 3
# Of each eigenpair once the basis is gone: its vector, H times it, and sums over the rows; and of one right-hand side.
OF_EACH, OF_ONE = 3, 4


@dataclass(frozen=True)
class Arnoldi(LowRankMethod, name="arnoldi"):
    """The `rank_estimate` eigenpairs of H largest in absolute value, to `tol`, then x from them; all p of p at most.

    `krylov_dimension` is the largest basis, null for 2 rank + 20, or as many as the curvature has memory for;
    more than the rank, and at most p. With `eigen_computation_on_gpu` false the basis is kept in the host's
    memory; null means wherever the Hessian is. info has eigenvalues (rank,), eigenvectors (p, rank), residuals
    (rank,), the eigenvalues `dropped` because D + λ is as good as zero, and `converged`: all pairs are found, and
    λ is above their rounding.
    """

    rank_estimate: int = 10
    tol: float = 1e-6
    krylov_dimension: int | None = None
    eigen_computation_on_gpu: bool | None = None
    complement: bool = False
    seed: int = 0
    unsolved: Unsolved = "fail"

    rank_field = "rank_estimate"

    def __post_init__(self) -> None:
        if self.rank_estimate < 1:
            raise BadParameter("rank_estimate", self.rank_estimate, "at least 1")
        if not self.tol > 0.0:
            raise BadParameter("tol", self.tol, "must be positive")
        if self.krylov_dimension is not None and self.krylov_dimension <= self.rank_estimate:
            raise BadParameter("krylov_dimension", self.krylov_dimension, "more than rank_estimate")

    def fit(
        self, curvature: Curvature, damping: float, progress: Progress | None = None
    ) -> LowRank:
        """The eigenpairs, which depend on model and training rows alone.

        Raises OutOfMemory where even the smallest basis does not fit into the curvature's `space_bytes`.
        """
        size = curvature.shape[0]
        if self.complement and not damping > 0.0:
            raise BadParameter(
                "hessian_regularization", damping, "must be positive with complement"
            )
        rank = min(self.rank_estimate, size)
        dimension = self._fitting(curvature, rank)
        curvature = explicit_where_cheaper(curvature, dimension, block_width(size))
        away = self.eigen_computation_on_gpu is False
        device = torch.device("cpu") if away else curvature.device
        pairs = largest_eigenpairs(
            curvature,
            rank,
            dimension,
            self.tol,
            self.seed,
            device,
            progress or silent,
        )
        given = pairs.values, pairs.vectors, pairs.residuals, Damped(curvature, damping).damping
        return self.completed(LowRank(*given, self.complement, pairs.converged, pairs.images))

    def _fitting(self, curvature: Curvature, rank: int) -> int:
        """Vectors of the basis: as asked for, or what there is memory for."""
        size = curvature.shape[0]
        dimension = min(self.krylov_dimension or 2 * rank + 20, size)
        if curvature.space_bytes is None:
            return dimension
        most = curvature.space_bytes // (size * curvature.dtype.itemsize)
        room = most - rank - STEP
        least = min(size, dimension if self.krylov_dimension else rank + 1)
        if room >= least and OF_EACH * rank + OF_ONE <= most:
            return min(dimension, room)
        needed = max(least + rank + STEP, OF_EACH * rank + OF_ONE)
        fits = (
            most - OF_ONE
        ) // OF_EACH  # fewer pairs take a smaller basis than this leaves room for
        if self.krylov_dimension and room > rank and OF_EACH * rank + OF_ONE <= most:
            way_out = f"give krylov_dimension at most {room}, or leave it out"
        elif fits > 0:
            way_out = f"give rank_estimate at most {fits}, or select fewer parameters"
        else:
            way_out = "choose method cg, or select fewer parameters"
        raise OutOfMemory(
            f"{needed} vectors of {size:,} numbers, {needed * size * curvature.dtype.itemsize:,} bytes, that arnoldi "
            f"holds for {rank} eigenpairs, where {curvature.space_bytes:,} may be used",
            way_out,
        )

    def completed(self, fit: Inverse) -> LowRank:
        """With what these parameters say of its use."""
        assert isinstance(fit, LowRank)
        size, rank = fit.eigenvectors.shape
        note = None
        if self.rank_estimate > size:
            note = (
                f"rank_estimate {self.rank_estimate} is more than the {size} parameters: all {rank} eigenpairs "
                "were taken"
            )
        return replace(fit, complement=self.complement, unsolved=self.unsolved, note=note)
