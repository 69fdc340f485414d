"""Solutions in float32 made better by residuals in float64: what float32 alone cannot be asked for.

Moler, Iterative refinement in floating point (1967). Rounding x itself to float32 leaves a residual
of some eps ‖H + λI‖ ‖x‖, so the solution is carried, and handed out, in float64. Every round costs
one product in float64 with the rows that are left; the corrections are solved for in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from workers.engine.errors import EngineError
from workers.engine.operators import Damped

MOST_ROUNDS = 8
# A round that gains less is the last: the corrections are noise.
WORTHWHILE_GAIN = 0.5
# What a correction is solved to: no better than needed, and no better than float32 gives.
FINEST_CORRECTION = 1e-4
CORRECTION_MARGIN = 0.3
ROWS_AT_ONCE = 128

# (numbers of rows (j,), their residuals scaled to norm 1 (j, p), relative tolerance) -> (j, p)
Correct = Callable[[Tensor, Tensor, float], Tensor]


def in_double(operator: Damped) -> Damped | None:
    """The operator in float64, None where it is already, or where it or the device can't."""
    if operator.dtype == torch.float64:
        return None
    with suppress(EngineError, RuntimeError, TypeError):
        double = operator.curvature.in_double()
        if double is not None and double.shape == operator.shape:
            return Damped(double, operator.damping)
    return None


def refine(
    double: Damped, rhs: Tensor, x: Tensor, bounds: Tensor, correct: Correct
) -> tuple[Tensor, Tensor]:
    """x (k, p) in float64 and its residual norms (k,), each within `bounds` (k,) if it can be.

    Rows are corrected until they are, or until a round gains too little.
    """
    fine, norms = x.double(), torch.empty_like(bounds, dtype=torch.float64)
    for rows in torch.split(torch.arange(len(rhs), device=rhs.device), ROWS_AT_ONCE):
        left = rows
        step = torch.zeros_like(fine[left])
        norms[left] = float("inf")
        for rounds in range(MOST_ROUNDS + 1):
            tried = fine[left] + step
            residual = rhs[left].double() - double.matmat(tried)
            size, before = torch.linalg.vector_norm(residual, dim=1), norms[left]
            better = size < before
            fine[left[better]], norms[left[better]] = tried[better], size[better]
            going = (size > bounds[left]) & (size <= WORTHWHILE_GAIN * before)
            left, residual, size = left[going], residual[going], size[going]
            if not len(left) or rounds == MOST_ROUNDS:
                break
            unit = (residual / size[:, None]).to(rhs.dtype)
            wanted = CORRECTION_MARGIN * float((bounds[left] / size).min())
            step = correct(left, unit, max(wanted, FINEST_CORRECTION)).double() * size[:, None]
    return fine, norms
