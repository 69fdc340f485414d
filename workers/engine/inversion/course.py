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
    course = []
    for step in course_steps(maxiter):
        numbers = stop.clamp(max=step)
        h = (found.weights * found.sums(numbers)).norm(dim=1)
        change = (found.weights * found.multipliers ** numbers[:, None]).norm(dim=1)
        course.append(torch.where(h > 0, change / h, 0.0))
    return torch.stack(course, 1)
