"""What linear layers and convolutions share: R of a W + b, a row of `inputs` a place."""

from __future__ import annotations

from torch import Tensor


def moved(
    through: Tensor | None, inputs: Tensor, weights: Tensor | None, shift: Tensor | None
) -> Tensor | None:
    """R of the outputs (k, N, out): what came `through` (k, N, out), and is used up, and v's terms.

    `inputs` (N, in) are the same for all vectors; `weights` (k, in, out) and `shift` (k, out) are
    v's. What is None is zero.
    """
    result = through
    if weights is not None:
        if result is None:
            result = inputs @ weights
        else:
            result.baddbmm_(inputs.expand(len(weights), -1, -1), weights)
    if shift is not None:
        along = shift.unsqueeze(1)
        if result is None:
            return along.expand(-1, len(inputs), -1)
        result.add_(along)
    return result
