"""How LiSSA went: the relative change of each solution, ‖hₙ − hₙ₋₁‖ / ‖hₙ‖, at some of its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.inversion.stationary import Iterates


def course_steps(maxiter: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, …: the powers of 2, and the middle between two, up to `maxiter`."""
    steps, power = [1], 2
    while power <= maxiter:
        steps += [each for each in (power, power * 3 // 2) if each <= maxiter]
        power *= 2
    return steps


def course_of(found: Iterates, stop: Tensor, maxiter: int) -> Tensor:
    """(k, t) at `course_steps`, from the small space; after a row's `stop` (k,) its last one."""
    marks = torch.tensor(course_steps(maxiter)).to(stop)
    course, last = (_change(*found.norms(steps)) for steps in (marks, stop))  # (t, k), (k, k)
    return torch.where(marks[:, None] <= stop, course, last.diagonal()).T


def _change(norms: Tensor, steps: Tensor) -> Tensor:
    return torch.where(norms > 0, steps / norms, 0.0)
