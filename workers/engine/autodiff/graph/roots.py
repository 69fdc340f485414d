"""A small positive semidefinite matrix a row as sums of squares, the largest first."""

from __future__ import annotations

import torch
from torch import Tensor


def roots(curvature: Tensor) -> Tensor:
    """R (B, c, c) with S = Σ R[:, i] R[:, i]ᵀ for each S of (B, c, c): pivoted Cholesky.

    Columns of no weight are zero. Where S has negative eigenvalues the sum is only near its positive
    part. Higham, Analysis of the Cholesky decomposition of a semi-definite matrix (1990).
    """
    left, found = curvature.clone(), torch.zeros_like(curvature)
    count, width = curvature.shape[:2]
    every = torch.arange(count, device=curvature.device)
    scale = curvature.diagonal(dim1=1, dim2=2).abs().amax(1)
    rounding = width * torch.finfo(curvature.dtype).eps * scale
    for i in range(width):
        pivot, place = left.diagonal(dim1=1, dim2=2).max(1)
        sound = pivot > rounding
        column = left[every, :, place] / torch.where(sound, pivot, 1.0).sqrt().unsqueeze(1)
        found[:, i] = torch.where(sound.unsqueeze(1), column, 0.0)
        left -= found[:, i].unsqueeze(2) * found[:, i].unsqueeze(1)
    return found
