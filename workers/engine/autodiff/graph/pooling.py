"""Maxima over windows: each keeps one entry of its window, the same for all vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import Direction, Entering, Return


@dataclass
class Picked:
    """Entries of (B, C, *space) picked for (B, C, *windows); values lie channels last."""

    target: str
    sources: tuple[str, ...]
    before: torch.Size
    after: torch.Size
    places: Tensor  # (B, windows, C), each one's place in the space
    delta: Tensor | None = None

    def forward(self, entering: Entering, direction: Direction) -> Tensor | None:
        """See `Part`."""
        tangent = entering[0]
        if tangent is None:
            return None
        flat = tangent.movedim(2, -1).flatten(2, -2)  # (k, B, places, C)
        picked = flat.gather(2, self.places.expand(len(flat), -1, -1, -1))
        return picked.unflatten(2, self.after[2:]).movedim(-1, 2)

    def backward(self, delta: Tensor) -> Sequence[Tensor]:
        """See `Part`."""
        return [self._back(delta.unsqueeze(0)).squeeze(0)]

    def r_backward(self, back: Return) -> Sequence[Tensor | None]:
        """See `Part`."""
        return [self._back(back.signal) if back.wanted else None]

    def _back(self, signal: Tensor) -> Tensor:
        count, space = len(signal), self.before[2:]
        flat = signal.movedim(2, -1).flatten(2, -2)
        found = signal.new_zeros(count, self.before[0], space.numel(), self.before[1])
        found.scatter_add_(2, self.places.expand(count, -1, -1, -1), flat)
        return found.unflatten(2, space).movedim(-1, 2)
