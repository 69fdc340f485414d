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

    `x` is in float64, and may be written to. Rows are corrected until they are, or until a round gains too little.
    Of a large model there is no memory for a copy more than is needed.
    """
    norms = torch.full_like(bounds, float("inf"), dtype=torch.float64)
    for rows in torch.split(torch.arange(len(rhs), device=rhs.device), ROWS_AT_ONCE):
        left, step = rows, None
        for rounds in range(MOST_ROUNDS + 1):
            whole = len(left) == len(x)
            tried = x if whole and step is None else x[left]
            if step is not None:
                tried += step
                step = None
            residual = double.matmat(tried).neg_().add_(rhs if whole else rhs[left])
            size, before = torch.linalg.vector_norm(residual, dim=1), norms[left]
            better = size < before
            norms[left[better]] = size[better]
            if whole and bool(better.all()):
                x = tried
            elif tried is not x:
                x[left[better]] = tried[better]
            del tried
            going = (size > bounds[left]) & (size <= WORTHWHILE_GAIN * before)
            if not bool(going.all()):
                left, residual, size = left[going], residual[going], size[going]
            if not len(left) or rounds == MOST_ROUNDS:
                break
            unit = residual.div_(size[:, None]).to(rhs.dtype)
            del residual
            wanted = CORRECTION_MARGIN * float((bounds[left] / size).min())
            step = correct(left, unit, max(wanted, FINEST_CORRECTION)).double().mul_(size[:, None])
    return x, norms
