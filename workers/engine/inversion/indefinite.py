"""What a method does where H + λI is not positive definite: how far from it H is, and the λ that would do.

Influence is defined by the inverse of a positive H + λI: elsewhere an answer to the linear system, even an exact one,
is no minimum of anything, and what an iteration comes to is chance.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from workers.engine.errors import SingularHessian
from workers.engine.inversion.lanczos import Ends, ends
from workers.engine.operators import Damped

# Whether negative curvature is an error, or results are kept with a status each.
Unsolved = Literal["fail", "keep"]
# Times the eigenvalue that is to be lifted above 0, as the service's estimate names it.
BEYOND = 1.2
# A damping that works lifts the smallest eigenvalue to this part of the largest.
LIFT = 1e-4
# Rounding of a Rayleigh quotient, in units of eps √p ‖H + λI‖.
ROUNDING = 10.0


def singular(
    smallest: float, damping: float, scale: float, *, bound: bool = False, rounding: str = ""
) -> SingularHessian:
    """The error, given H's smallest eigenvalue, or with `bound` what it is at most, and the size of the largest."""
    needed = max(-BEYOND * smallest, 0.0) + LIFT * (scale or 1.0)
    return SingularHessian(
        smallest + damping, damping, _rounded_up(needed), bound=bound, rounding=rounding
    )


def require_regular(eigenvalues: Tensor, damping: float, dtype: torch.dtype) -> None:
    """Raises SingularHessian where a matrix with these eigenvalues, found in `dtype`, is singular with λ.

    Without λ what is within the rounding is as good as 0; with λ only a negative one counts.
    """
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.abs().max())
    eps = torch.finfo(dtype if damping == 0.0 else torch.float64).eps
    if smallest + damping <= eigenvalues.numel() ** 0.5 * eps * largest:
        raise singular(smallest, damping, largest)


def indefinite(operator: Damped, direction: Tensor, seed: int) -> SingularHessian:
    """The error where conjugate gradients met this direction (p,) of curvature that is not positive.

    The smallest eigenvalue comes from Lanczos steps that begin there.
    """
    found: Ends = ends(operator.curvature, seed, start=direction[None])
    scale = max(abs(found.smallest), abs(found.largest), operator.damping)
    return singular(found.smallest, operator.damping, scale, bound=not found.exact)


def clearly_negative(quotient: float, steepest: float, size: int, dtype: torch.dtype) -> bool:
    """Whether a Rayleigh quotient of H + λI, of this many parameters, is negative beyond its rounding."""
    return quotient < -ROUNDING * torch.finfo(dtype).eps * size**0.5 * abs(steepest)


def _rounded_up(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
