"""Orthonormal rows that span what given rows span: by Cholesky's factor where that is sound, else Householder's.

Householder's takes three times as long for a few long rows. The factor's rows are orthonormal to eps over the square of
its least pivot (Yamamoto and others, Roundoff error analysis of the CholeskyQR2 algorithm, 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

WELL_APART = 0.05  # least pivot, of rows of norm one


def orthonormal(rows: Tensor, *, overwrite: bool = False) -> Tensor:
    """(w, p) to (w, p); where the rank is not full, the rest is anything. `overwrite`: `rows` are of no use after."""
    # Scaled to one first: residuals differ by orders of magnitude, their directions count.
    size = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    rows = rows.div_(size) if overwrite else rows / size
    if len(rows) == 1:
        return rows
    factor, failed = torch.linalg.cholesky_ex(rows @ rows.T)
    if not int(failed) and float(factor.diagonal().min()) > WELL_APART:
        return torch.linalg.inv(factor) @ rows
    return torch.linalg.qr(rows.T).Q.T.contiguous()
