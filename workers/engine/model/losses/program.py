"""The loss of a model that computes its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workers.engine.errors import ShapeMismatch
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.rows import Targets


@dataclass(frozen=True)
class Program:
    """The model takes inputs and targets and returns the loss of each row itself."""

    def __call__(self, outputs: Any, targets: Targets) -> Tensor:
        losses = one_tensor(outputs)
        if losses.ndim != 1:
            raise ShapeMismatch(
                "losses that the program returns",
                ("B",),
                losses.shape,
                "one number per row",
            )
        return losses

    def check(self, outputs: Any, targets: Targets) -> None:
        """One loss per row of the first target, where there is one."""
        losses = self(outputs, targets)
        first = targets[0] if isinstance(targets, tuple) else targets
        if first is not None and losses.shape[0] != first.shape[0]:
            raise ShapeMismatch("losses that the program returns", first.shape[:1], losses.shape)
