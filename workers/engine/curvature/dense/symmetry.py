"""A matrix made symmetric to the last bit, in place."""

from __future__ import annotations

from torch import Tensor


def symmetrise(matrix: Tensor, width: int) -> Tensor:
    """The mean with its transpose, tile by tile: a transposed copy would be a second Hessian."""
    for first in range(0, len(matrix), width):
        for second in range(0, first + 1, width):
            upper = matrix[second : second + width, first : first + width]
            lower = matrix[first : first + width, second : second + width]
            mean = (upper + lower.T) / 2
            upper.copy_(mean)
            lower.copy_(mean.T)
    return matrix
